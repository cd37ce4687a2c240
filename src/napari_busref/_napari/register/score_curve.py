"""The scores of the planes of a stack, to see and to click."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QPointF, QRectF, QSize, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["ScoreCurve"]

_HEIGHT, _LEAST = 48, 2.0  # px, of the plot and of a bar


class ScoreCurve(QWidget):
    """Draws a bar for the score of each plane, in order; a click chooses a plane.

    Doubtful planes are orange. Planes without a result have a short red bar.

    Attributes
    ----------
    chosen : Signal
        Emitted with the number of a bar, from 0.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._bars: list[tuple[float, str]] = []
        self._shown: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Scores of the planes")
        self.setToolTip("The score of each plane. Click to see a plane")

    def draw(self, bars: Sequence[tuple[float, str]], shown: int | None) -> None:
        """Show scores in [0, 1] with their colours, and mark the shown plane."""
        self._bars, self._shown = list(bars), shown
        self.setVisible(len(self._bars) > 1)
        self.update()

    def sizeHint(self) -> QSize:
        """Wide and low."""
        return QSize(200, _HEIGHT)

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Choose the plane below the mouse."""
        if event is not None and self._bars:
            number = int(event.pos().x() * len(self._bars) / max(self.width(), 1))
            self.chosen.emit(min(max(number, 0), len(self._bars) - 1))

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the bars, and a line above the shown plane."""
        painter = QPainter(self)
        step = self.width() / max(len(self._bars), 1)
        for number, (score, colour) in enumerate(self._bars):
            height = max(score * (_HEIGHT - 4), _LEAST)
            bar = QRectF(number * step, _HEIGHT - height, max(0.8 * step, 1.0), height)
            painter.fillRect(bar, QColor(colour))
        if self._shown is not None:
            painter.setPen(QPen(self.palette().color(QPalette.ColorRole.WindowText), 2))
            left = self._shown * step
            painter.drawLine(QPointF(left, 1), QPointF(left + max(0.8 * step, 2.0), 1))
        painter.end()
