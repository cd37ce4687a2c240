"""ReFusion: the loss with learned weights, and the loss that trains them."""

from __future__ import annotations

import torch
from kornia.filters import spatial_gradient
from kornia.metrics import ssim
from torch import Tensor

from napari_busref.models.fusion.refusion import LossWeights
from napari_busref.training.losses.fusion import target_gradient
from napari_busref.training.recipe import FusionLossConfig


def proposed_loss(
    fused: Tensor, first: Tensor, second: Tensor, weights: LossWeights, settings: FusionLossConfig
) -> Tensor:
    """Mean of ``w_1 |F - I_1| + w_2 |F - I_2| + gradient * w_g |grad F - stronger grad|``.

    `target_gradient` gives the stronger gradient: signed, and selected by local energies.

    Parameters
    ----------
    fused, first, second : Tensor
        (B, 1, H, W).
    weights : LossWeights
        From the loss-proposal module.
    settings : FusionLossConfig
        ``gradient`` weights a gradient of one grey level per pixel against a difference of one.
        ``window``, ``power``, ``noise`` and the first of ``gains`` set the stronger gradient.
    """
    intensity = weights.first * (fused - first).abs() + weights.second * (fused - second).abs()
    stronger = target_gradient(first, second, settings.window, settings.power, settings.noise)
    change = (spatial_gradient(fused)[:, 0] - settings.gains[0] * stronger).abs()
    return (intensity + settings.gradient * weights.gradient * change.sum(1, keepdim=True)).mean()


def reconstruction_loss(
    reconstructed: tuple[Tensor, Tensor], first: Tensor, second: Tensor
) -> Tensor:
    """Error of both sources as reconstructed from the fused image: distance and 1 - SSIM."""
    loss = torch.zeros((), device=first.device)
    for image, source in zip(reconstructed, (first, second), strict=True):
        loss = loss + (image - source).abs().mean() + 0.2 * (1 - ssim(image, source, 7).mean())
    return loss
