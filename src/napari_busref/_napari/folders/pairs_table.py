"""The table of pairs in the panel "Register folders"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_busref._napari.layers.trades import in_trade

__all__ = ["PairRowsTable"]

_COLUMNS = ("pair", "status", "score")
_SIGNS = {"ok": "✓ ok", "doubtful": "⚠ check", "failed": "✗ failed"}


class PairRowsTable(QTableWidget):
    """Lists pairs with their status and score; the reasons for doubt are tooltips.

    Parameters
    ----------
    parent : QWidget, optional

    Attributes
    ----------
    opened : Signal
        Emitted with the number of a row on a double click, or Enter.
    """

    opened = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_COLUMNS), parent)
        self.setObjectName("pairs")
        self.setAccessibleName("pairs of the folders")
        self.setHorizontalHeaderLabels(_COLUMNS)
        self.setToolTip("Each pair once it is done. Point at a row to read why it is doubtful")
        rows, header = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None and header is not None  # a table has both
        rows.hide()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # names differ at both ends
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.setMinimumHeight(140)
        self.cellDoubleClicked.connect(lambda row, _: self.opened.emit(row))
        enter = QShortcut(QKeySequence("Return"), self)
        enter.setContext(Qt.ShortcutContext.WidgetShortcut)
        enter.activated.connect(lambda: self.opened.emit(self.currentRow()))

    def fill(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Show rows of the summary, see `napari_busref.batch.run.process_rows`."""
        self.setRowCount(len(rows))
        for number, row in enumerate(rows):
            score = row.get("score", "")
            texts = (row["name"], _SIGNS[row["status"]], f"{float(score):.2f}" if score else "")
            why = in_trade(row.get("message", ""))
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setToolTip(f"{row['name']}\n{why}" if why else row["name"])
                self.setItem(number, column, item)
