"""The comparison layer, and the divider that is dragged in it.

Needs `napari.layers` but neither Qt nor a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Points, Shapes, Tracks
from numpy.typing import NDArray

from napari_busref._napari.compare.pixels import Region, layer_on_region
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.planes import Plane, unit_factor
from napari_busref._napari.widgets.camera import camera_of
from napari_busref.images.comparison import Swipe

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["NAME", "ComparisonView"]

#: Name of the comparison layer.
NAME = "comparison"

_GRAB_DISTANCE = 12  # canvas pixels from the divider within which a press starts a drag
_LINE_WIDTH = 2  # of the divider, in canvas pixels


class ComparisonView:
    """Shows pictures in one layer of a viewer and hides the layers below it.

    It hides images, labels, surfaces, vectors and the layers of this plugin. Points, shapes and
    tracks of the user stay visible. `clear` removes the comparison layer and shows the hidden
    layers again. A layer that the user shows meanwhile stays visible.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    on_dragged : callable
        Called with the position of the divider, in [0, 1], when the user drags it.
    on_removed : callable
        Called when the layer was removed by other means than `clear`.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        *,
        on_dragged: Callable[[float], None] = lambda position: None,
        on_removed: Callable[[], None] = lambda: None,
    ) -> None:
        self._viewer = viewer
        self._on_dragged = on_dragged
        self._on_removed = on_removed
        self._layer: Image | None = None
        self._hidden: list[Layer] = []
        self._swipe: Swipe | None = None
        self._axes = (0, 1)

    @property
    def layer(self) -> Image | None:
        """The comparison layer, if it is shown."""
        return self._layer

    def show(self, picture: NDArray[np.uint8], plane: Plane, region: Region) -> None:
        """Show a picture.

        Parameters
        ----------
        picture : ndarray of uint8, shape (H, W, 3)
            Not copied.
        plane : Plane
            The fixed plane.
        region : Region
            The region of `plane` that the picture shows.
        """
        self._swipe = None
        self._put(picture, plane, region)

    def show_swipe(
        self,
        first: NDArray[np.uint8],
        second: NDArray[np.uint8],
        plane: Plane,
        region: Region,
        *,
        position: float,
        axis: int,
    ) -> None:
        """Show two pictures with a divider that can be dragged in the canvas.

        Parameters
        ----------
        first, second : ndarray of uint8, shape (H, W, 3)
            Not copied.
        plane, region
            As for `show`.
        position, axis
            As for `napari_busref.images.comparison.Swipe`.
        """
        self._swipe = None
        swipe = Swipe(first, second, position, axis=axis, line=self._line_width(plane, region))
        self._put(swipe.picture, plane, region)
        self._swipe = swipe

    def move(self, position: float) -> None:
        """Move the divider to a position in [0, 1]."""
        if self._swipe is None or self._layer is None:
            return
        written = self._swipe.move(position)
        if written.stop > written.start:
            # shape and place did not change, and a new thumbnail would slow down dragging
            self._layer.refresh(thumbnail=False, highlight=False, extent=False)

    def clear(self) -> None:
        """Remove the comparison layer and show the hidden layers again."""
        layer, self._layer, self._swipe = self._layer, None, None
        if layer is None:
            return
        layers = self._viewer.layers
        layers.events.removed.disconnect(self._removed)
        self._viewer.mouse_drag_callbacks.remove(self._drag)
        if layer in layers:
            layers.remove(layer)
        hidden, self._hidden = self._hidden, []
        for one in hidden:
            if one in layers:
                one.visible = True

    # -- inside ---------------------------------------------------------------------------------

    def _put(self, picture: NDArray[np.uint8], plane: Plane, region: Region) -> None:
        data, spatial = layer_on_region(picture, plane, region)
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
        # directly above the topmost hidden layer, below points and shapes above it
        layers.insert(layers.index(covered[-1]) + 1 if covered else len(layers), layer)
        layers.selection = selected
        layers.selection.active = active
        self._hidden = [one for one in covered if one.visible]
        for one in self._hidden:
            one.visible = False
        self._layer = layer
        layers.events.removed.connect(self._removed)
        self._viewer.mouse_drag_callbacks.append(self._drag)

    def _removed(self, event: Any) -> None:
        if event.value == self._layer:
            self.clear()
            self._on_removed()

    def _line_width(self, plane: Plane, region: Region) -> int:
        """Width of the divider in pixels of the picture, visible at the current zoom."""
        pixel = np.sqrt(abs(np.linalg.det(plane.matrix[:, :2])) * np.prod(region.grid.step))
        return max(1, round(_LINE_WIDTH / max(float(pixel) * camera_of(self._viewer).zoom, 1e-9)))

    def _drag(self, viewer: ViewerModel, event: Any) -> Iterator[None]:
        """Drag the divider when the mouse is pressed near it; elsewhere napari pans."""
        if self._swipe is None or self._layer is None or event.button != 1:
            return
        position, canvas_pixel = self._along(event.position)
        if abs(position - self._swipe.position) > _GRAB_DISTANCE * canvas_pixel:
            return
        event.handled = True
        yield
        while event.type == "mouse_move" and self._swipe is not None:
            self._on_dragged(min(max(self._along(event.position)[0], 0.0), 1.0))
            event.handled = True
            yield

    def _along(self, point: Any) -> tuple[float, float]:
        """Position of a world point across the divider, and the size of a canvas pixel there.

        Both are fractions of the picture's side.
        """
        layer, swipe = self._layer, self._swipe
        assert layer is not None and swipe is not None
        axis = self._axes[swipe.axis]
        size = swipe.picture.shape[swipe.axis]
        to_layer_units = np.ones(layer.ndim)
        if (units := self._viewer.layers.units) is not None:  # None: napari ignores all units
            to_layer_units = np.array(
                [unit_factor(a, b) for a, b in zip(units[-layer.ndim :], layer.units, strict=True)]
            )
        world = np.asarray(point, dtype=float)[-layer.ndim :] * to_layer_units
        pixel = np.asarray(layer.world_to_data(world), dtype=float)
        # length of one pixel of the picture in the canvas
        probe = np.zeros(layer.ndim)
        origin = np.asarray(layer.data_to_world(probe), dtype=float)
        probe[axis] = 1.0
        step = (np.asarray(layer.data_to_world(probe), dtype=float) - origin) / to_layer_units
        length = max(float(np.linalg.norm(step)) * camera_of(self._viewer).zoom, 1e-9)
        return (pixel[axis] + 0.5) / size, 1 / length / size


def _same(one: Any, other: Any) -> bool:
    if isinstance(other, tuple):
        return tuple(one) == other
    matrix = getattr(one, "affine_matrix", one)
    return bool(np.shape(matrix) == np.shape(other) and np.array_equal(matrix, other))
