"""Convert a `Transform` between pixels to a map between physical spaces, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_busref.transforms import grids
from napari_busref.transforms.formats.grid import ImageGrid, unit_name
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

__all__ = [
    "affine_from_physical",
    "affine_to_physical",
    "apply_to",
    "check_dense",
    "check_grids",
    "displacement_grid",
    "from_positions",
    "in_unit",
    "inverted",
    "positions",
    "swapped",
]

_FIT_POINTS = 65  # along each side, to fit the affine part of a field


def check_grids(transform: Transform, fixed: ImageGrid, moving: ImageGrid) -> None:
    """Check that the grids have the shapes of the transform's images.

    Raises
    ------
    ValueError
        Naming the grid and both shapes.
    """
    for name, grid, shape in (
        ("fixed", fixed, transform.fixed_shape),
        ("moving", moving, transform.moving_shape),
    ):
        if grid.shape != shape:
            raise ValueError(
                f"{name}: got a grid of shape {grid.shape}, the transform has {shape} there"
            )


def check_dense(transform: Transform, path: Path) -> None:
    """Refuse a format that needs a value at every pixel, for a large field on a coarser grid.

    Raises
    ------
    ValueError
        Naming the formats that hold the coarser grid.
    """
    rows, cols = transform.fixed_shape
    if transform.spacing != (1, 1) and rows * cols > grids.FIELD_BUDGET:
        raise ValueError(
            f"path: {path.name} needs a displacement at each of {rows} x {cols} px; .busref.h5, "
            ".tfm, .h5 and .ome.zarr hold this transform as it is, every "
            f"{transform.spacing[0]:g} px"
        )


def displacement_grid(transform: Transform, fixed: ImageGrid) -> ImageGrid:
    """Compute where the values of a displacement stand, from the grid of the fixed image."""
    nodes = Grid.covering(transform.fixed_shape, transform.spacing)
    if nodes.full:
        return fixed
    return ImageGrid.from_matrix(nodes.shape, fixed.matrix @ nodes.matrix, fixed.unit)


def affine_to_physical(
    transform: Transform, fixed: ImageGrid, moving: ImageGrid
) -> NDArray[np.float64]:
    """Compute the affine part between physical spaces, (3, 3) on ``(row, col, 1)``."""
    return _tidy(moving.matrix @ transform.affine @ inverted(fixed.matrix))


def affine_from_physical(
    matrix: NDArray[np.float64], fixed: ImageGrid, moving: ImageGrid
) -> NDArray[np.float64]:
    """Compute the pixel affine of a physical one: the inverse of `affine_to_physical`."""
    return _tidy(inverted(moving.matrix) @ matrix @ fixed.matrix)


def positions(grid: ImageGrid) -> NDArray[np.float64]:
    """Compute the physical positions of all pixel centres, (2, H, W)."""
    pixels = np.mgrid[: grid.shape[0], : grid.shape[1]].astype(np.float64)
    return apply_to(grid.matrix, pixels)


def from_positions(
    mapped: NDArray[np.float64],
    fixed: ImageGrid,
    moving: ImageGrid,
    affine: NDArray[np.float64] | None = None,
) -> Transform:
    """Make the transform that maps each fixed pixel to a physical position of the moving image.

    Parameters
    ----------
    mapped : ndarray of float64, shape (2, H, W)
        A position in the moving image's space for every fixed pixel.
    fixed, moving : ImageGrid
    affine : ndarray of float64, shape (3, 3), optional
        The affine part of the result, in pixels.

    Returns
    -------
    Transform
        Its affine is `affine`, or a least-squares fit to the field. Its displacement is the
        rest.
    """
    pixels = np.mgrid[: fixed.shape[0], : fixed.shape[1]].astype(np.float64)
    target = apply_to(inverted(moving.matrix), mapped)
    if affine is None:
        sample = np.ix_(
            *(
                np.unique(np.linspace(0, size - 1, _FIT_POINTS).round().astype(int))
                for size in fixed.shape
            )
        )
        affine = Transform.from_points(
            np.stack([part[sample].ravel() for part in pixels], 1),
            np.stack([part[sample].ravel() for part in target], 1),
            fixed_shape=fixed.shape,
            moving_shape=moving.shape,
        ).affine
    displacement = apply_to(inverted(affine), target) - pixels
    return Transform(
        affine,
        displacement.astype(np.float32),
        fixed_shape=fixed.shape,
        moving_shape=moving.shape,
    )


def inverted(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert an affine matrix (3, 3)."""
    return _tidy(np.asarray(np.linalg.inv(matrix), np.float64))


def swapped(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert a (3, 3) matrix on ``(row, col, 1)`` to one on ``(x, y, 1)``, or back."""
    order = [1, 0, 2]
    return matrix[np.ix_(order, order)]


def in_unit(grid: ImageGrid, unit: str, path: Path) -> ImageGrid:
    """Convert a grid to the unit that a file names.

    Raises
    ------
    ValueError
        When the units cannot be converted.
    """
    try:
        return grid.to(unit)
    except ValueError:
        raise ValueError(
            f"path: {path} is in {unit_name(unit)}, but the image's pixel size is in {grid.unit}"
        ) from None


def apply_to(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a (3, 3) matrix to positions (2, ...)."""
    offset = matrix[:2, 2].reshape(2, *[1] * (points.ndim - 1))
    return np.tensordot(matrix[:2, :2], points, 1) + offset


def _tidy(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.array(matrix, float)
    matrix[2] = (0.0, 0.0, 1.0)  # exactly
    return matrix
