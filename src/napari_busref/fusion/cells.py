"""A coarse grid over an image: means of square cells, and the way back to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CellSums", "cell_means", "enlarge"]


def cell_means(
    image: NDArray[Any], side: int, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Mean of each cell; cells at the lower and right end may be smaller.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Numbers or bool.
    side : int
        Of a cell, in pixels.
    mask : ndarray of bool, shape (H, W), optional
        Pixels that count; by default all. A cell without any is 0.
    """
    from skimage.measure import block_reduce  # here: a panel of napari opens without it

    if mask is None:
        mask = np.ones((1, 1), bool)
    covered = block_reduce(np.broadcast_to(mask, image.shape), (side, side), np.sum)
    total = block_reduce(np.where(mask, image, 0), (side, side), np.sum)
    means: NDArray[np.float32] = (total / np.maximum(covered, 1)).astype(np.float32)
    return means


class CellSums:
    """Means of square cells of images that are read window by window.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the images.
    side : int
        Of a cell, in pixels.
    count : int
        Number of images.
    """

    def __init__(self, shape: tuple[int, int], side: int, count: int) -> None:
        self._side = side
        rows, cols = (-(-size // side) for size in shape)
        self._sums = np.zeros((count, rows, cols))
        self._covered = np.zeros((rows, cols))
        self._pixels = np.zeros((rows, cols))

    def add(
        self, window: tuple[slice, slice], mask: NDArray[np.bool_] | None, *images: NDArray[Any]
    ) -> None:
        """Add a window of the images, and of the mask of the pixels that count."""
        if mask is None:
            mask = np.ones(images[0].shape, bool)
        first = [part.start // self._side for part in window]
        edges = [
            np.r_[part.start, np.arange((at + 1) * self._side, part.stop, self._side)] - part.start
            for part, at in zip(window, first, strict=True)
        ]
        place = tuple(slice(at, at + len(one)) for at, one in zip(first, edges, strict=True))

        def total(values: NDArray[Any]) -> NDArray[Any]:
            lines = np.add.reduceat(values, edges[1], axis=1, dtype=np.float64)
            return np.asarray(np.add.reduceat(lines, edges[0], axis=0))

        self._covered[place] += total(mask)
        self._pixels[place] += total(np.ones_like(mask))
        for sums, image in zip(self._sums, images, strict=True):
            sums[place] += total(np.where(mask, image, 0))

    @property
    def means(self) -> NDArray[np.float32]:
        """Mean of each cell of each image; a cell without a pixel that counts is 0."""
        return (self._sums / np.maximum(self._covered, 1)).astype(np.float32)

    @property
    def coverage(self) -> NDArray[np.float32]:
        """Share of the pixels of each cell that count."""
        return (self._covered / np.maximum(self._pixels, 1)).astype(np.float32)

    @property
    def covered(self) -> int:
        """Number of pixels that count."""
        return int(self._covered.sum())


def enlarge(
    cells: NDArray[np.float32],
    side: int,
    shape: tuple[int, int],
    window: tuple[slice, slice] | None = None,
) -> NDArray[np.float32]:
    """Interpolate values of cells linearly to the pixels of an image of a shape.

    Parameters
    ----------
    cells : ndarray of float32, shape (h, w)
    side : int
    shape : tuple of int
    window : tuple of slice, optional
        Rows and columns of the result; all by default.
    """
    import torch
    from torch.nn.functional import interpolate

    rows, cols = window or (slice(0, shape[0]), slice(0, shape[1]))
    # bilinear interpolation reads one cell further
    near = [
        slice(max(part.start // side - 1, 0), min(-(-part.stop // side) + 1, size))
        for part, size in zip((rows, cols), cells.shape, strict=True)
    ]
    values = torch.from_numpy(np.ascontiguousarray(cells[near[0], near[1]]))[None, None]
    size = (side * values.shape[-2], side * values.shape[-1])
    pixels = interpolate(values, size, mode="bilinear", align_corners=False)[0, 0]
    top, left = (
        part.start - one.start * side for part, one in zip((rows, cols), near, strict=True)
    )
    result: NDArray[np.float32] = pixels.numpy()[
        top : top + rows.stop - rows.start, left : left + cols.stop - cols.start
    ]
    return result
