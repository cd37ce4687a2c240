"""Two images beside each other, in the grid of the viewer, while landmarks are placed.

Needs `napari.layers` but no Qt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer
from napari.utils.transforms import Affine

from napari_busref._napari.landmarks.pairs import LandmarkPairs, Side
from napari_busref._napari.landmarks.result import expected_transform
from napari_busref._napari.layers.planes import shown_plane
from napari_busref._napari.widgets.camera import camera_of

if TYPE_CHECKING:
    import napari

__all__ = ["SideBySide", "grid_of"]

_SPACING = 4.0  # canvas pixels between the two pictures


class SideBySide:
    """Shows the fixed image on the left and the moving image on the right.

    Both cells of the grid share one camera. So the moving image lies, until `end`, where the
    landmarks so far put it on the fixed one: both cells show the same place. The pixel positions
    of landmarks do not depend on it.

    Parameters
    ----------
    viewer : napari.Viewer
    pairs : LandmarkPairs
    pointed : callable
        Called with the side over which the mouse is.
    """

    def __init__(
        self, viewer: napari.Viewer, pairs: LandmarkPairs, pointed: Callable[[Side], None]
    ) -> None:
        self._viewer, self._pairs, self._pointed = viewer, pairs, pointed
        moving = pairs.images["moving"]
        self._affine, self._units = moving.affine.affine_matrix.copy(), tuple(moving.units)
        self._order = list(viewer.layers)
        self._hidden = [
            layer
            for layer in viewer.layers
            if layer.visible and layer not in self._own and not isinstance(layer, Image)
        ]
        grid = grid_of(viewer)
        self._grid = {name: getattr(grid, name) for name in ("enabled", "shape", "stride")}
        self._arrange(self._own)
        for layer in self._hidden:
            layer.visible = False
        grid.shape, grid.stride, grid.enabled = (1, 2), 2, True
        viewer.mouse_move_callbacks.append(self._follow_mouse)
        viewer.mouse_drag_callbacks.insert(0, self._follow_mouse)
        self.align()
        camera = camera_of(viewer)
        self._view = camera.center, camera.zoom
        viewer.reset_view()  # a cell is narrower than the canvas

    @property
    def _own(self) -> list[Layer]:
        """The four layers, from bottom to top: two for each cell."""
        pairs = self._pairs
        return [one[side] for side in pairs.images for one in (pairs.images, pairs.points)]

    def align(self) -> None:
        """Put the moving image where the landmarks so far expect it on the fixed image."""
        images = self._pairs.images
        fixed, moving = (shown_plane(images[side], self._viewer) for side in images)
        try:
            points = self._pairs.matched(fixed, moving)[1:]
            there = expected_transform(fixed, moving, *points).affine
        except ValueError:  # no overlap in the viewer, or nothing that points determine
            return
        world = np.vstack([fixed.matrix, (0, 0, 1)]) @ np.linalg.inv(there)
        axes = [*moving.axes]
        layer = images["moving"]
        change = np.eye(layer.ndim + 1)
        block = world @ np.linalg.inv(np.vstack([moving.matrix, (0, 0, 1)]))
        change[np.ix_(axes, [*axes, layer.ndim])] = block[:2]
        units = list(layer.units)
        for axis, unit in zip(axes, fixed.units, strict=True):
            units[axis] = unit
        layer.affine = Affine(affine_matrix=change @ layer.affine.affine_matrix)
        layer.units = units

    def end(self) -> None:
        """Restore the grid, the order and the position of the layers."""
        viewer, moving = self._viewer, self._pairs.images["moving"]
        for callbacks in (viewer.mouse_move_callbacks, viewer.mouse_drag_callbacks):
            if self._follow_mouse in callbacks:
                callbacks.remove(self._follow_mouse)
        grid = grid_of(viewer)
        for name, value in self._grid.items():
            setattr(grid, name, value)
        camera = camera_of(viewer)
        camera.center, camera.zoom = self._view
        moving.affine, moving.units = self._affine, self._units
        for layer in self._hidden:
            layer.visible = True
        self._arrange([layer for layer in self._order if layer in viewer.layers])

    def _arrange(self, first: list[Layer]) -> None:
        """Move layers to the bottom of the list, in their order."""
        layers = self._viewer.layers
        active = layers.selection.active
        for position, layer in enumerate(first):
            current = layers.index(layer)
            if current != position:
                layers.move(current, position)
        layers.selection.active = active

    def _follow_mouse(self, viewer: Any, event: Any) -> None:
        cell = getattr(event, "viewbox", None)
        if cell is None:
            return
        self._pointed("fixed" if tuple(cell) == (0, 0) else "moving")


def grid_of(viewer: Any) -> Any:
    """The grid of a viewer: ``viewer.canvas.grid`` from napari 0.9 on."""
    canvas = getattr(viewer, "canvas", None)
    return viewer.grid if canvas is None else canvas.grid
