"""The table of landmark pairs in the panel "Landmarks"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor, QFont, QKeySequence, QShortcut
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_busref._napari.landmarks.pairs import LandmarkPairs, colour_of
from napari_busref.transforms.landmarks import LandmarkFit

__all__ = ["PairsTable"]

_COLUMNS = ("no.", "{fixed}", "{moving}", "residual", "left out")
_WORST_COLOUR = "#d64545"


class PairsTable(QTableWidget):
    """Lists landmark pairs and their residuals; the worst one is red.

    Parameters
    ----------
    parent : QWidget, optional

    Attributes
    ----------
    row_chosen : Signal
        Emitted with the number of a landmark when the user selects its row.
    delete_pressed : Signal
        Emitted when the user presses the Delete key in the table.
    """

    row_chosen = Signal(int)
    delete_pressed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_COLUMNS), parent)
        self._numbers: list[int] = []  # of the landmark in each row
        self._filling = False
        self.setObjectName("pairs")
        self.setAccessibleName("landmark pairs")
        self.setHorizontalHeaderLabels(_COLUMNS)
        self.setToolTip(
            "Positions in (row, col). residual: distance between the fit and the pair.\n"
            "left out: the same for a fit to all other pairs; the residuals of a thin plate are 0."
            "\nBoth in pixels of the {fixed_image}. Delete removes the selected pairs"
        )
        vertical, header = self.verticalHeader(), self.horizontalHeader()
        assert vertical is not None and header is not None  # a table has both
        vertical.hide()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.setMinimumHeight(160)
        self.itemSelectionChanged.connect(self._row_selected)
        delete = QShortcut(QKeySequence(QKeySequence.StandardKey.Delete), self)
        delete.setContext(Qt.ShortcutContext.WidgetShortcut)
        delete.activated.connect(self.delete_pressed)

    def selected(self) -> list[int]:
        """Numbers of the selected landmarks."""
        return [self._numbers[row] for row in sorted({at.row() for at in self.selectedIndexes()})]

    def fill(
        self, pairs: LandmarkPairs | None, fit: LandmarkFit | None, fitted: Sequence[int]
    ) -> None:
        """Show landmarks and their residuals.

        Parameters
        ----------
        pairs : LandmarkPairs or None
        fit : LandmarkFit or None
        fitted : sequence of int
            Numbers of the pairs that `fit` used.
        """
        selected = self.selected()
        self._numbers = [] if pairs is None else pairs.all_numbers()
        self._filling = True
        try:
            self.setRowCount(len(self._numbers))
            for row, number in enumerate(self._numbers):
                if pairs is not None:
                    self._fill_row(row, number, pairs, fit, fitted)
                if number in selected:
                    self.selectRow(row)
        finally:
            self._filling = False

    def _fill_row(
        self,
        row: int,
        number: int,
        pairs: LandmarkPairs,
        fit: LandmarkFit | None,
        fitted: Sequence[int],
    ) -> None:
        texts = [str(number)]
        for side in pairs.images:
            position = pairs.position(side, number)
            texts.append("–" if position is None else _formatted(position))
        errors = [np.nan, np.nan]
        if fit is not None and number in fitted:
            index = fitted.index(number)
            errors = [fit.residuals[index], fit.leave_one_out[index]]
        texts += ["" if np.isnan(error) else f"{error:.2f}" for error in errors]
        worst = fit is not None and fit.worst is not None and number == fitted[fit.worst]
        if worst:
            texts[0] = f"⚠ {number}"
        for column, text in enumerate(texts):
            item = QTableWidgetItem(text)
            item.setTextAlignment(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight)
            if column == 0:
                item.setBackground(QBrush(QColor(colour_of(number))))
                item.setForeground(QBrush(QColor("black")))
                font = QFont()
                font.setBold(True)
                item.setFont(font)
            elif worst:
                item.setBackground(QBrush(QColor(_WORST_COLOUR)))
                item.setForeground(QBrush(QColor("white")))
            if worst:
                item.setToolTip("This pair agrees least with the others: check it")
            self.setItem(row, column, item)

    def _row_selected(self) -> None:
        selected = self.selected()
        if not self._filling and len(selected) == 1:
            self.row_chosen.emit(selected[0])


def _formatted(position: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.0f}" for value in position)
