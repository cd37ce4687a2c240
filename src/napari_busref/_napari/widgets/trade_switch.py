"""The switch of the trade, and the words of the trade in the texts of widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtWidgets import QAbstractButton, QHBoxLayout, QLabel, QTableWidget, QWidget

from napari_busref._napari.layers.preferences import stored_group
from napari_busref._napari.layers.trades import GROUP, TRADES, current_trade, set_trade, worded
from napari_busref._napari.widgets.layer_chooser import MiddleElision

__all__ = ["TradeSwitch", "say_words"]

_TEMPLATES = "templates"  # property of a widget: (template, text) by the name of the text


class TradeSwitch(QWidget):
    """Chooses the trade whose words all panels use; napari's Preferences keep it.

    Parameters
    ----------
    panel : QWidget
        Its ``reword()`` is called after a change, where it has one.
    content : QWidget
        Holds the widgets with words of the trade.

    Attributes
    ----------
    trade : magicgui.widgets.ComboBox
        A key of `TRADES`; read and set ``value``.
    """

    def __init__(self, panel: QWidget, content: QWidget) -> None:
        super().__init__()
        self._panel, self._content = panel, content
        self.trade = ComboBox(
            name="trade",
            tooltip="Your trade: it names the two images in all panels, and hides what does not "
            "apply.\nRemembered in File › Preferences",
            choices=[(trade.title, name) for name, trade in TRADES.items()],
            value=current_trade().name,
        )
        self.trade.native.setObjectName("trade")
        self.trade.native.setAccessibleName("Words for")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("Words for"))
        layout.addWidget(self.trade.native, 1)
        self.trade.changed.connect(self._on_chosen)
        store = stored_group(GROUP)
        if store is not None:
            callback = self._on_preferences
            store.events.connect(callback)
            self.destroyed.connect(lambda: store.events.disconnect(callback))

    def _on_chosen(self, name: str) -> None:
        set_trade(name)
        self._reword()

    def _on_preferences(self, _: Any = None) -> None:
        """Follow a change in the Preferences or in another panel."""
        name = current_trade().name
        if self.trade.value != name:
            self.trade.value = name

    def _reword(self) -> None:
        reword = getattr(self._panel, "reword", None)
        if reword is not None:
            reword()
        say_words(self._content)  # tooltips of choosers begin with the chosen text


def say_words(content: QWidget) -> None:
    """Fill the words of the trade into all texts within a widget that hold them in braces.

    A text that was replaced since the last call stays.
    """
    for widget in (content, *content.findChildren(QWidget)):
        _say(widget, "tooltip", widget.toolTip, widget.setToolTip)
        _say(widget, "accessible name", widget.accessibleName, widget.setAccessibleName)
        if isinstance(widget, QLabel | QAbstractButton):
            _say(widget, "text", widget.text, widget.setText)
        if isinstance(widget, QTableWidget):
            for column in range(widget.columnCount()):
                header = widget.horizontalHeaderItem(column)
                if header is not None:
                    _say(widget, f"header {column}", header.text, header.setText)
    for elision in content.findChildren(MiddleElision):
        elision.explain()


def _say(widget: QWidget, name: str, get: Callable[[], str], put: Callable[[str], Any]) -> None:
    templates = dict(widget.property(_TEMPLATES) or {})
    template, said = templates.get(name, ("", None))
    text = get()
    if text != said:
        template = text
    if "{" not in template:
        return
    put(worded(template))
    widget.setProperty(_TEMPLATES, templates | {name: (template, get())})
