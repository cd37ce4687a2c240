"""Local correlation of feature maps, and what neighbouring cells make of it together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def local_correlation(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """Correlate each fixed cell with the moving cells around the same place.

    Parameters
    ----------
    fixed, moving : Tensor
        (B, D, h, w), float32.
    radius : int
        In cells.

    Returns
    -------
    Tensor
        (B, (2 radius + 1)**2, h, w), row offsets outermost; 0 outside the moving image.
    """
    height, width = fixed.shape[-2:]
    padded = F.pad(moving, (radius,) * 4)
    span = range(2 * radius + 1)
    products = [
        (fixed * padded[..., row : row + height, col : col + width]).sum(1)
        for row in span
        for col in span
    ]
    # the offsets last in memory: pooling is ten times as fast so
    return torch.stack(products, -1).permute(0, 3, 1, 2)


def aggregate_costs(window: Tensor, weight: Tensor, reach: int) -> Tensor:
    """Average correlations over the cells around each one.

    One cell's correlations have many peaks; the offset that neighbours share remains.

    Parameters
    ----------
    window : Tensor
        (B, N, h, w).
    weight : Tensor
        (B, 1, h, w), how much each fixed cell counts.
    reach : int
        Odd side of the square of cells.
    """
    if reach == 1:
        return window
    votes = F.avg_pool2d(window * weight, reach, 1, reach // 2)
    voters = F.avg_pool2d(weight, reach, 1, reach // 2)
    return votes / voters.clamp_min(1e-3)
