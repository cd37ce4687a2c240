"""What must end with the panel "Compare": its layer and its connections."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from napari_busref._napari.compare.view import ComparisonView

if TYPE_CHECKING:
    import napari

__all__ = ["LAYER_EVENTS", "ComparisonSession"]

#: Events of a layer after which its comparison must be drawn again.
LAYER_EVENTS = (
    *("data", "contrast_limits", "gamma", "colormap"),
    *("scale", "translate", "rotate", "shear", "affine", "units"),
)


class ComparisonPanel(Protocol):
    """What a session calls of its panel."""

    def follow(self) -> None:
        """A compared layer has changed."""

    def follow_camera(self) -> None:
        """The camera has moved."""

    def divider_dragged(self, position: float) -> None:
        """The divider was dragged to a position in [0, 1]."""

    def clear(self) -> None:
        """The comparison layer was removed."""


class ComparisonSession:
    """Holds what must end with the panel; outlives the panel to end it.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    view : ComparisonView
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self.view = ComparisonView(viewer, on_dragged=self._dragged, on_removed=self._removed)
        self._panel: Callable[[], ComparisonPanel | None] = lambda: None
        self._connections: list[tuple[Any, Callable[..., None]]] = []

    def attach(self, panel: ComparisonPanel) -> None:
        """Forward events to a panel while it exists."""
        self._panel = weakref.ref(panel)  # a strong reference would keep the panel alive

    def connect(self, emitters: list[Any], callback: Callable[..., None]) -> None:
        """Connect a callback to events, until `disconnect`."""
        for emitter in emitters:
            emitter.connect(callback)
            self._connections.append((emitter, callback))

    def disconnect(self) -> None:
        """Disconnect all callbacks."""
        for emitter, callback in self._connections:
            emitter.disconnect(callback)
        self._connections.clear()

    def close(self) -> None:
        """End the connections and the view."""
        self._panel = lambda: None
        self.disconnect()
        self.view.clear()

    def on_change(self, event: Any = None) -> None:
        """Forward a change of a compared layer."""
        if (panel := self._panel()) is not None:
            panel.follow()

    def on_camera_move(self, event: Any = None) -> None:
        """Forward a move of the camera."""
        if (panel := self._panel()) is not None:
            panel.follow_camera()

    def _dragged(self, position: float) -> None:
        if (panel := self._panel()) is not None:
            panel.divider_dragged(position)

    def _removed(self) -> None:
        if (panel := self._panel()) is not None:
            panel.clear()
