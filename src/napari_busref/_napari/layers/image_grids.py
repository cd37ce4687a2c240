"""Convert between the position of a napari layer and the `ImageGrid` of files.

Needs no Qt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.transforms import Affine, CompositeAffine

from napari_busref.transforms.formats import ImageGrid
from napari_busref.transforms.formats.grid import METRES, unit_name

if TYPE_CHECKING:
    from napari_busref._napari.layers.pair import Plane

__all__ = ["grid_of_layer", "grid_of_plane", "pixel_size", "spatial_of_grid"]


def grid_of_plane(plane: Plane) -> ImageGrid:
    """Return the grid of a plane of an image layer, in the viewer's world."""
    return _grid(plane.shape, np.asarray(plane.matrix), plane.units)


def pixel_size(plane: Plane) -> tuple[float, str] | None:
    """Return the mean side of a plane's pixels and the symbol of its unit; None without one."""
    if not grid_of_plane(plane).has_length:
        return None
    side = float(np.sqrt(abs(np.linalg.det(np.asarray(plane.matrix)[:, :2]))))
    return side, f"{plane.units[0]:~P}"


def grid_of_layer(
    shape: tuple[int, int], spatial: Mapping[str, Any], axes: Sequence[int]
) -> ImageGrid:
    """Return the grid of a layer's pixels along two of its axes.

    Parameters
    ----------
    shape : tuple of int
        ``(rows, cols)``.
    spatial : mapping
        ``scale``, ``translate``, ``rotate``, ``shear``, ``affine`` and ``units``, as
        `Layer.as_layer_data_tuple` gives them. A missing one has napari's default.
    axes : sequence of int
        The axes of rows and columns.
    """
    scale = spatial.get("scale", (1.0, 1.0))
    ndim = len(scale)
    inner = CompositeAffine(
        scale=scale,
        translate=spatial.get("translate", (0.0,) * ndim),
        rotate=spatial.get("rotate"),
        shear=spatial.get("shear"),
        ndim=ndim,
    )
    outer = Affine(affine_matrix=_square(spatial.get("affine"), ndim), ndim=ndim)
    matrix = outer.affine_matrix @ inner.affine_matrix
    rows, cols = (axis % ndim for axis in axes)
    units = spatial.get("units") or (None,) * ndim
    return _grid(
        shape, matrix[np.ix_((rows, cols), (rows, cols, ndim))], (units[rows], units[cols])
    )


def spatial_of_grid(grid: ImageGrid) -> dict[str, Any]:
    """Keyword arguments that position a two-dimensional layer on a grid."""
    units = {"units": (grid.unit, grid.unit)} if grid.has_length else {}
    if grid.is_upright:
        return {"scale": grid.spacing, "translate": grid.origin, **units}
    return {"scale": (1.0, 1.0), "affine": grid.matrix, **units}


def _grid(shape: tuple[int, int], matrix: Any, units: Sequence[Any]) -> ImageGrid:
    row_unit, col_unit = map(unit_name, units)
    matrix = np.array(matrix[:2], float)
    if row_unit != col_unit:
        if row_unit not in METRES or col_unit not in METRES:
            return ImageGrid.from_matrix(shape, matrix)  # napari, too, draws plain numbers
        matrix[1] *= METRES[col_unit] / METRES[row_unit]
    return ImageGrid.from_matrix(shape, matrix, row_unit)


def _square(matrix: Any, ndim: int) -> Any:
    """A layer's affine as a square matrix; the identity for None."""
    if matrix is None:
        return np.eye(ndim + 1)
    return np.asarray(getattr(matrix, "affine_matrix", matrix), float)
