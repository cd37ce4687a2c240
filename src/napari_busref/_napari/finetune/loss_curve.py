"""A small plot of a training: its loss, and its score on held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["LossCurve", "smoothed"]

_LOSS_COLOUR, _SCORE_COLOUR = QColor("#4c9be8"), QColor("#e3a008")
_SMOOTHING = 0.9  # weight of the previous steps in the running mean
_MAX_POINTS = 2000  # of the loss, to draw

Point = tuple[int, float]


def smoothed(values: Sequence[float], smoothing: float = _SMOOTHING) -> list[float]:
    """Exponential running mean, without a bias towards 0 at the start."""
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total = smoothing * total + value
        weight = smoothing * weight + 1
        result.append(total / weight)
    return result


class LossCurve(QWidget):
    """Draws the loss of every step, its running mean, and the score on the held-out pairs.

    Loss and score have separate scales. Their latest values stand above the plot.

    Parameters
    ----------
    parent : QWidget, optional
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.losses: list[Point] = []
        self.scores: list[Point] = []
        self._steps, self._score_name = 1, ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Loss curve")

    def begin(self, steps: int, score_name: str, losses: Iterable[Point] = ()) -> None:
        """Start a new plot.

        Parameters
        ----------
        steps : int
            Total steps of the training, the width of the plot.
        score_name : str
            Name of the score that `add_score` adds.
        losses : iterable of (step, loss)
            Logged before a resumed training was stopped.
        """
        self._steps, self._score_name = max(steps, 1), score_name
        self.losses, self.scores = list(losses), []
        self.update()

    def add_loss(self, step: int, value: float) -> None:
        """Add the loss of a step."""
        self.losses.append((step, value))
        self.update()

    def add_score(self, step: int, value: float) -> None:
        """Add the score after a step."""
        self.scores.append((step, value))
        self.update()

    def sizeHint(self) -> QSize:
        """Wide and low."""
        return QSize(260, 130)

    def minimumSizeHint(self) -> QSize:
        """As high as the size hint."""
        return QSize(120, 130)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the plot, at most a few thousand points."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().color(QPalette.ColorRole.WindowText)
        line = painter.fontMetrics().height()
        area = QRectF(self.rect()).adjusted(4, line + 4, -4, -line - 2)
        faint = QColor(text)
        faint.setAlpha(70)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(area)
        painter.setPen(text)
        foot = QRectF(area.left(), area.bottom() + 1, area.width(), line)
        painter.drawText(foot, Qt.AlignmentFlag.AlignLeft, "step 0")
        painter.drawText(foot, Qt.AlignmentFlag.AlignRight, str(self._steps))
        self._draw_losses(painter, area)
        self._draw_scores(painter, area)
        painter.end()

    def _draw_losses(self, painter: QPainter, area: QRectF) -> None:
        points = [(step, value) for step, value in self.losses if math.isfinite(value)]
        if not points:
            return
        stride = -(-len(points) // _MAX_POINTS)
        means = smoothed([value for _, value in points])
        drawn, drawn_means = points[::stride], means[::stride]
        low, high = _range([value for _, value in drawn])
        faint = QColor(_LOSS_COLOUR)
        faint.setAlpha(110)
        painter.setPen(QPen(faint, 1))
        painter.drawPolyline(self._polygon(drawn, area, low, high))
        painter.setPen(QPen(_LOSS_COLOUR, 2))
        mean_points = [(step, mean) for (step, _), mean in zip(drawn, drawn_means, strict=True)]
        painter.drawPolyline(self._polygon(mean_points, area, low, high))
        head = QRectF(area.left(), 0, area.width(), area.top() - 2)
        painter.drawText(head, Qt.AlignmentFlag.AlignLeft, f"loss {means[-1]:.3g}")

    def _draw_scores(self, painter: QPainter, area: QRectF) -> None:
        points = [(step, value) for step, value in self.scores if math.isfinite(value)]
        if not points:
            return
        low, high = _range([value for _, value in points])
        polygon = self._polygon(points, area, low, high)
        painter.setPen(QPen(_SCORE_COLOUR, 1.5))
        painter.drawPolyline(polygon)
        painter.setBrush(_SCORE_COLOUR)
        for index in range(len(points)):
            painter.drawEllipse(polygon[index], 3, 3)
        head = QRectF(area.left(), 0, area.width(), area.top() - 2)
        values = " → ".join(f"{value:.3g}" for _, value in dict(points[:1] + points[-1:]).items())
        painter.drawText(head, Qt.AlignmentFlag.AlignRight, f"{self._score_name} {values}")

    def _polygon(
        self, points: Sequence[Point], area: QRectF, low: float, high: float
    ) -> QPolygonF:
        return QPolygonF(
            [
                QPointF(
                    area.left() + area.width() * step / self._steps,
                    area.bottom() - area.height() * (value - low) / (high - low),
                )
                for step, value in points
            ]
        )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or max(abs(low), 1e-6) * 0.1
    return low - margin, high + margin
