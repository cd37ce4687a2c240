"""A slider for a number in [0, 1], with labelled ends."""

from __future__ import annotations

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QSlider, QWidget

from napari_busref._napari.widgets.forms import slider

__all__ = ["ShareSlider"]

_STEPS = 20


class ShareSlider(QObject):
    """A slider with the interface of a magicgui widget; those have no keyboard control.

    Parameters
    ----------
    name : str
    ends : (str, str)
        Meanings of 0 and 1.
    tooltip : str

    Attributes
    ----------
    native : QWidget
        For a layout.
    slider : QSlider
        Takes the keyboard focus.
    changed : Signal
        Emitted with every new value.
    chosen : Signal
        Emitted when the user has changed it.
    """

    changed = Signal(float)
    chosen = Signal()

    def __init__(self, name: str, ends: tuple[str, str], tooltip: str) -> None:
        super().__init__()
        self.tooltip = tooltip
        self.slider = slider(_STEPS, _STEPS // 4, 1, tooltip)
        self.slider.setTickPosition(QSlider.TickPosition.TicksBelow)
        self.slider.setTickInterval(_STEPS // 2)
        self.slider.setAccessibleName(name)
        self.native = QWidget()
        self.native.setObjectName(name)
        self.native.setFocusProxy(self.slider)
        self.native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.native.setToolTip(tooltip)
        layout = QGridLayout(self.native)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(0)
        layout.addWidget(self.slider, 0, 0, 1, 2)
        for column, (text, side) in enumerate(
            zip(ends, (Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight), strict=True)
        ):
            label = QLabel(text)
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            layout.addWidget(label, 1, column)
            label.setAlignment(side)
        self._by_user = False
        self.slider.actionTriggered.connect(self._act)
        self.slider.valueChanged.connect(self._change)

    @property
    def value(self) -> float:
        """The number, in [0, 1]."""
        return self.slider.value() / _STEPS

    @value.setter
    def value(self, value: float) -> None:
        self.slider.setValue(round(value * _STEPS))

    @property
    def enabled(self) -> bool:
        """Whether the slider can be moved."""
        return bool(self.native.isEnabled())

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self.native.setEnabled(enabled)

    def _act(self, _: int) -> None:
        # Qt emits this signal before it sets the value
        self._by_user = self.slider.sliderPosition() != self.slider.value()

    def _change(self, _: int) -> None:
        by_user, self._by_user = self._by_user, False
        self.changed.emit(self.value)
        if by_user:
            self.chosen.emit()
