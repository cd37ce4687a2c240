"""Warp planes of any size and number block by block, when a viewer needs a block.

A block reads only its part of the moving image, from the coarsest level that is fine enough.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.planes import Plane
from napari_busref._napari.layers.reading import level_grid, read_window
from napari_busref.images.dtypes import checked_fill
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import onto_levels
from napari_busref.transforms.transform import Transform

__all__ = ["BLOCK", "Source", "lazy_array", "warp_window"]

#: Rows and columns of a block.
BLOCK = 512

_MAX_COARSER = 1.25  # a level that is coarser by less is fine enough


@dataclass(frozen=True, eq=False)
class Source:
    """A moving plane that is read window by window.

    Parameters
    ----------
    plane : Plane
    copies : tuple of (Grid, ndarray)
        Reduced copies of the plane in memory.
    """

    plane: Plane
    copies: tuple[tuple[Grid, NDArray[Any]], ...] = ()


def warp_window(
    source: Source,
    transform: Transform,
    grid: Grid,
    window: tuple[slice, slice],
    *,
    order: int = 1,
    cval: float | None = None,
    nested: bool = False,
) -> NDArray[Any]:
    """Resample a moving plane onto a window of a fixed grid.

    Parameters
    ----------
    source : Source
    transform : Transform
        From the fixed to the moving image.
    grid : Grid
        Over the fixed image.
    window : tuple of slice
        Rows and columns of `grid`, with start and stop.
    order : int
        As for `Transform.apply`; 0 for labels.
    cval : float, optional
        Value outside the moving image, as for `Transform.apply`.
    nested : bool
        True within a dask task.

    Returns
    -------
    ndarray, shape (rows, cols) or (rows, cols, C)
        Sampled from the coarsest level, copy or mean over whole steps that is about as fine as
        `grid`.
    """
    plane = source.plane
    fill = checked_fill(cval, np.dtype(plane.source.dtype), "cval")
    step = _step(transform, grid)
    choices: list[tuple[Grid, int | NDArray[Any]]] = [*source.copies]
    choices.extend((level_grid(plane, level), level) for level in range(len(plane.levels)))
    fine = [choice for choice in choices if max(choice[0].step) <= max(step, 1.0) * _MAX_COARSER]
    chosen, where = max(fine, key=lambda choice: max(choice[0].step))
    reduce = 1
    if order > 0 and isinstance(where, int):
        reduce = min(max(1, int(step / max(chosen.step) * 1.01)), *chosen.shape)
    if reduce > 1:
        chosen = Grid(
            (chosen.shape[0] // reduce, chosen.shape[1] // reduce),
            (chosen.step[0] * reduce, chosen.step[1] * reduce),
        )
    part = onto_levels(transform, grid, chosen, window)
    needed = part.source_window()
    if needed is None:
        channels = plane.source.shape[plane.ndim :]
        dtype = np.dtype(plane.source.dtype).newbyteorder("=")
        return np.full((*part.fixed_shape, *channels), fill, dtype)
    if isinstance(where, int):
        pixels = read_window(
            plane,
            where,
            needed,
            reduce,
            how="mean" if order else "nearest",
            nested=nested,
        )
    else:
        pixels = where[needed]
    shift = np.eye(3)
    shift[:2, 2] = -needed[0].start, -needed[1].start
    shape = (pixels.shape[0], pixels.shape[1])
    local = Transform(
        shift @ part.affine,
        part.displacement,
        fixed_shape=part.fixed_shape,
        moving_shape=shape,
    )
    return local.apply(pixels, order=order, cval=fill)


def lazy_array(
    sizes: Sequence[int],
    axes: tuple[int, int],
    compute: Callable[[tuple[int, ...], tuple[slice, slice]], NDArray[Any]],
    dtype: Any,
    channels: tuple[int, ...] = (),
) -> da.Array:
    """Return a dask array that computes a block when a viewer needs it.

    Parameters
    ----------
    sizes : sequence of int
        Length of every dimension, without channels.
    axes : tuple of int
        Dimensions of rows and columns.
    compute : callable
        Takes the position along the other dimensions and the window of rows and columns; returns
        (rows, cols) or (rows, cols, C).
    dtype : dtype
    channels : tuple of int
        ``(C,)`` or ``()``.

    Returns
    -------
    dask.array.Array
        In chunks of one plane and `BLOCK` rows and columns.
    """
    chunks: list[tuple[int, ...]] = []
    for axis, size in enumerate(sizes):
        side = BLOCK if axis in axes else 1
        chunks.append((*[side] * (size // side), *([size % side] if size % side else [])))
    chunks.extend((size,) for size in channels)
    hidden = tuple(axis for axis in range(len(sizes)) if axis not in axes)
    return da.map_blocks(
        _block,
        chunks=tuple(chunks),
        dtype=np.dtype(dtype),
        meta=np.empty((0,) * (len(sizes) + len(channels)), dtype),
        name=f"napari-busref-{uuid.uuid4().hex}",
        task=_Task(compute, axes, hidden),
    )


class _Task:
    """Hides the arrays in `compute` from dask, which would compute them at once."""

    def __init__(
        self,
        compute: Callable[[tuple[int, ...], tuple[slice, slice]], NDArray[Any]],
        axes: tuple[int, int],
        hidden: tuple[int, ...],
    ) -> None:
        self.compute, self.axes, self.hidden = compute, axes, hidden
        self._token = uuid.uuid4().hex

    def __dask_tokenize__(self) -> str:
        return self._token

    def __call__(self, location: Sequence[tuple[int, int]]) -> NDArray[Any]:
        position = tuple(int(location[axis][0]) for axis in self.hidden)
        rows, cols = (slice(*map(int, location[axis])) for axis in self.axes)
        return np.expand_dims(self.compute(position, (rows, cols)), self.hidden)


def _block(task: _Task, block_info: Any = None) -> NDArray[Any]:
    return task(block_info[None]["array-location"])


def _step(transform: Transform, grid: Grid) -> float:
    """Moving pixels at full resolution from one pixel of the grid to the next."""
    linear = transform.affine[:2, :2] @ np.diag(grid.step)
    return float(np.sqrt(abs(np.linalg.det(linear))))
