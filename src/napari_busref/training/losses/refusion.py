"""ReFusion: the loss with weights that are learned, and the one they learn from."""

from __future__ import annotations

import torch
from kornia.filters import spatial_gradient
from kornia.metrics import ssim
from torch import Tensor

from napari_busref.models.fusion.refusion import LossWeights
from napari_busref.training.losses.fusion import target_gradient
from napari_busref.training.recipe import FusionLossConfig


def proposed_loss(
    fused: Tensor, first: Tensor, second: Tensor, weights: LossWeights, wanted: FusionLossConfig
) -> Tensor:
    """``w_1 |F - I_1| + w_2 |F - I_2| + gradient * w_g |grad F - stronger grad|``, mean.

    The stronger gradient is that of `target_gradient`: signed, and chosen by the surroundings.

    Parameters
    ----------
    fused, first, second : Tensor
        (B, 1, H, W).
    weights : LossWeights
        From the loss-proposal module.
    wanted : FusionLossConfig
        ``gradient``, what a gradient of one grey level a pixel counts beside a difference of one;
        ``window``, ``power``, ``noise`` and the first of ``gains`` decide the stronger one.
    """
    intensity = weights.first * (fused - first).abs() + weights.second * (fused - second).abs()
    stronger = target_gradient(first, second, wanted.window, wanted.power, wanted.noise)
    change = (spatial_gradient(fused)[:, 0] - wanted.gains[0] * stronger).abs()
    return (intensity + wanted.gradient * weights.gradient * change.sum(1, keepdim=True)).mean()


def reconstruction_loss(
    reconstructed: tuple[Tensor, Tensor], first: Tensor, second: Tensor
) -> Tensor:
    """How badly both sources are told from the fused image: distance and 1 - SSIM."""
    loss = torch.zeros((), device=first.device)
    for found, source in zip(reconstructed, (first, second), strict=True):
        loss = loss + (found - source).abs().mean() + 0.2 * (1 - ssim(found, source, 7).mean())
    return loss
