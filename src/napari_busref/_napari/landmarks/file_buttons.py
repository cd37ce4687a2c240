"""The buttons that open and save landmark files."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QWidget

from napari_busref._napari.layers.trades import current_trade
from napari_busref._napari.widgets.forms import button
from napari_busref.transforms.formats.landmark_files import POINTS, LandmarkStyle

__all__ = ["FileButtons"]

_KINDS: dict[LandmarkStyle, str] = {
    "pixels": "Pixels of both images (*.csv)",
    "bigwarp": "BigWarp (*.csv)",
    "qgis": f"QGIS (*{POINTS})",
}


class FileButtons(QWidget):
    """Two buttons with file dialogs, which offer the kinds of files of the trade.

    Attributes
    ----------
    opened : Signal
        Emitted with the path of a file to open.
    saved : Signal
        Emitted with the path of a file to write, and its style.
    buttons : list of QPushButton
    """

    opened = Signal(str)
    saved = Signal(str, str)

    def __init__(self) -> None:
        super().__init__()
        self.buttons: list[QPushButton] = [
            button("Ope&n…", "Add the landmarks of a file: CSV, BigWarp, QGIS", self._open),
            button("S&ave…", "Save the pairs as CSV, for BigWarp or for QGIS", self._save),
        ]
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for one in self.buttons:
            layout.addWidget(one)

    def _open(self) -> None:
        kinds = ";;".join([*_kinds(), "All files (*)"])
        path, _ = QFileDialog.getOpenFileName(self, "Open landmarks", "", kinds)
        if path:
            self.opened.emit(path)

    def _save(self) -> None:
        kinds = _kinds()
        path, chosen = QFileDialog.getSaveFileName(
            self, "Save landmarks", "landmarks", ";;".join(kinds)
        )
        if path:
            style = kinds.get(chosen, "pixels")
            suffix = POINTS if style == "qgis" else ".csv"
            self.saved.emit(path if Path(path).suffix else path + suffix, style)


def _kinds() -> dict[str, LandmarkStyle]:
    """The kinds of files that occur in the trade, as filters of a file dialog."""
    return {_KINDS[style]: style for style in current_trade().landmark_files}
