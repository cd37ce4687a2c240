"""Where panels stand in the window: as tabs of one column, each of them once."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

if TYPE_CHECKING:
    import napari

__all__ = ["DockedPanel"]

_PLUGIN = "napari-busref"

_numbers = count()  # Qt forgets the order of panels when one comes to the front


class DockedPanel(QWidget):
    """A panel that joins the earlier panels of this plugin as a tab when it opens.

    napari (0.9) stacks docks and does not read ``tabify`` of the manifest. A panel that the user
    has moved elsewhere stays there.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    parent : QWidget, optional
    """

    #: Title of the panel, as in the menu.
    TITLE = ""
    #: Text of its tab where the title is too long for a column of 300 pixels.
    TAB = ""

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self._number = next(_numbers)
        self._docked = QTimer(self)  # the dock has no place yet when the panel goes into it
        self._docked.setSingleShot(True)
        self._docked.setInterval(0)
        self._docked.timeout.connect(self._join_tabs)

    def open_panel(self, title: str) -> Any:
        """Show another panel of this plugin; open it unless it is open.

        Parameters
        ----------
        title : str
            `TITLE` of the panel.

        Returns
        -------
        DockedPanel
        """
        for panel in _panels(self):
            dock = panel.parent()
            if panel.TITLE == title and isinstance(dock, QDockWidget):
                dock.show()
                dock.raise_()
                return panel
        from npe2 import PluginManager

        manifest = PluginManager.instance().get_manifest(_PLUGIN)
        widgets = manifest.contributions.widgets or []
        (widget,) = (one for one in widgets if one.display_name == title)
        opened: Any = widget.get_callable()(self._viewer)
        # the name that napari's menu gives, so that the menu finds the panel again
        name = f"{title} ({manifest.display_name})"
        self._viewer.window.add_dock_widget(opened, name=name, area="right", tabify=True)
        return opened

    def changeEvent(self, event: QEvent | None) -> None:
        """Join the tabs once the panel is in a dock; called by Qt."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.ParentChange:
            dock = self.parent()
            if isinstance(dock, QDockWidget):
                dock.installEventFilter(self)
                self._docked.start()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Bring the dock to the front when napari's menu shows it again, which Qt does not."""
        if event is not None and event.type() == QEvent.Type.ShowToParent:
            QTimer.singleShot(0, self._raise)
        return bool(super().eventFilter(watched, event))

    def _raise(self) -> None:
        if isinstance(dock := self.parent(), QDockWidget):
            dock.raise_()

    def _join_tabs(self) -> None:
        dock, window = self.parent(), _main_window(self)
        if not isinstance(dock, QDockWidget) or window is None or dock.isFloating():
            return
        dock.setWindowTitle(self.TAB or self.TITLE)  # of the tab; the title bar keeps its text
        area, earlier = window.dockWidgetArea(dock), None
        for panel in _panels(self):
            if panel is self:
                break
            other = panel.parent()
            if isinstance(other, QDockWidget) and _stands_in(window, other, area):
                earlier = other
        if earlier is not None and dock not in window.tabifiedDockWidgets(earlier):
            window.tabifyDockWidget(earlier, dock)
            dock.raise_()


def _stands_in(window: QMainWindow, dock: QDockWidget, area: Any) -> bool:
    return not (dock.isFloating() or dock.isHidden()) and window.dockWidgetArea(dock) == area


def _main_window(widget: QWidget) -> QMainWindow | None:
    found: QObject | None = widget
    while found is not None and not isinstance(found, QMainWindow):
        found = found.parent()
    return found


def _panels(widget: QWidget) -> list[DockedPanel]:
    """The panels in the window of a widget, in the order of opening."""
    window = _main_window(widget)
    panels = [] if window is None else window.findChildren(DockedPanel)
    return sorted(panels, key=lambda panel: panel._number)
