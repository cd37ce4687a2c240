"""Transforms between pyramid levels of two images, and between the images themselves."""

from __future__ import annotations

import numpy as np

from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform, Window

__all__ = ["from_levels", "onto_levels"]


def onto_levels(
    transform: Transform, fixed: Grid, moving: Grid, window: Window | None = None
) -> Transform:
    """Express a transform between two images in the pixels of coarser levels.

    Parameters
    ----------
    transform : Transform
        Between the images at full resolution.
    fixed, moving : Grid
        The levels.
    window : tuple of slice, optional
        Rows and columns of `fixed`, with start and stop; the first of them is pixel (0, 0) of
        the result. All by default.

    Returns
    -------
    Transform
        The affine is exact. The displacement has a value at each pixel of the level.
    """
    if window is None and fixed.full and moving.full:
        return transform
    rows, cols = window or (slice(0, fixed.shape[0]), slice(0, fixed.shape[1]))
    first = np.eye(3)
    first[:2, 2] = rows.start, cols.start
    affine = np.linalg.inv(moving.matrix) @ transform.affine @ fixed.matrix @ first
    affine[2] = (0.0, 0.0, 1.0)
    displacement = None
    if transform.displacement is not None:
        nodes = Grid.covering(transform.fixed_shape, transform.spacing)
        where = fixed.positions(rows, cols)
        step = np.array(fixed.step).reshape(2, 1, 1)
        displacement = (nodes.interpolate(transform.displacement, *where) / step).astype("f4")
        displacement.flags.writeable = False
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    return Transform(affine, displacement, fixed_shape=shape, moving_shape=moving.shape)


def from_levels(
    transform: Transform,
    fixed: Grid,
    moving: Grid,
    fixed_shape: tuple[int, int],
    moving_shape: tuple[int, int],
) -> Transform:
    """Express a transform between levels in pixels at full resolution.

    Parameters
    ----------
    transform : Transform
        In pixels of the levels, with a displacement at every pixel or none.
    fixed, moving : Grid
        The levels; each covers its image.
    fixed_shape, moving_shape : tuple of int
        Shapes of the images.

    Returns
    -------
    Transform
        Its displacement has the values that were found, at the spacing of the level.
    """
    if fixed.full and moving.full:
        return transform
    affine = moving.matrix @ transform.affine @ np.linalg.inv(fixed.matrix)
    affine[2] = (0.0, 0.0, 1.0)
    displacement = transform.displacement
    if displacement is not None:
        displacement = displacement * np.array(fixed.step, np.float32).reshape(2, 1, 1)
    return Transform(
        affine,
        displacement,
        fixed_shape=fixed_shape,
        moving_shape=moving_shape,
        spacing=fixed.step,
    )
