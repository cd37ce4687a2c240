"""A chooser of layers that shows both ends of long names."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QComboBox, QStyle, QStyleOptionComboBox, QStylePainter

from napari_busref._napari.layers.trades import worded

__all__ = ["EXPLANATION", "MiddleElision", "layer_chooser", "narrow"]

#: Property of a control that holds the constant part of its tooltip.
EXPLANATION = "explanation"


def layer_chooser(name: str, tooltip: str, choices: Any, **options: Any) -> ComboBox:
    """A chooser of layers: narrow, long names cut in the middle, the whole name as its tooltip.

    Parameters
    ----------
    name, tooltip : str
    choices
        As for `magicgui.widgets.ComboBox`.
    **options
        For `magicgui.widgets.ComboBox`.
    """
    made = ComboBox(name=name, tooltip=tooltip, choices=choices, **options)
    narrow(made)
    MiddleElision(made.native, tooltip)
    return made


def narrow(chooser: ComboBox) -> None:
    """Keep long names from making the panel wide."""
    box = chooser.native
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)  # a panel of 300 pixels holds it beside its label


class MiddleElision(QObject):
    """Draws the text of a combo box elided in the middle; napari's style cuts its end."""

    def __init__(self, box: QComboBox, tooltip: str) -> None:
        super().__init__(box)
        self._box, self._tooltip = box, tooltip
        box.setProperty(EXPLANATION, tooltip)
        if (view := box.view()) is not None:
            view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        if (model := box.model()) is not None:
            model.rowsInserted.connect(self._explain_rows)
        box.currentTextChanged.connect(self._explain)
        self._explain_rows(None, 0, box.count() - 1)
        self.explain()
        box.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Draw the box in place of Qt."""
        kind = None if event is None else event.type()
        if kind in (QEvent.Type.ToolTip, QEvent.Type.Paint):
            self.explain()  # magicgui blocks signals while it fills a box
        if kind == QEvent.Type.Paint:
            self._paint()
            return True
        return bool(super().eventFilter(watched, event))

    def explain(self) -> None:
        """Say the tooltip again, in the words of the trade."""
        self._explain(self._box.currentText())

    def _paint(self) -> None:
        box, option = self._box, QStyleOptionComboBox()
        box.initStyleOption(option)
        option.currentText = elided(box, option)
        painter = QStylePainter(box)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()

    def _explain(self, text: str) -> None:
        explained = worded(self._tooltip)
        tooltip = f"{text}\n{explained}" if text else explained
        if self._box.toolTip() != tooltip:
            self._box.setToolTip(tooltip)

    def _explain_rows(self, _: Any, first: int, last: int) -> None:
        for row in range(first, last + 1):
            role = Qt.ItemDataRole.ToolTipRole
            self._box.setItemData(row, self._box.itemText(row), role)


def elided(box: QComboBox, option: QStyleOptionComboBox) -> str:
    """Return the current text of a box, cut in the middle to the room that it has."""
    style = box.style()
    field = QStyle.SubControl.SC_ComboBoxEditField
    control = QStyle.ComplexControl.CC_ComboBox
    width = (
        box.width() if style is None else style.subControlRect(control, option, field, box).width()
    )
    metrics = box.fontMetrics()
    room = width - metrics.horizontalAdvance(" ")  # some styles indent the text
    return metrics.elidedText(box.currentText(), Qt.TextElideMode.ElideMiddle, room)
