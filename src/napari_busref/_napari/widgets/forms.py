"""Small parts of which panels are made."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from magicgui.widgets import ComboBox, LineEdit
from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QDoubleSpinBox,
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

from napari_busref._napari.widgets.layer_chooser import EXPLANATION, layer_chooser, narrow
from napari_busref._napari.widgets.trade_switch import TradeSwitch, say_words
from napari_busref.images.dtypes import AUTOMATIC

__all__ = [
    "BAD",
    "DOUBTFUL",
    "GOOD",
    "Folded",
    "Message",
    "button",
    "caption",
    "caption_of",
    "chooser",
    "decimal",
    "fill_line",
    "folded",
    "form",
    "line",
    "narrow",
    "row",
    "scrolled",
    "slider",
    "tab_order",
    "whole",
    "with_browser",
]

#: Colours of a message's edge; people with red-green blindness see them apart.
GOOD, DOUBTFUL, BAD = "#009e73", "#e69f00", "#d55e00"

_LOWEST = 240  # pixels of a panel: two choosers, the buttons and the headline of a verdict
_WIDE = QSize(340, 0)  # pixels, where the window has room


class Message(QLabel):
    """Text that wraps and can be copied; hidden while it is empty.

    Parameters
    ----------
    name : str
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.say("")

    def say(self, text: str, colour: str = "", *, rich: bool = False) -> None:
        """Show a text.

        Parameters
        ----------
        text : str
        colour : str
            Of an edge beside it, which unlike coloured text is legible in every theme.
        rich : bool
            Whether the text is HTML.
        """
        self.setTextFormat(Qt.TextFormat.RichText if rich else Qt.TextFormat.PlainText)
        self.setText(text)
        self.setVisible(bool(text))
        edge = f"QLabel {{ border-left: 4px solid {colour}; padding-left: 6px; }}"
        if self.styleSheet() != (style := edge if colour else ""):  # a change is slow to apply
            self.setStyleSheet(style)


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


def decimal(
    low: float,
    high: float,
    step: float,
    value: float,
    tooltip: str,
    *,
    decimals: int = 1,
    suffix: str = "",
    automatic: str = "",
) -> QDoubleSpinBox:
    """A decimal number; its lowest value may be shown as a word."""
    box = QDoubleSpinBox()
    box.setDecimals(decimals)
    box.setRange(low, high)
    box.setSingleStep(step)
    box.setValue(value)
    box.setSuffix(suffix)
    box.setSpecialValueText(automatic)
    box.setToolTip(tooltip)
    return box


def slider(steps: int, page: int, single: int, tooltip: str) -> QSlider:
    """A slider from 0 to `steps`; `page` and `single` are the steps of the page and arrow keys."""
    made = QSlider(Qt.Orientation.Horizontal)
    made.setRange(0, steps)
    made.setPageStep(page)
    made.setSingleStep(single)
    made.setToolTip(tooltip)
    return made


def button(
    text: str, tooltip: str, clicked: Callable[[], Any] | None = None, *, name: str = ""
) -> QPushButton:
    """A button that calls something without arguments.

    Parameters
    ----------
    text, tooltip : str
    clicked : callable, optional
    name : str
        Object name; by default the text.
    """
    made = QPushButton(text)
    made.setObjectName(name or text.replace("&", "").lower())
    made.setToolTip(tooltip)
    if clicked is not None:
        made.clicked.connect(lambda: clicked())
    return made


def caption(text: str, control: QWidget) -> QLabel:
    """The label of a control; an ampersand stands before the letter of its shortcut."""
    made = QLabel(text)
    made.setBuddy(control)
    # without the chosen name, which a chooser of layers has in its tooltip
    made.setToolTip(control.property(EXPLANATION) or control.toolTip())
    if not control.accessibleName():
        control.setAccessibleName(text.replace("&", ""))
    return made


def chooser(name: str, tooltip: str, choices: Any, **options: Any) -> ComboBox:
    """A chooser that does not make the panel wide; its tooltip begins with the chosen text."""
    return layer_chooser(name, tooltip, choices, **options)


def fill_line(name: str, tooltip: str) -> LineEdit:
    """A line for the value of pixels without content, or the word automatic."""
    made = LineEdit(name=name, tooltip=tooltip, value=AUTOMATIC)
    made.native.setToolTip(tooltip)
    made.native.setPlaceholderText(AUTOMATIC)
    return made


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
    """A line that holds a folder, with a button that opens a file dialog."""

    def browse() -> None:
        chosen = QFileDialog.getExistingDirectory(edit, edit.accessibleName(), edit.text())
        if chosen:
            edit.setText(chosen)
            edit.editingFinished.emit()

    browse_button = button("…", f"Choose the {edit.accessibleName()}", browse)
    browse_button.setFixedWidth(28)
    box = row(edit, browse_button)
    box.setFocusProxy(edit)
    box.setToolTip(edit.toolTip())
    return box


def form(*rows: tuple[str, QWidget]) -> QWidget:
    """Labelled controls below each other; an empty label lets a control take the whole row."""
    box = QWidget()
    layout = QFormLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for text, control in rows:
        if not text:
            layout.addRow(control)
            continue
        label = caption(text, control)
        # one width aligns the forms of a panel
        advance = label.fontMetrics().horizontalAdvance
        label.setMinimumWidth(max(map(advance, ("Learning rate", "Registration"))))
        layout.addRow(label, control)
    return box


def caption_of(control: QWidget) -> QWidget:
    """Return the label of a control in a `form`."""
    box = control.parentWidget()
    layout = None if box is None else box.layout()
    label = layout.labelForField(control) if isinstance(layout, QFormLayout) else None
    if label is None:
        raise ValueError(f"no form has a label for {control.objectName()!r}")
    return label


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
        self._title, self._note = title, ""
        self.toggled.connect(self._show_title)
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

    def note(self, text: str) -> None:
        """Show a text after the title; empty for none."""
        self._note = text
        self._show_title()

    def _show_title(self, _: Any = None) -> None:
        note = f" · {self._note}" if self._note else ""
        self.setText(f"{'▾' if self.isExpanded() else '▸'}  {self._title}{note}")

    def fill(self, content: QWidget) -> None:
        """Put the controls in, folded away."""
        self.addWidget(content)
        self.collapse(animate=False)


def folded(title: str, tooltip: str, content: QWidget) -> Folded:
    """Controls that are folded away at first."""
    box = Folded(title, tooltip)
    box.fill(content)
    return box


def scrolled(panel: QWidget, *widgets: QWidget, tall: QWidget | None = None) -> None:
    """Fill a panel with the switch of the trade, and widgets below it that scroll.

    Texts of the widgets may hold words of the trade, see
    `napari_busref._napari.layers.trades`.

    Parameters
    ----------
    panel : QWidget
    *widgets : QWidget
    tall : QWidget, optional
        The widget that takes the remaining height; by default the end of the panel stays empty.
    """
    content = QWidget()
    layout = QVBoxLayout(content)
    layout.setContentsMargins(6, 6, 6, 6)
    layout.addWidget(TradeSwitch(panel, content))
    for widget in widgets:
        layout.addWidget(widget, 1 if widget is tall else 0)
    if tall is None:
        layout.addStretch()
    say_words(content)
    outer = QVBoxLayout(panel)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.addWidget(_Scroll(content))


class _Scroll(QScrollArea):
    """Scrolls vertically only, and is as wide as its content, also when that grows."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self._content = content
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)
        content.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow the content when it grows, which scroll areas do not."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))

    def minimumSizeHint(self) -> QSize:
        """As wide as the content, and high enough to work with."""
        bar = self.verticalScrollBar()
        room = 0 if bar is None else bar.sizeHint().width()
        return QSize(self._content.minimumSizeHint().width() + room, _LOWEST)

    def sizeHint(self) -> QSize:
        """As large as the content, and wide enough for napari's title of the panel."""
        return self._content.sizeHint().expandedTo(self.minimumSizeHint()).expandedTo(_WIDE)
