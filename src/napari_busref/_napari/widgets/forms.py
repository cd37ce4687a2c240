"""Small parts of which panels are made."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

__all__ = [
    "Folded",
    "Scroll",
    "button",
    "folded",
    "form",
    "label",
    "line",
    "named_button",
    "narrow",
    "row",
    "scrolled",
    "slider",
    "tab_order",
    "text",
    "whole",
    "with_browser",
]


def line(name: str, tooltip: str) -> QLineEdit:
    """A line of text."""
    edit = QLineEdit()
    edit.setObjectName(name)
    edit.setAccessibleName(name)
    edit.setToolTip(tooltip)
    return edit


def whole(low: int, high: int, value: int, tooltip: str, automatic: str = "") -> QSpinBox:
    """A whole number; its lowest value may be shown as a word."""
    box = QSpinBox()
    box.setRange(low, high)
    box.setValue(value)
    box.setSpecialValueText(automatic)
    box.setToolTip(tooltip)
    return box


def slider(steps: int, page: int, single: int, tooltip: str) -> QSlider:
    """A slider from 0 to `steps`; how far a page key and an arrow key take it."""
    made = QSlider(Qt.Orientation.Horizontal)
    made.setRange(0, steps)
    made.setPageStep(page)
    made.setSingleStep(single)
    made.setToolTip(tooltip)
    return made


def button(text: str, tooltip: str, clicked: Callable[[], Any]) -> QPushButton:
    """A button that calls something without arguments."""
    made = QPushButton(text)
    made.setToolTip(tooltip)
    made.clicked.connect(lambda: clicked())
    return made


def named_button(text: str, tooltip: str) -> QPushButton:
    """A button whose object name is what it says."""
    made = QPushButton(text)
    made.setObjectName(text.replace("&", "").lower())
    made.setToolTip(tooltip)
    return made


def label(name: str) -> QLabel:
    """Text, rich where it looks so, that wraps and can be copied."""
    made = QLabel()
    made.setObjectName(name)
    made.setWordWrap(True)
    made.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return made


def caption(text: str, control: QWidget) -> QLabel:
    """The label of a control; an ampersand stands before the letter of its shortcut."""
    made = QLabel(text)
    made.setBuddy(control)
    made.setToolTip(control.toolTip())
    if not control.accessibleName():
        control.setAccessibleName(text.replace("&", ""))
    return made


def text(name: str) -> QLabel:
    """Plain text that wraps and can be copied."""
    made = label(name)
    made.setTextFormat(Qt.TextFormat.PlainText)
    return made


def narrow(chooser: ComboBox) -> None:
    """Keep long names from making the panel wide."""
    box = chooser.native
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)  # a panel of 300 pixels holds it beside its label


def tab_order(*widgets: QWidget) -> None:
    """Let the Tab key go from one widget to the next."""
    for first, second in pairwise(widgets):
        QWidget.setTabOrder(first, second)


def row(*widgets: QWidget) -> QWidget:
    """Controls beside each other."""
    box = QWidget()
    layout = QHBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return box


def with_browser(edit: QLineEdit) -> QWidget:
    """A line that holds a folder, with a button to look for it."""

    def browse() -> None:
        chosen = QFileDialog.getExistingDirectory(edit, edit.accessibleName(), edit.text())
        if chosen:
            edit.setText(chosen)
            edit.editingFinished.emit()

    look = button("…", f"Choose the {edit.accessibleName()}", browse)
    look.setFixedWidth(28)
    box = row(edit, look)
    box.setFocusProxy(edit)
    box.setToolTip(edit.toolTip())
    return box


def form(*rows: tuple[str, QWidget]) -> QWidget:
    """Labelled controls below each other; an empty label lets a control take the whole row."""
    box = QWidget()
    layout = QFormLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for text, widget in rows:
        if not text:
            layout.addRow(widget)
            continue
        word = caption(text, widget)
        # the same in every form of a panel
        word.setMinimumWidth(
            max(map(word.fontMetrics().horizontalAdvance, ("Learning rate", "Registration")))
        )
        layout.addRow(word, widget)
    return box


class Folded(QCollapsible):
    """Controls that are folded away at first.

    Parameters
    ----------
    title, tooltip : str
    parent : QWidget, optional
    """

    def __init__(self, title: str, tooltip: str, parent: QWidget | None = None) -> None:
        # signs in the text, because superqt's icons are black in a dark theme
        super().__init__("", parent, expandedIcon=QIcon(), collapsedIcon=QIcon())
        self.toggled.connect(lambda on: self.setText(f"{'▾' if on else '▸'}  {title}"))
        self.setDuration(150)
        # flat, and no napari highlight while open; underlined where the keyboard's focus is
        self.toggleButton().setStyleSheet(
            "QPushButton, QPushButton:checked { text-align: left; border: none; padding: 4px 0;"
            " background: transparent; }"
            "QPushButton:focus { text-decoration: underline; }"
        )
        self.toggleButton().setToolTip(tooltip)
        if (layout := self.layout()) is not None:
            layout.setContentsMargins(0, 0, 0, 0)

    def fill(self, content: QWidget) -> None:
        """Put the controls in, folded away."""
        self.addWidget(content)
        self.collapse(animate=False)


def folded(title: str, tooltip: str, content: QWidget) -> Folded:
    """Controls that are folded away at first."""
    box = Folded(title, tooltip)
    box.fill(content)
    return box


def scrolled(panel: QWidget, *widgets: QWidget) -> None:
    """Fill a panel with widgets below each other, which scroll where there is too little room."""
    content = QWidget()
    layout = QVBoxLayout(content)
    for widget in widgets:
        layout.addWidget(widget)
    layout.addStretch()
    outer = QVBoxLayout(panel)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.addWidget(Scroll(content))


class Scroll(QScrollArea):
    """Scrolls up and down only, and is as wide as its content, also when that grows."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self._content = content
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)
        content.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow the content when it grows: scroll areas do not by themselves."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))

    def minimumSizeHint(self) -> QSize:
        """As wide as the content, and a few rows high."""
        bar = self.verticalScrollBar()
        room = 0 if bar is None else bar.sizeHint().width()
        return QSize(self._content.minimumSizeHint().width() + room, 150)

    def sizeHint(self) -> QSize:
        """As large as the content."""
        return self._content.sizeHint().expandedTo(self.minimumSizeHint())
