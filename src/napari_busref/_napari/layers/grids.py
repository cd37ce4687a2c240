"""Coarser and finer grids over an image, and transforms converted between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.transforms.transform import Transform

__all__ = ["FIELD_BUDGET", "Grid", "Rescaled", "regrid"]

#: Most pixels of a displacement field at full resolution (128 MiB).
FIELD_BUDGET = 4096 * 4096

_BLOCK_PIXELS = 1 << 20  # sampled at a time


@dataclass(frozen=True)
class Grid:
    """A grid of pixels over an image; its first pixel begins where the image begins.

    Parameters
    ----------
    shape : tuple of int
        ``(H, W)``.
    step : tuple of float
        Rows and columns of the image at full resolution that one pixel of the grid covers.
    """

    shape: tuple[int, int]
    step: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def over(cls, shape: tuple[int, int], full: tuple[int, int]) -> Grid:
        """Grid of a pyramid level of `shape`, over an image of shape `full`."""
        return cls(shape, (full[0] / shape[0], full[1] / shape[1]))

    @property
    def full(self) -> bool:
        """Whether a pixel of the grid is a pixel of the image."""
        return self.step == (1.0, 1.0)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Matrix (3, 3) from ``(row, col, 1)`` of the grid to pixels at full resolution.

        Pixel centres are at integers, so pixel 0 of a grid of step 2 is at 0.5.
        """
        matrix = np.diag([*self.step, 1.0])
        matrix[:2, 2] = (np.array(self.step) - 1) / 2
        return matrix

    def coarser(self, pixels: int) -> Grid:
        """The finest grid with at most `pixels` that merges whole steps of pixels."""
        step = 1
        while -(-self.shape[0] // step) * -(-self.shape[1] // step) > pixels:
            step += 1
        rows, cols = (-(-size // step) for size in self.shape)
        return Grid((rows, cols), (self.step[0] * step, self.step[1] * step))


def regrid(
    transform: Transform,
    fixed: Grid,
    moving: Grid,
    to_fixed: Grid,
    to_moving: Grid,
    window: tuple[slice, slice] | None = None,
) -> Transform:
    """Express a transform in the pixels of other grids over the same two images.

    Parameters
    ----------
    transform : Transform
        From the pixels of `fixed` to those of `moving`.
    fixed, moving : Grid
        Grids of `transform`.
    to_fixed, to_moving : Grid
        Grids of the result.
    window : tuple of slice, optional
        Rows and columns of `to_fixed`, with start and stop; the first of them is pixel (0, 0) of
        the result. All by default.

    Returns
    -------
    Transform
        The affine is exact; the displacement is bilinear between the pixels of `fixed`.
    """
    if window is None and (fixed, moving) == (to_fixed, to_moving):
        return transform
    rows, cols = window or (slice(0, to_fixed.shape[0]), slice(0, to_fixed.shape[1]))
    shift = np.eye(3)
    shift[:2, 2] = rows.start, cols.start
    enter = np.asarray(np.linalg.solve(fixed.matrix, to_fixed.matrix @ shift), np.float64)
    leave = np.linalg.solve(to_moving.matrix, moving.matrix)
    affine = leave @ transform.affine @ enter
    affine[2] = (0.0, 0.0, 1.0)
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    displacement = transform.displacement
    if displacement is not None and not (
        shape == transform.fixed_shape and np.array_equal(enter, np.eye(3))
    ):
        displacement = _sample(displacement, enter, shape)
    return Transform(affine, displacement, fixed_shape=shape, moving_shape=to_moving.shape)


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A transform on coarser grids over two images.

    Parameters
    ----------
    transform : Transform
        From the pixels of `fixed` to those of `moving`.
    fixed, moving : Grid
        Over the fixed and the moving image.
    fixed_shape, moving_shape : tuple of int
        Shapes of the images at full resolution.
    """

    transform: Transform
    fixed: Grid
    moving: Grid
    fixed_shape: tuple[int, int]
    moving_shape: tuple[int, int]

    @classmethod
    def of(cls, transform: Transform) -> Rescaled:
        """Wrap a transform between full resolutions."""
        shapes = transform.fixed_shape, transform.moving_shape
        return cls(transform, Grid(shapes[0]), Grid(shapes[1]), *shapes)

    @property
    def fits(self) -> bool:
        """Whether `full` stays within `FIELD_BUDGET`."""
        rows, cols = self.fixed_shape
        return self.transform.displacement is None or rows * cols <= FIELD_BUDGET

    def onto(
        self, fixed: Grid, moving: Grid, window: tuple[slice, slice] | None = None
    ) -> Transform:
        """Express the transform on other grids; see `regrid`."""
        return regrid(self.transform, self.fixed, self.moving, fixed, moving, window)

    def full(self) -> Transform:
        """Return the transform between pixels at full resolution.

        Raises
        ------
        ValueError
            When the displacement field would exceed `FIELD_BUDGET`.
        """
        if not self.fits:
            raise ValueError(
                f"fixed: the displacement field of an image of shape {self.fixed_shape} would "
                f"have more than {FIELD_BUDGET} pixels; use it block by block"
            )
        return self.onto(Grid(self.fixed_shape), Grid(self.moving_shape))

    def points(self, points: NDArray[np.float64], inverse: bool = False) -> NDArray[np.float64]:
        """Map points as `Transform.points`, in pixels at full resolution."""
        first, second = (self.moving, self.fixed) if inverse else (self.fixed, self.moving)
        offset = first.matrix[:2, 2]
        mapped = self.transform.points((points - offset) / first.step, inverse=inverse)
        return mapped * np.array(second.step) + second.matrix[:2, 2]

    def stored(self, pixels: int) -> Rescaled:
        """Reduce the displacement field to at most `pixels`, bilinear between them."""
        grid = self.fixed.coarser(pixels)
        if self.transform.displacement is None or grid == self.fixed:
            return self
        transform = self.onto(grid, self.moving)
        return Rescaled(transform, grid, self.moving, self.fixed_shape, self.moving_shape)


def _sample(
    displacement: NDArray[np.float32], enter: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Resample a displacement field to another grid, in its pixels; `enter` is diagonal."""
    sampled = np.empty((2, *shape), np.float32)
    columns = enter[1, 1] * np.arange(shape[1]) + enter[1, 2]
    step = max(1, _BLOCK_PIXELS // shape[1])
    for first in range(0, shape[0], step):
        rows = slice(first, min(first + step, shape[0]))
        lines = enter[0, 0] * np.arange(rows.start, rows.stop) + enter[0, 2]
        where = np.stack(np.meshgrid(lines, columns, indexing="ij"))
        for axis in (0, 1):
            part = ndimage.map_coordinates(
                displacement[axis], where, np.float32, order=1, mode="nearest"
            )
            sampled[axis, rows] = part / enter[axis, axis]
    sampled.flags.writeable = False
    return sampled
