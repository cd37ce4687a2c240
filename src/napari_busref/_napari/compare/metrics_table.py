"""The table of metrics in "Compare"."""

from __future__ import annotations

import math

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_busref._napari.compare.metrics import Measured
from napari_busref.metrics.alignment import ALIGNMENT_METRICS

__all__ = ["MetricsTable"]

_COLUMNS = ("metric", "before", "after", "change")
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
        self._header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self._header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setToolTip("Point at a row to read what its metric means")
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
            metric = ALIGNMENT_METRICS[name]
            row = self.rowCount()
            self.insertRow(row)
            better = "higher" if metric.higher_is_better else "lower"
            cells = (
                metric.title,
                _formatted(measured.before.get(name)),
                _formatted(measured.after[name]),
                _CHANGES[measured.better(name)],
            )
            for column, text in enumerate(cells):
                item = QTableWidgetItem(text)
                item.setToolTip(f"{metric.meaning} The {better}, the better.")
                if column in (1, 2):
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                self.setItem(row, column, item)
        self.resizeRowsToContents()
        rows = sum(self.rowHeight(row) for row in range(self.rowCount()))
        self.setFixedHeight(rows + self._header.sizeHint().height() + 4)


def _formatted(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e-4:
        return f"{value:.1e}" if value else "0"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:#.3g}"  # 1.00 and not 1
