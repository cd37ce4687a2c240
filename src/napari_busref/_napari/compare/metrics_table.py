"""The table of metrics in "Compare"."""

from __future__ import annotations

import math
from typing import Any

from qtpy.QtCore import QRect, Qt
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_busref._napari.compare.metrics import Measured
from napari_busref.metrics.alignment import ALIGNMENT_METRICS

__all__ = ["MetricsTable"]

_COLUMNS = ("metric", "before", "after", "change")
_PADDING = 8
_WRAP = int(Qt.TextFlag.TextWordWrap)
_CHANGES = {True: "better", False: "worse", None: ""}


class MetricsTable(QTableWidget):
    """Shows the metrics before and after registration.

    Parameters
    ----------
    parent : QWidget, optional
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_COLUMNS), parent)
        self.setObjectName("metrics")
        self.setHorizontalHeaderLabels(_COLUMNS)
        rows, header = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None and header is not None
        self._header = header
        rows.hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)  # Tab leaves the table, the arrow keys move in it
        # numbers are never cut; the names wrap
        self._header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self._header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setToolTip("What each metric means stands below it")
        self.setAccessibleName("metrics before and after")
        self.measured: Measured | None = None
        self.hide()

    def show_measured(self, measured: Measured | None) -> None:
        """Fill the table; None empties it."""
        self.measured = measured
        self.setVisible(measured is not None)
        self.setRowCount(0)
        if measured is None:
            return
        for name in (name for name in ALIGNMENT_METRICS if name in measured.after):
            self._add(name, measured)
        self._fit_rows()

    def resizeEvent(self, event: Any) -> None:
        """Wrap the texts again; called by Qt."""
        super().resizeEvent(event)
        self._fit_rows()

    def _add(self, name: str, measured: Measured) -> None:
        """Add a row of numbers, and a row below it that explains them."""
        metric, row = ALIGNMENT_METRICS[name], self.rowCount()
        self.setRowCount(row + 2)
        meaning = f"{metric.meaning} {'Higher' if metric.higher_is_better else 'Lower'} is better."
        cells = (
            metric.title,
            _formatted(measured.before.get(name)),
            _formatted(measured.after[name]),
            _CHANGES[measured.better(name)],
        )
        for column, text in enumerate(cells):
            item = QTableWidgetItem(text)
            item.setToolTip(meaning)
            if column in (1, 2):
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.setItem(row, column, item)
        explanation = QTableWidgetItem(meaning)
        explanation.setToolTip(meaning)
        font = explanation.font()
        font.setItalic(True)
        explanation.setFont(font)
        self.setItem(row + 1, 0, explanation)
        self.setSpan(row + 1, 0, 1, len(_COLUMNS))

    def _fit_rows(self) -> None:
        """Make every row as high as its wrapped text, and the table as high as its rows."""
        width = sum(self.columnWidth(column) for column in range(len(_COLUMNS)))
        self.resizeRowsToContents()
        for row in range(1, self.rowCount(), 2):  # Qt does not wrap at the width of a span
            item = self.item(row, 0)
            if item is not None:
                box = QFontMetrics(item.font()).boundingRect(
                    QRect(0, 0, width - _PADDING, 1000), _WRAP, item.text()
                )
                self.setRowHeight(row, box.height() + _PADDING)
        rows = sum(self.rowHeight(row) for row in range(self.rowCount()))
        self.setFixedHeight(rows + self._header.sizeHint().height() + 4)


def _formatted(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e-4:
        return f"{value:.1e}" if value else "0"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:#.3g}"  # 1.00 and not 1
