"""Local correlation of feature maps, and its aggregation over neighbouring cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def local_correlation(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """Correlate each fixed cell with the moving cells in a window around its position.

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
    # the offsets last in memory: pooling is ten times as fast
    return torch.stack(products, -1).permute(0, 3, 1, 2)


def aggregate_costs(window: Tensor, weight: Tensor, side: int) -> Tensor:
    """Average correlations over a square of cells.

    The correlations of one cell have many peaks; averaging keeps the peak that neighbours share.

    Parameters
    ----------
    window : Tensor
        (B, N, h, w), from `local_correlation`.
    weight : Tensor
        (B, 1, h, w), weight of each fixed cell.
    side : int
        Of the square, odd, in cells.
    """
    if side == 1:
        return window
    total = F.avg_pool2d(window * weight, side, 1, side // 2)
    return total / F.avg_pool2d(weight, side, 1, side // 2).clamp_min(1e-3)
