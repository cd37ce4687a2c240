"""The folded part of the panel: a control for each of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, LineEdit
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QWidget

from napari_busref._napari.layers.trades import current_trade
from napari_busref._napari.register.settings import (
    PANEL_OPTIONS,
    PanelOption,
    Preferences,
    Settings,
)
from napari_busref._napari.register.share_slider import ShareSlider
from napari_busref._napari.widgets.forms import (
    Folded,
    button,
    caption_of,
    chooser,
    fill_line,
    form,
)
from napari_busref.images.dtypes import AUTOMATIC

__all__ = ["SettingsForm"]

_OUTPUTS = ("warped", "mask", "fused", "weights", "doubt")


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
    reset_button : QPushButton
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
        self.reset_button = button(
            "Rese&t", "Set all advanced settings to their defaults", self.reset
        )
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
            value = getattr(settings, name)
            if isinstance(control, LineEdit):
                value = AUTOMATIC if value is None else str(value)
            control.value = value
        self._show_state()

    @property
    def different(self) -> frozenset[str]:
        """Names of the settings that are not at their defaults."""
        default = Settings()
        return frozenset(
            name
            for name, control in self.controls.items()
            if control.value != getattr(default, name)
        )

    def reset(self) -> None:
        """Set all settings to their defaults, also in the Preferences."""
        self.settings = Settings()
        self._preferences.save(self.settings)

    def reword(self) -> None:
        """Use the words of another trade."""
        self.controls["task"].reset_choices()
        self._show_state()

    def tab_order(self) -> list[QWidget]:
        """The controls from first to last."""
        controls = [*self.controls.values(), *self._others]
        natives = (control.native for control in controls)
        order = [self.toggleButton(), self.reset_button]
        return [*order, *(native.focusProxy() or native for native in natives)]

    def set_stack(self, stack: bool) -> None:
        """Enable the settings of stacks or disable them."""
        self._stack = stack
        self._show_state()

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
        others = ((other.label, other.native) for other in self._others)
        return form(("", self.reset_button), *rows, *others)

    def _on_changed(self, _: Any = None) -> None:
        self._show_state()
        self.changed.emit()

    def _on_user(self, _: Any = None) -> None:
        self._preferences.save(self.settings)

    def _on_preferences(self, _: Any = None) -> None:
        self.settings = self._preferences.load()

    def _show_state(self) -> None:
        """Mark the changed settings, and grey or hide those without effect."""
        different = self.different
        self.note(f"{len(different)} changed" if different else "")
        self.reset_button.setEnabled(bool(different))
        for name, control in self.controls.items():
            output = name in _OUTPUTS
            marked = control.native if output else caption_of(control.native)
            font = marked.font()
            font.setBold(name in different)
            marked.setFont(font)
        self._show_unused()
        self._hide_other_tasks()

    def _hide_other_tasks(self) -> None:
        """Hide the tasks that do not occur in the trade, and the chooser when one is left."""
        box, tasks = self.controls["task"].native, current_trade().tasks
        listed = [box.itemData(row) for row in range(box.count())]
        for row, task in enumerate(listed):
            box.view().setRowHidden(row, task not in tasks and task != box.currentData())
        shown = len(tasks) > 1 or self.settings.task not in tasks
        for widget in (box, caption_of(box)):
            widget.setVisible(shown)

    def _show_unused(self) -> None:
        unused = self.settings.unused
        if not self._stack:
            unused |= {"planes"}
        for name, control in self.controls.items():
            control.enabled = name not in unused
            if name not in _OUTPUTS:
                caption_of(control.native).setEnabled(name not in unused)


def _control(option: PanelOption) -> ComboBox | CheckBox | LineEdit | ShareSlider:
    if option.ends is not None:
        made = ShareSlider(option.name, option.ends, option.tooltip)
        made.slider.setAccessibleName(option.label)
        return made
    if option.number:
        return fill_line(option.name, option.tooltip)
    if option.choices is None:
        text = option.label if option.name in _OUTPUTS else "drawn"  # others have a caption
        return CheckBox(name=option.name, text=text, tooltip=option.tooltip)
    choices = option.choices

    def offered(_: Any) -> Any:  # reset_choices calls it again: the user may train a model
        return choices()

    return chooser(option.name, option.tooltip, offered)


def _user_signal(control: ComboBox | CheckBox | LineEdit | ShareSlider) -> Any:
    """The signal of a control that the user emits, and scripts do not."""
    if isinstance(control, ShareSlider):
        return control.chosen
    if isinstance(control, LineEdit):
        return control.native.editingFinished
    return control.native.clicked if isinstance(control, CheckBox) else control.native.activated
