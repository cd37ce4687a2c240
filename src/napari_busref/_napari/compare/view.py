"""The one layer in which two images are compared, and the edge that is dragged in it.

Needs `napari.layers` but neither Qt nor a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Points, Shapes, Tracks
from numpy.typing import NDArray

from napari_busref._napari.compare.pixels import Part, place_on
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.planes import Plane, factor
from napari_busref._napari.widgets.camera import camera_of
from napari_busref.images.comparison import Swipe

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["NAME", "ComparisonView"]

#: What the layer is called.
NAME = "comparison"

_NEAR = 12  # canvas pixels from the edge at which it can be taken hold of
_LINE = 2  # canvas pixels that the edge is wide


class ComparisonView:
    """Shows pictures in one layer of a viewer and hides what would be in the way.

    Images, labels, surfaces, vectors and what this plugin has drawn are hidden while it shows
    something; points, shapes and tracks of the user stay. `clear` removes the layer and shows
    again what was hidden, but for what the user has switched since.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    on_moved : callable
        Called with the position, in [0, 1], when the edge was dragged.
    on_gone : callable
        Called when somebody else removed the layer.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        *,
        on_moved: Callable[[float], None] = lambda position: None,
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._viewer = viewer
        self._on_moved = on_moved
        self._on_gone = on_gone
        self._layer: Image | None = None
        self._hidden: list[Layer] = []
        self._curtain: Swipe | None = None
        self._axes = (0, 1)

    @property
    def layer(self) -> Image | None:
        """The layer, while there is one."""
        return self._layer

    def show(self, picture: NDArray[np.uint8], plane: Plane, part: Part) -> None:
        """Show a picture.

        Parameters
        ----------
        picture : ndarray of uint8, shape (H, W, 3)
            Not copied.
        plane : Plane
            Of the reference, on which it is put.
        part : Part
            The part of the plane that it shows.
        """
        self._curtain = None
        self._put(picture, plane, part)

    def show_curtain(
        self,
        first: NDArray[np.uint8],
        second: NDArray[np.uint8],
        plane: Plane,
        part: Part,
        *,
        position: float,
        axis: int,
    ) -> None:
        """Show two pictures with an edge between them that can be dragged in the canvas.

        Parameters
        ----------
        first, second : ndarray of uint8, shape (H, W, 3)
            Not copied.
        plane, part
            As for `show`.
        position, axis
            As for `napari_busref.images.comparison.Swipe`.
        """
        self._curtain = None
        curtain = Swipe(first, second, position, axis=axis, line=self._line(plane, part))
        self._put(curtain.picture, plane, part)
        self._curtain = curtain

    def move(self, position: float) -> None:
        """Move the edge, to a position in [0, 1]."""
        if self._curtain is None or self._layer is None:
            return
        written = self._curtain.move(position)
        if written.stop > written.start:
            # the shape and place are as before, and the thumbnail is not worth its time
            self._layer.refresh(thumbnail=False, highlight=False, extent=False)

    def clear(self) -> None:
        """Remove the layer and show the others as they were."""
        layer, self._layer, self._curtain = self._layer, None, None
        if layer is None:
            return
        layers = self._viewer.layers
        layers.events.removed.disconnect(self._removed)
        self._viewer.mouse_drag_callbacks.remove(self._drag)
        if layer in layers:
            layers.remove(layer)
        self._restore()

    # -- inside ---------------------------------------------------------------------------------

    def _put(self, picture: NDArray[np.uint8], plane: Plane, part: Part) -> None:
        data, spatial = place_on(picture, plane, part)
        self._axes = plane.axes
        if self._layer is not None and self._layer.ndim != plane.ndim:
            self.clear()
        if self._layer is None:
            self._add(data, spatial)
            return
        self._layer.data = data
        for name, value in spatial.items():
            if not _same(getattr(self._layer, name), value):
                setattr(self._layer, name, value)

    def _add(self, data: NDArray[np.uint8], spatial: dict[str, Any]) -> None:
        layers = self._viewer.layers
        selected, active = set(layers.selection), layers.selection.active
        covered = [
            one
            for one in layers
            if "role" in one.metadata.get(METADATA_KEY, {})  # a deformed grid is Shapes
            or not isinstance(one, Points | Shapes | Tracks)
        ]
        layer = Image(
            data,
            rgb=True,
            name=NAME,
            interpolation2d="nearest",
            metadata={METADATA_KEY: {"role": "comparison"}},
            **spatial,
        )
        # above all that it covers, below the points and shapes above those
        layers.insert(layers.index(covered[-1]) + 1 if covered else len(layers), layer)
        layers.selection = selected
        layers.selection.active = active
        self._hidden = [one for one in covered if one.visible]
        for one in self._hidden:
            one.visible = False
        self._layer = layer
        layers.events.removed.connect(self._removed)
        self._viewer.mouse_drag_callbacks.append(self._drag)

    def _restore(self) -> None:
        hidden, self._hidden = self._hidden, []
        for layer in hidden:
            if layer in self._viewer.layers:
                layer.visible = True

    def _removed(self, event: Any) -> None:
        if event.value == self._layer:
            self.clear()
            self._on_gone()

    def _line(self, plane: Plane, part: Part) -> int:
        """Pixels of the picture that the edge is wide, so that it can be seen at this zoom."""
        world = np.sqrt(abs(np.linalg.det(plane.matrix[:, :2])) * np.prod(part.grid.step))
        return max(1, round(_LINE / max(float(world) * camera_of(self._viewer).zoom, 1e-9)))

    def _drag(self, viewer: ViewerModel, event: Any) -> Iterator[None]:
        """Take hold of the edge where it is pressed on, instead of moving the picture."""
        if self._curtain is None or self._layer is None or event.button != 1:
            return
        position, canvas_pixel = self._along(event.position)
        if abs(position - self._curtain.position) > _NEAR * canvas_pixel:
            return
        event.handled = True
        yield
        while event.type == "mouse_move" and self._curtain is not None:
            self._on_moved(min(max(self._along(event.position)[0], 0.0), 1.0))
            event.handled = True
            yield

    def _along(self, where: Any) -> tuple[float, float]:
        """Where a point of the world is along the curtain, and what share a canvas pixel is."""
        layer, curtain = self._layer, self._curtain
        assert layer is not None and curtain is not None
        axis = self._axes[curtain.axis]
        size = curtain.picture.shape[curtain.axis]
        to_own = np.ones(layer.ndim)
        if (shown := self._viewer.layers.units) is not None:  # None: napari ignores all units
            own = layer.units
            to_own = np.array(
                [factor(a, b) for a, b in zip(shown[-layer.ndim :], own, strict=True)]
            )
        point = np.asarray(where, dtype=float)[-layer.ndim :] * to_own
        here = np.asarray(layer.world_to_data(point), dtype=float)
        # how long one pixel of the picture is in the canvas, whatever the layer's place and units
        probe = np.zeros(layer.ndim)
        origin = np.asarray(layer.data_to_world(probe), dtype=float)
        probe[axis] = 1.0
        world = (np.asarray(layer.data_to_world(probe), dtype=float) - origin) / to_own
        length = max(float(np.linalg.norm(world)) * camera_of(self._viewer).zoom, 1e-9)
        return (here[axis] + 0.5) / size, 1 / length / size


def _same(one: Any, other: Any) -> bool:
    if isinstance(other, tuple):
        return tuple(one) == other
    matrix = getattr(one, "affine_matrix", one)
    return bool(np.shape(matrix) == np.shape(other) and np.array_equal(matrix, other))
