"""The button with which a panel takes its last run back."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_busref._napari.layers.undo import Undo

__all__ = ["UNDONE", "UndoButton"]

#: What a panel says afterwards.
UNDONE = "undone: the layers are as they were before"


class UndoButton(QPushButton):
    """Takes back what it was last given, once.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``.
    tooltip : str

    Attributes
    ----------
    undone : Signal
        Emitted when the layers are as they were before.
    failed : Signal
        Emitted with the exception when that could not be done.
    """

    undone = Signal()
    failed = Signal(object)

    def __init__(self, layers: MutableSequence[Layer], tooltip: str) -> None:
        super().__init__("&Undo")
        self.setObjectName("undo")
        self.setToolTip(tooltip)
        self._layers = layers
        self.keep(None)
        self.clicked.connect(self.restore)

    def keep(self, undo: Undo | None) -> None:
        """Take this back when pressed; None: nothing."""
        self._undo = undo
        self.setEnabled(undo is not None)

    def restore(self) -> bool:
        """Put the layers back to where they were; False when there is nothing to take back."""
        if self._undo is None:
            return False
        undo = self._undo
        self.keep(None)
        try:
            undo.restore(self._layers)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self.failed.emit(error)
            return False
        self.undone.emit()
        return True
