"""The folded part of the panel: a control for each of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magicgui.widgets import CheckBox, ComboBox
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QWidget

from napari_busref._napari.register.settings import (
    PANEL_OPTIONS,
    PanelOption,
    Preferences,
    Settings,
)
from napari_busref._napari.register.share_slider import ShareSlider
from napari_busref._napari.widgets.forms import Folded, caption_of, chooser, form

__all__ = ["SettingsForm"]

_OUTPUTS = ("warped", "mask", "fused", "weights")


class SettingsForm(Folded):
    """Advanced settings, folded away at first.

    napari's Preferences remember what the user changes here, and changes there show here. What a
    script sets holds for this panel only.

    Parameters
    ----------
    others : sequence of magicgui widgets
        Choosers to show here too, which are not remembered; the form reads ``label``.
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
        self._preferences = Preferences()
        self.controls: dict[str, Any] = {option.name: _control(option) for option in PANEL_OPTIONS}
        self._others = list(others)
        self._stack = True
        self.fill(self._form())
        self.settings = self._preferences.load()
        for control in self.controls.values():
            control.changed.connect(self._on_changed)
            _user_signal(control).connect(self._on_user)
        self._preferences.connect(self._on_preferences)
        preferences, callback = self._preferences, self._on_preferences
        self.destroyed.connect(lambda: preferences.disconnect(callback))

    @property
    def settings(self) -> Settings:
        """The chosen settings."""
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
        """Enable the settings of stacks or disable them."""
        self._stack = stack
        self._show_unused()

    def _form(self) -> QWidget:
        outputs = QWidget()
        outputs.setToolTip("The layers that a run adds")
        grid = QGridLayout(outputs)
        grid.setContentsMargins(0, 0, 0, 0)
        for index, name in enumerate(_OUTPUTS):
            grid.addWidget(self.controls[name].native, index // 2, index % 2)
        rows = [
            ("Outputs", outputs)
            if option.name == _OUTPUTS[0]
            else (option.label, self.controls[option.name].native)
            for option in PANEL_OPTIONS
            if option.name not in _OUTPUTS[1:]
        ]
        return form(*rows, *((other.label, other.native) for other in self._others))

    def _on_changed(self, _: Any = None) -> None:
        self._show_unused()
        self.changed.emit()

    def _on_user(self, _: Any = None) -> None:
        self._preferences.save(self.settings)

    def _on_preferences(self, _: Any = None) -> None:
        self.settings = self._preferences.load()

    def _show_unused(self) -> None:
        unused = self.settings.unused
        if not self._stack:
            unused |= {"planes"}
        for name, control in self.controls.items():
            control.enabled = name not in unused
            if name not in _OUTPUTS:
                caption_of(control.native).setEnabled(name not in unused)


def _control(option: PanelOption) -> ComboBox | CheckBox | ShareSlider:
    if option.ends is not None:
        return ShareSlider(option.name, option.ends, option.tooltip)
    if option.choices is None:
        return CheckBox(name=option.name, text=option.label, tooltip=option.tooltip)
    choices = option.choices

    def offered(_: Any) -> Any:  # reset_choices calls it again: the user may train a model
        return choices()

    return chooser(option.name, option.tooltip, offered)


def _user_signal(control: ComboBox | CheckBox | ShareSlider) -> Any:
    """The signal of a control that the user emits, and scripts do not."""
    if isinstance(control, ShareSlider):
        return control.chosen
    return control.native.clicked if isinstance(control, CheckBox) else control.native.activated
