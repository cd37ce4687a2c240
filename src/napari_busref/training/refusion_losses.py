"""ReFusion: the loss with weights that are learned, and the one they learn from."""

from __future__ import annotations

import torch
from kornia.filters import spatial_gradient
from kornia.metrics import ssim
from torch import Tensor

from napari_busref.models.refusion import LossWeights


def stronger_gradient(first: Tensor, second: Tensor) -> Tensor:
    """Gradient (B, 2, H, W), at each pixel that of the source where it is longer."""
    a, b = (spatial_gradient(image)[:, 0] for image in (first, second))
    chosen = a.square().sum(1, keepdim=True) >= b.square().sum(1, keepdim=True)
    return torch.where(chosen, a, b)


def proposed_loss(
    fused: Tensor, first: Tensor, second: Tensor, weights: LossWeights, gradient: float
) -> Tensor:
    """``w_1 |F - I_1| + w_2 |F - I_2| + gradient * w_g |grad F - stronger grad|``, mean.

    Parameters
    ----------
    fused, first, second : Tensor
        (B, 1, H, W).
    weights : LossWeights
        From the loss-proposal module.
    gradient : float
        What a gradient of one grey level a pixel counts beside a difference of one.
    """
    intensity = weights.first * (fused - first).abs() + weights.second * (fused - second).abs()
    change = spatial_gradient(fused)[:, 0] - stronger_gradient(first, second)
    return (intensity + gradient * weights.gradient * change.abs().sum(1, keepdim=True)).mean()


def reconstruction_loss(
    reconstructed: tuple[Tensor, Tensor], first: Tensor, second: Tensor
) -> Tensor:
    """How badly both sources are told from the fused image: distance and 1 - SSIM."""
    loss = torch.zeros((), device=first.device)
    for found, source in zip(reconstructed, (first, second), strict=True):
        loss = loss + (found - source).abs().mean() + 0.2 * (1 - ssim(found, source, 7).mean())
    return loss
