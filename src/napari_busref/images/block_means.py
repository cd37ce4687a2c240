"""Coarser levels of an image of any size, read and averaged strip by strip."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.arrays import to_array, with_nodata
from napari_busref.images.nodata import NoData
from napari_busref.images.preprocess import usable

__all__ = ["block_means"]

_STRIP = 1 << 25  # bytes read at a time
_Window = tuple[slice, slice]


def block_means(
    image: Any, step: int, window: _Window | None = None, *, nodata: NoData = None
) -> NDArray[Any]:
    """Average blocks of pixels of an image that is read window by window.

    Parameters
    ----------
    image : array_like, shape (H, W) or (H, W, 3 or 4)
        Anything with a shape and a dtype that reads what is indexed: arrays of numpy, zarr or
        dask, memory maps. Coarser ``levels`` of it serve where they fit.
    step : int
        Rows and columns of a block.
    window : tuple of slice, optional
        Rows and columns of the result, with start and stop; all by default.
    nodata : float, "auto" or None
        Value of missing pixels, which have no part in the means.

    Returns
    -------
    ndarray
        The type of the image. Blocks without a valid pixel are NaN in floats, and masked in a
        `numpy.ma.MaskedArray` of integers.
    """
    shape = tuple(-(-size // step) for size in image.shape[:2])
    rows, cols = window or (slice(0, shape[0]), slice(0, shape[1]))
    level, side = _level(image, step)
    width = (cols.stop - cols.start) * side
    channels = int(np.prod(image.shape[2:], dtype=int))
    line = width * side * channels * np.dtype(image.dtype).itemsize
    count = max(_STRIP // line, 1)
    columns = slice(cols.start * side, cols.stop * side)
    parts = []
    for first in range(rows.start, rows.stop, count):
        last = min(first + count, rows.stop)
        part, _ = to_array(level[first * side : last * side, columns], "image")
        part = with_nodata(part, [], nodata)
        parts.append(_means(part, side, (last - first, cols.stop - cols.start)))
    joined: NDArray[Any] = (
        np.ma.concatenate(parts) if any(map(np.ma.isMA, parts)) else (np.concatenate(parts))
    )
    return joined


def _level(image: Any, step: int) -> tuple[Any, int]:
    """The coarsest level whose pixels divide the blocks, and the side of a block in them."""
    chosen, side = image, step
    for level in getattr(image, "levels", ()):
        ratio = round(image.shape[0] / level.shape[0])
        exact = all(
            abs(full - ratio * size) < 2 * ratio
            for full, size in zip(image.shape[:2], level.shape[:2], strict=True)
        )
        if exact and step % ratio == 0 and step // ratio < side:
            chosen, side = level, step // ratio
    return chosen, side


def _means(part: NDArray[Any], side: int, shape: tuple[int, int]) -> NDArray[Any]:
    """Means of `shape` blocks; the last ones may be smaller."""
    if side == 1:
        return part
    valid, plain = usable(part), np.ma.getdata(part)
    pads = [(0, count * side - size) for count, size in zip(shape, valid.shape, strict=True)]
    work = np.float64 if plain.dtype.itemsize > 4 else np.float32
    blocks, channels = (shape[0], side, shape[1], side), plain.shape[2:]
    if valid.all() and not any(more for _, more in pads):
        means = plain.reshape(*blocks, *channels).mean((1, 3), dtype=work)
        return _as(means, plain.dtype)
    weight = np.pad(valid, pads).reshape(blocks).sum((1, 3), dtype=work)
    each = valid if plain.ndim == 2 else valid[..., None]
    known = np.pad(np.where(each, plain, 0), pads + [(0, 0)] * len(channels))
    sums = known.reshape(*blocks, *channels).sum((1, 3), dtype=work)
    weight = weight.reshape(*weight.shape, *[1] * len(channels))
    means, empty = sums / np.maximum(weight, 1), np.broadcast_to(weight == 0, sums.shape)
    if plain.dtype.kind == "f":
        return _as(np.where(empty, np.nan, means), plain.dtype)
    found = _as(means, plain.dtype)
    return np.ma.MaskedArray(found, empty) if empty.any() else found


def _as(means: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    rounded = means if dtype.kind == "f" else np.rint(means)
    return rounded.astype(dtype)
