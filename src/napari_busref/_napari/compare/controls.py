"""The controls of "Compare" that say how two layers are shown together."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QSpinBox,
    QWidget,
)

from napari_busref._napari.compare.draw import MODES, Options
from napari_busref._napari.widgets.forms import caption, narrow, slider

__all__ = ["ModeControls", "add_row", "chooser"]

_POSITIONS = 1000  # of the slider
_COLOURED = ("checkerboard", "swipe", "blink")  # modes that have colours to spare


class ModeControls(QObject):
    """The chooser of the mode and what belongs to each mode, which is hidden in the others.

    Attributes
    ----------
    mode, direction : magicgui.widgets.ComboBox
    tile, position, rate, sigma, coloured
        Qt controls.
    changed : Signal
        Emitted when the picture has to be drawn anew.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.mode = chooser(
            "mode",
            "How the two layers are shown together",
            [(title, name) for name, title in MODES.items()],
        )
        self.coloured = QCheckBox("Layers in their own &colours")
        self.coloured.setObjectName("coloured")
        self.coloured.setChecked(True)
        self.coloured.setToolTip(
            "On: with the colormap and contrast of each layer. Off: both in grey, each stretched"
        )
        self.tile = QSpinBox()
        self.tile.setRange(0, 4096)
        self.tile.setSingleStep(8)
        self.tile.setSpecialValueText("automatic")
        self.tile.setSuffix(" px")
        self.tile.setToolTip("Side of a square, in pixels of the reference")
        self.position = slider(
            _POSITIONS,
            _POSITIONS // 20,
            _POSITIONS // 200,
            "Where the edge is; it can also be dragged in the picture",
        )
        self.position.setValue(_POSITIONS // 2)
        self.direction = chooser(
            "direction",
            "Which way the edge divides the picture",
            [("left | right", 1), ("top / bottom", 0)],
        )
        self.rate = QDoubleSpinBox()
        self.rate.setRange(0.2, 5.0)  # no more than three flashes a second
        self.rate.setSingleStep(0.2)
        self.rate.setDecimals(1)
        self.rate.setValue(1.6)
        self.rate.setSuffix(" per s")
        self.rate.setToolTip("How many times a second the picture changes")
        self.sigma = QDoubleSpinBox()
        self.sigma.setRange(0.5, 20.0)
        self.sigma.setSingleStep(0.5)
        self.sigma.setDecimals(1)
        self.sigma.setValue(1.5)
        self.sigma.setSuffix(" px")
        self.sigma.setToolTip(
            "How wide the edges are that are looked for, in pixels shown: more leaves out texture"
        )
        self._rows: dict[str, list[tuple[QWidget, ...]]] = {}
        for signal in (
            self.mode.changed,
            self.direction.changed,
            self.coloured.toggled,
            self.tile.valueChanged,
            self.sigma.valueChanged,
        ):
            signal.connect(self._on_change)

    @property
    def options(self) -> Options:
        """What is set."""
        return Options(
            self.mode.value, self.coloured.isChecked(), self.tile.value(), self.sigma.value()
        )

    @property
    def edge(self) -> float:
        """Where the edge of the curtain is, in [0, 1]."""
        return self.position.value() / _POSITIONS

    @edge.setter
    def edge(self, position: float) -> None:
        self.position.setValue(round(position * _POSITIONS))

    def add_to(self, form: QFormLayout) -> None:
        """Add the controls, one a row."""
        add_row(form, "Sh&ow as", self.mode.native)
        for text, control, mode in (
            ("Squar&es", self.tile, "checkerboard"),
            ("&Edge", self.position, "swipe"),
            ("&Direction", self.direction.native, "swipe"),
            ("&Changes", self.rate, "blink"),
            ("Edge &width", self.sigma, "edges"),
        ):
            word = add_row(form, text, control)
            self._rows.setdefault(mode, []).append((word, control))
        self._show()

    def _on_change(self, _: Any = None) -> None:
        self._show()
        self.changed.emit()

    def _show(self) -> None:
        for mode, rows in self._rows.items():
            for row in rows:
                for widget in row:
                    widget.setVisible(mode == self.mode.value)
        self.coloured.setVisible(self.mode.value in _COLOURED)


def add_row(form: QFormLayout, text: str, control: QWidget) -> QLabel:
    """Add a control with a label that is underlined at the letter of its shortcut."""
    word = caption(text, control)
    form.addRow(word, control)
    return word


def chooser(name: str, tooltip: str, choices: Any, **options: Any) -> ComboBox:
    """A chooser that does not make the panel wide."""
    made = ComboBox(name=name, tooltip=tooltip, choices=choices, **options)
    narrow(made)
    return made
