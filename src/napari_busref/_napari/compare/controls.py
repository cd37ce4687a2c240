"""The controls of "Compare" that choose how two layers are drawn together."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QCheckBox, QWidget

from napari_busref._napari.compare.draw import MODE_TITLES, DrawOptions
from napari_busref._napari.widgets.forms import caption_of, chooser, decimal, slider, whole

__all__ = ["ModeControls"]

_SLIDER_STEPS = 1000
_COLOURED_MODES = ("checkerboard", "swipe", "blink")  # the others need the colours themselves


class ModeControls(QObject):
    """The chooser of the mode and the controls of each mode, hidden in the other modes.

    Attributes
    ----------
    mode, direction : magicgui.widgets.ComboBox
    tile, position, rate, sigma, coloured
        Qt controls.
    changed : Signal
        Emitted when the picture must be drawn again.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.mode = chooser(
            "mode",
            "How the two layers are drawn together",
            [(title, name) for name, title in MODE_TITLES.items()],
        )
        self.coloured = QCheckBox("La&yers in their own colours")
        self.coloured.setObjectName("coloured")
        self.coloured.setChecked(True)
        self.coloured.setToolTip(
            "On: with the colormap and contrast of each layer. Off: both in grey, each stretched"
        )
        self.tile = whole(
            0, 4096, 0, "Side of a square, in pixels of the {fixed} layer", "automatic"
        )
        self.tile.setSingleStep(8)
        self.tile.setSuffix(" px")
        self.position = slider(
            _SLIDER_STEPS,
            _SLIDER_STEPS // 20,
            _SLIDER_STEPS // 200,
            "Position of the divider; it can also be dragged in the picture",
        )
        self.position.setValue(_SLIDER_STEPS // 2)
        self.direction = chooser(
            "direction",
            "Whether the divider separates left from right or top from bottom",
            [("left | right", 1), ("top / bottom", 0)],
        )
        # more than three flashes a second can trigger seizures: 5 changes are 2.5 flashes
        self.rate = decimal(
            0.2, 5.0, 0.2, 1.6, "Changes of the picture per second", suffix=" per s"
        )
        self.sigma = decimal(
            0.5,
            20.0,
            0.5,
            1.5,
            "Width of the edges to draw, in pixels shown: a larger width leaves out texture",
            suffix=" px",
        )
        self._rows: tuple[tuple[str, QWidget, str], ...] = (  # caption, control and mode
            ("S&quares", self.tile, "checkerboard"),
            ("&Divider", self.position, "swipe"),
            ("Directio&n", self.direction.native, "swipe"),
            ("Chan&ges", self.rate, "blink"),
            ("Edge wid&th", self.sigma, "edges"),
        )
        for signal in (
            self.mode.changed,
            self.direction.changed,
            self.coloured.toggled,
            self.tile.valueChanged,
            self.sigma.valueChanged,
        ):
            signal.connect(self._on_change)

    @property
    def options(self) -> DrawOptions:
        """The current settings."""
        return DrawOptions(
            self.mode.value, self.coloured.isChecked(), self.tile.value(), self.sigma.value()
        )

    @property
    def divider(self) -> float:
        """Position of the divider of a swipe, in [0, 1]."""
        return self.position.value() / _SLIDER_STEPS

    @divider.setter
    def divider(self, position: float) -> None:
        self.position.setValue(round(position * _SLIDER_STEPS))

    def rows(self) -> list[tuple[str, QWidget]]:
        """Captions and controls, for a form; call `show_rows` once they are in it."""
        rows = [(text, control) for text, control, _ in self._rows]
        return [("Sh&ow as", self.mode.native), *rows]

    def show_rows(self) -> None:
        """Show the controls of the chosen mode."""
        for _, control, mode in self._rows:
            for widget in (control, caption_of(control)):
                widget.setVisible(mode == self.mode.value)
        self.coloured.setVisible(self.mode.value in _COLOURED_MODES)

    def _on_change(self, _: Any = None) -> None:
        self.show_rows()
        self.changed.emit()
