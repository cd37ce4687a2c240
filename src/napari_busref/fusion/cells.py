"""A coarse grid over an image: means of square cells, and the way back to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cell_means", "enlarge"]


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


def enlarge(cells: NDArray[np.float32], side: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Interpolate values of cells linearly to the pixels of an image of a shape."""
    import torch
    from torch.nn.functional import interpolate

    values = torch.from_numpy(np.ascontiguousarray(cells))[None, None]
    size = (side * cells.shape[0], side * cells.shape[1])
    pixels = interpolate(values, size, mode="bilinear", align_corners=False)[0, 0]
    result: NDArray[np.float32] = pixels.numpy()[: shape[0], : shape[1]]
    return result
