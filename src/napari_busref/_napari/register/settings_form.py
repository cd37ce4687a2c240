"""The folded part of the panel: a control for each of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magicgui.widgets import CheckBox, ComboBox
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QGridLayout, QLabel, QWidget

from napari_busref._napari.register.settings import OPTIONS, Option, Remembered, Settings
from napari_busref._napari.register.share_slider import ShareSlider
from napari_busref._napari.widgets.forms import Folded, caption, narrow

__all__ = ["SettingsForm"]

_OUTPUTS = ("warped", "mask", "fused", "weights")


class SettingsForm(Folded):
    """Advanced settings, folded away at first.

    What the user changes is remembered in napari's Preferences, and what is changed there shows
    here. What a script sets holds for this panel only.

    Parameters
    ----------
    others : sequence of magicgui widgets
        Choosers that are shown here too and not remembered; ``label`` and ``tooltip`` are read.
    parent : QWidget, optional

    Attributes
    ----------
    controls : dict of str to magicgui widget
        By name of the setting; read and set ``value``.
    changed : Signal
        Emitted when any value has changed.
    """

    changed = Signal()

    def __init__(self, others: Sequence[Any] = (), parent: QWidget | None = None) -> None:
        super().__init__(
            "&Advanced settings",
            "Models, search, refinement, fusion, device and outputs.\n"
            "Remembered in File › Preferences",
            parent,
        )
        self._remembered = Remembered()
        self.controls: dict[str, Any] = {option.name: _control(option) for option in OPTIONS}
        self._labels: dict[str, QLabel] = {}
        self._others = list(others)
        self._stack = True
        self.fill(self._form())
        self.settings = self._remembered.load()
        for control in self.controls.values():
            control.changed.connect(self._on_changed)
            _by_user(control).connect(self._on_user)
        self._remembered.connect(self._on_preferences)
        remembered, callback = self._remembered, self._on_preferences
        self.destroyed.connect(lambda: remembered.disconnect(callback))

    @property
    def settings(self) -> Settings:
        """What is chosen."""
        return Settings(**{name: control.value for name, control in self.controls.items()})

    @settings.setter
    def settings(self, settings: Settings) -> None:
        for name, control in self.controls.items():
            control.value = getattr(settings, name)
        self._show_unused()

    def tab_order(self) -> list[QWidget]:
        """The controls from first to last."""
        controls = [*self.controls.values(), *self._others]
        natives = (control.native for control in controls)
        return [self.toggleButton(), *(native.focusProxy() or native for native in natives)]

    def set_stack(self, stack: bool) -> None:
        """Say whether one of the chosen layers is a stack."""
        self._stack = stack
        self._show_unused()

    def _form(self) -> QWidget:
        form = QWidget()
        layout = QFormLayout(form)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        grid = QGridLayout()
        for index, name in enumerate(_OUTPUTS):
            grid.addWidget(self.controls[name].native, index // 2, index % 2)
        for option in OPTIONS:
            if option.name == _OUTPUTS[0]:
                label = QLabel("Outputs")
                label.setToolTip("The layers that a run adds")
                layout.addRow(label, grid)
            elif option.name not in _OUTPUTS:
                control = self.controls[option.name]
                self._labels[option.name] = _add_row(layout, option.label, control)
        for other in self._others:
            _add_row(layout, other.label, other)
        return form

    def _on_changed(self, _: Any = None) -> None:
        self._show_unused()
        self.changed.emit()

    def _on_user(self, _: Any = None) -> None:
        self._remembered.keep(self.settings)

    def _on_preferences(self, _: Any = None) -> None:
        self.settings = self._remembered.load()

    def _show_unused(self) -> None:
        unused = self.settings.unused
        if not self._stack:
            unused |= {"planes"}
        for name, control in self.controls.items():
            control.enabled = name not in unused
            if name in self._labels:
                self._labels[name].setEnabled(name not in unused)


def _add_row(layout: QFormLayout, text: str, control: Any) -> QLabel:
    label = caption(text, control.native)
    layout.addRow(label, control.native)
    return label


def _control(option: Option) -> ComboBox | CheckBox | ShareSlider:
    if option.ends is not None:
        return ShareSlider(option.name, option.ends, option.tooltip)
    if option.choices is None:
        return CheckBox(name=option.name, text=option.label, tooltip=option.tooltip)
    choices = option.choices

    def offered(_: Any) -> Any:  # asked again by reset_choices: the user may train a model
        return choices()

    chooser = ComboBox(name=option.name, choices=offered, tooltip=option.tooltip)
    narrow(chooser)
    return chooser


def _by_user(control: ComboBox | CheckBox | ShareSlider) -> Any:
    """The signal of a control that says that the user, and no script, has changed it."""
    if isinstance(control, ShareSlider):
        return control.chosen
    return control.native.clicked if isinstance(control, CheckBox) else control.native.activated
