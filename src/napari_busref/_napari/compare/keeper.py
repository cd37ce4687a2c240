"""What the panel "Compare" starts and must end, also when the panel is gone before."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from napari_busref._napari.compare.view import ComparisonView
from napari_busref._napari.widgets.worker import Job

if TYPE_CHECKING:
    import napari

__all__ = ["LAYER_EVENTS", "Keeper"]

#: Events of a layer after which a comparison with it is another.
LAYER_EVENTS = (
    *("data", "contrast_limits", "gamma", "colormap"),
    *("scale", "translate", "rotate", "shear", "affine", "units"),
)


class Follower(Protocol):
    """The panel."""

    def follow(self) -> None:
        """What is compared has changed."""

    def follow_camera(self) -> None:
        """The user looks elsewhere."""

    def edge_dragged(self, position: float) -> None:
        """The edge of the curtain was dragged to a position in [0, 1]."""

    def clear(self) -> None:
        """The comparison is gone."""


class Keeper:
    """Holds what must end with the panel, and outlives it to see to that.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    view : ComparisonView
    jobs : dict
        What is under way.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self.view = ComparisonView(viewer, on_moved=self._moved, on_gone=self._gone)
        self.jobs: dict[str, Job] = {}
        self._panel: Callable[[], Follower | None] = lambda: None
        self._connections: list[tuple[Any, Callable[..., None]]] = []

    def listen(self, emitters: list[Any], callback: Callable[..., None]) -> None:
        """Call back at each of these events, until `deafen`."""
        for emitter in emitters:
            emitter.connect(callback)
            self._connections.append((emitter, callback))

    def deafen(self) -> None:
        """Hear nothing any more."""
        for emitter, callback in self._connections:
            emitter.disconnect(callback)
        self._connections.clear()

    def serve(self, panel: Follower) -> None:
        """Tell a panel what happens, as long as there is one."""
        self._panel = weakref.ref(panel)  # a strong one would keep the panel alive

    def close(self) -> None:
        """End all that belongs to the panel."""
        self._panel = lambda: None
        for job in self.jobs.values():
            job.let_go()
        self.jobs.clear()
        self.deafen()
        self.view.clear()

    def changed(self, event: Any = None) -> None:
        """Something that is compared has changed."""
        if (panel := self._panel()) is not None:
            panel.follow()

    def looked_elsewhere(self, event: Any = None) -> None:
        """The camera has moved."""
        if (panel := self._panel()) is not None:
            panel.follow_camera()

    def _moved(self, position: float) -> None:
        if (panel := self._panel()) is not None:
            panel.edge_dragged(position)

    def _gone(self) -> None:
        if (panel := self._panel()) is not None:
            panel.clear()
