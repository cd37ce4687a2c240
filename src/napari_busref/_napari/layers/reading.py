"""Read planes of any size within a pixel budget: a coarser level, or means over blocks."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.planes import Plane
from napari_busref.images.dtypes import cast
from napari_busref.runtime.progress import check
from napari_busref.transforms.grids import Grid

__all__ = ["PIXEL_BUDGET", "Reading", "choose_reading", "level_grid", "read_window"]

#: Most pixels that registration reads of a plane; the models work on 2048 x 2048 at most.
PIXEL_BUDGET = 2048 * 2048


@dataclass(frozen=True, eq=False)
class Reading:
    """Level and step at which a plane is read.

    Parameters
    ----------
    plane : Plane
    level : int
        Of ``plane.levels``.
    step : int
        Pixels of that level along rows and columns that become one.
    """

    plane: Plane
    level: int
    step: int

    @property
    def grid(self) -> Grid:
        """Grid of the pixels read, over the plane at full resolution."""
        level = level_grid(self.plane, self.level)
        rows, cols = (size // self.step for size in level.shape)
        return Grid((rows, cols), (level.step[0] * self.step, level.step[1] * self.step))

    def read(
        self,
        how: Literal["mean", "nearest"] = "mean",
        cancel: threading.Event | None = None,
    ) -> NDArray[Any]:
        """Read the plane in pieces within the budget.

        Parameters
        ----------
        how : str
            ``"mean"`` of ``step x step`` pixels; for labels ``"nearest"``, the centre pixel.
        cancel : threading.Event, optional
            Checked between pieces.

        Returns
        -------
        ndarray, shape ``grid.shape`` and channels
            In the layer's dtype.

        Raises
        ------
        Cancelled
            When `cancel` is set.
        """
        rows, cols = self.grid.shape
        window = (slice(0, rows), slice(0, cols))
        return read_window(self.plane, self.level, window, self.step, how=how, cancel=cancel)


def choose_reading(plane: Plane, pixels: int = PIXEL_BUDGET) -> Reading:
    """Choose the finest reading of a plane within a pixel budget.

    Parameters
    ----------
    plane : Plane
        With one or several levels.
    pixels : int
        The budget.

    Returns
    -------
    Reading
        The finest level within the budget, else the coarsest level reduced by the smallest whole
        step that fits.
    """
    if pixels < 1:
        raise ValueError(f"pixels: got {pixels}, need at least 1")
    for level in range(len(plane.levels)):
        if math.prod(level_grid(plane, level).shape) <= pixels:
            return Reading(plane, level, 1)
    last = len(plane.levels) - 1
    rows, cols = level_grid(plane, last).shape
    step = math.ceil(math.sqrt(rows * cols / pixels))
    while (rows // step) * (cols // step) > pixels:
        step += 1
    return Reading(plane, last, min(step, rows, cols))  # a narrow plane keeps one row or column


def level_grid(plane: Plane, level: int) -> Grid:
    """Return the grid of one level over the plane at full resolution."""
    shape = plane.levels[level].shape
    rows, cols = plane.axes
    return Grid.over((int(shape[rows]), int(shape[cols])), plane.shape)


def read_window(
    plane: Plane,
    level: int,
    window: tuple[slice, slice],
    step: int = 1,
    *,
    how: Literal["mean", "nearest"] = "mean",
    nested: bool = False,
    cancel: threading.Event | None = None,
) -> NDArray[Any]:
    """Read a window of a plane at a level, reduced by a whole step.

    Parameters
    ----------
    plane : Plane
    level : int
        Of ``plane.levels``.
    window : tuple of slice
        Rows and columns with start and stop, in reduced pixels.
    step : int
        Pixels of the level that become one.
    how : str
        See `Reading.read`.
    nested : bool
        True within a dask task; dask arrays are then computed in this thread.
    cancel : threading.Event, optional
        Checked between pieces.

    Returns
    -------
    ndarray, shape (rows, cols) or (rows, cols, C)
        In the layer's dtype, with native byte order where pixels are averaged.

    Notes
    -----
    With a `step` above 1, the level is read once, in pieces. A piece has at most a quarter of
    `PIXEL_BUDGET` where the array's chunks allow that.
    """
    rows, cols = window
    array = plane.levels[level]
    index = _index_on(plane, level)

    def read(lines: slice, columns: slice) -> NDArray[Any]:
        where = list(index)
        for axis, part in zip(plane.axes, (lines, columns), strict=True):
            where[axis] = slice(part.start * step, part.stop * step)
        piece = array[tuple(where)]
        if nested and hasattr(piece, "compute"):
            piece = piece.compute(scheduler="synchronous")
        return np.asarray(piece)

    if step == 1:
        check(cancel)
        return read(rows, cols)
    reduce = _mean if how == "mean" else _nearest
    height, width = _piece_size(array, plane.axes, step)
    lines = []
    for top in range(rows.start, rows.stop, height):
        line = []
        for left in range(cols.start, cols.stop, width):
            check(cancel)
            part = (
                slice(top, min(top + height, rows.stop)),
                slice(left, min(left + width, cols.stop)),
            )
            line.append(reduce(read(*part), step))
        lines.append(np.concatenate(line, axis=1))
    return np.concatenate(lines, axis=0)


def _index_on(plane: Plane, level: int) -> list[int | slice]:
    """The plane's index on a level, which may have fewer planes."""
    index = list(plane.index)
    for axis, number in zip(plane.hidden, plane.position, strict=True):
        size = int(plane.levels[level].shape[axis])
        index[axis] = min(int((number + 0.5) * size / plane.sizes[axis]), size - 1)
    return index


def _piece_size(array: Any, axes: tuple[int, int], step: int) -> tuple[int, int]:
    """Rows and columns of a piece in reduced pixels: whole chunks where possible."""
    side = math.isqrt(PIXEL_BUDGET // 4)
    chunks = getattr(array, "chunks", None)
    sizes = []
    for axis in axes:
        chunk = chunks[axis] if chunks is not None else 1
        chunk = int(max(chunk)) if isinstance(chunk, tuple) else int(chunk)  # dask, or zarr, h5py
        together = math.lcm(chunk, step)
        if together > max(side, chunk):  # no piece can end where a chunk ends
            sizes.append(max(1, max(side, chunk) // step))
        else:
            sizes.append(max(1, side // together) * together // step)
    return sizes[0], sizes[1]


def _mean(piece: NDArray[Any], step: int) -> NDArray[Any]:
    rows, cols = (size // step for size in piece.shape[:2])
    blocks = piece.reshape(rows, step, cols, step, *piece.shape[2:])
    work = np.float32 if piece.dtype.itemsize <= 2 else np.float64
    return cast(blocks.mean(axis=(1, 3), dtype=work), piece.dtype)


def _nearest(piece: NDArray[Any], step: int) -> NDArray[Any]:
    return piece[step // 2 :: step, step // 2 :: step]
