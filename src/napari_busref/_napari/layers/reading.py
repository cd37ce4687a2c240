"""Reading planes of any size within a budget: a coarser level, or means over blocks of pixels."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.grids import Grid
from napari_busref._napari.layers.planes import Plane
from napari_busref.images.dtypes import cast
from napari_busref.runtime.progress import check

__all__ = ["PIXEL_BUDGET", "Reading", "choose_reading", "level_grid", "read_window"]

#: Pixels of a plane that registration looks at: the models' largest working size is 2048 x 2048.
PIXEL_BUDGET = 2048 * 2048


@dataclass(frozen=True, eq=False)
class Reading:
    """How a plane is to be read.

    Parameters
    ----------
    plane : Plane
    level : int
        Of ``plane.levels``.
    step : int
        Pixels of that level, along rows and columns, that become one.
    """

    plane: Plane
    level: int
    step: int

    @property
    def grid(self) -> Grid:
        """The pixels that are read, over the plane at full resolution."""
        level = level_grid(self.plane, self.level)
        rows, cols = (size // self.step for size in level.shape)
        return Grid((rows, cols), (level.step[0] * self.step, level.step[1] * self.step))

    def read(
        self,
        how: Literal["mean", "nearest"] = "mean",
        cancel: threading.Event | None = None,
    ) -> NDArray[Any]:
        """Read the plane, in pieces no larger than the budget.

        Parameters
        ----------
        how : str
            ``"mean"`` of ``step x step`` pixels, or the ``"nearest"`` to their middle, for labels.
        cancel : threading.Event, optional
            Looked at between pieces.

        Returns
        -------
        ndarray, shape ``grid.shape`` or that and channels
            Of the layer's type.

        Raises
        ------
        Cancelled
            When `cancel` was set.
        """
        rows, cols = self.grid.shape
        window = (slice(0, rows), slice(0, cols))
        return read_window(self.plane, self.level, window, self.step, how=how, cancel=cancel)


def choose_reading(plane: Plane, pixels: int = PIXEL_BUDGET) -> Reading:
    """Choose what to read of a plane so that it is at most a number of pixels.

    Parameters
    ----------
    plane : Plane
        Of one or several levels.
    pixels : int
        The budget.

    Returns
    -------
    Reading
        The finest level that keeps to the budget; if there is none, the coarsest level reduced by
        the smallest whole step that does.
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
    # not more than there is, of a plane that is very long and narrow
    return Reading(plane, last, min(step, rows, cols))


def level_grid(plane: Plane, level: int) -> Grid:
    """The pixels of one level over the plane at full resolution."""
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
    """Read a part of a plane at a level, reduced by a whole step.

    Parameters
    ----------
    plane : Plane
    level : int
        Of ``plane.levels``.
    window : tuple of slice
        Rows and columns wanted, with start and stop, counted in reduced pixels.
    step : int
        Pixels of the level that become one.
    how : str
        See `Reading.read`.
    nested : bool
        True within a task of dask: what is read of a dask array is then computed in this thread.
    cancel : threading.Event, optional
        Looked at between pieces.

    Returns
    -------
    ndarray, shape (rows, cols) or (rows, cols, C)
        Of the layer's type, native byte order where pixels were averaged. When `step` is more
        than 1 the level is read in pieces, each of them once, of at most a quarter of
        `PIXEL_BUDGET` where the chunks of the array allow that.
    """
    rows, cols = window
    array = plane.levels[level]
    index = _index(plane, level)

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
    height, width = _piece(array, plane.axes, step)
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


def _index(plane: Plane, level: int) -> list[int | slice]:
    """The plane's index, on a level that may have fewer planes too."""
    index = list(plane.index)
    for axis, number in zip(plane.hidden, plane.position, strict=True):
        size = int(plane.levels[level].shape[axis])
        index[axis] = min(int((number + 0.5) * size / plane.sizes[axis]), size - 1)
    return index


def _piece(array: Any, axes: tuple[int, int], step: int) -> tuple[int, int]:
    """Rows and columns, in reduced pixels, to read at a time: whole chunks if there are any."""
    side = math.isqrt(PIXEL_BUDGET // 4)
    chunks = getattr(array, "chunks", None)
    sizes = []
    for axis in axes:
        chunk = chunks[axis] if chunks is not None else 1
        chunk = int(max(chunk)) if isinstance(chunk, tuple) else int(chunk)  # dask, or zarr, h5py
        together = math.lcm(chunk, step)
        if together > max(side, chunk):  # pieces cannot end where chunks end
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
