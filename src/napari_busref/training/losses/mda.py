"""MDA's losses: the information of each source sets its weight.

Two shallow levels of the frozen bus measure the information (in the paper: of VGG-16).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.filters import spatial_gradient
from kornia.metrics import ssim
from torch import Tensor

from napari_busref.models.fusion.mda import Joined

#: Of the fused features of each of MDA's pairs, as in the released loss; here their sum is 1.
FEATURE_WEIGHTS = tuple(weight / 21 for weight in (8, 8, 2, 2, 1))

_C2 = 0.03**2  # constant of SSIM


def feature_entropy(features: Tensor, bins: int = 32) -> Tensor:
    """Mean entropy of the channels of (B, C, H, W) in [0, 1]: (B,), in bits."""
    level = (features.clamp(0, 1) * (bins - 1)).round().long().flatten(2)
    counts = torch.zeros(*level.shape[:2], bins, device=features.device)
    counts.scatter_add_(2, level, torch.ones_like(level, dtype=counts.dtype))
    share = counts / level.shape[2]
    return -(share * share.clamp_min(1e-12).log2()).sum(2).mean(1)


@torch.no_grad()
def information_weights(
    infrared: list[Tensor], visible: list[Tensor], beta: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Weights of the infrared source; the weights of the visible one are 1 minus these.

    Parameters
    ----------
    infrared, visible : list of Tensor
        Shallow features (B, C, h, w) of both sources, at least 0.
    beta : float
        Weight of a standard deviation relative to a bit of entropy.
    temperature : float
        Of the softmax over both sources; a small one selects.

    Returns
    -------
    intensity, structure : Tensor
        (B,), from entropy and standard deviation, and from gradient energy.
    """
    amounts, energies = [], []
    for ir, vis in zip(infrared, visible, strict=True):
        # one scale for both sources, to compare their contrasts
        largest = torch.cat([ir, vis], 2).amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        pair = [ir / largest, vis / largest]
        amounts.append(
            torch.stack([feature_entropy(x) + beta * x.std((2, 3)).mean(1) for x in pair])
        )
        energy = torch.stack([spatial_gradient(x).square().mean((1, 2, 3, 4)) for x in pair])
        energies.append(energy / energy.sum(0).clamp_min(1e-12))
    intensity = torch.stack(amounts).mean(0) / temperature
    structure = torch.stack(energies).mean(0) / (temperature / 2)
    return intensity.softmax(0)[0], structure.softmax(0)[0]


def image_loss(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    intensity: Tensor,
    structure: Tensor,
    scales: int = 3,
) -> Tensor:
    """Image level: weighted squared distance, and weighted 1 - SSIM over scales.

    ``intensity`` and ``structure`` (B,) are the weights of the infrared image.
    """
    mse = intensity * (fused - infrared).square().mean((1, 2, 3)) + (1 - intensity) * (
        fused - visible
    ).square().mean((1, 2, 3))
    loss = mse
    for scale in range(scales):
        if scale:
            fused, infrared, visible = (F.avg_pool2d(x, 2) for x in (fused, infrared, visible))
        similar = structure * ssim(fused, infrared, 7).mean((1, 2, 3)) + (1 - structure) * ssim(
            fused, visible, 7
        ).mean((1, 2, 3))
        loss = loss + (1 - similar) / scales
    return loss.mean()


def feature_loss(pairs: list[Joined]) -> Tensor:
    """Feature level: fused features near the infrared ones, with gradients of the visible ones.

    The features are the network's own. Their targets get no gradient, and their root mean square
    is the unit: smaller features then do not make a smaller loss.
    """
    loss = torch.zeros((), device=pairs[0].fused.device)
    for weight, pair in zip(FEATURE_WEIGHTS, pairs, strict=True):
        infrared, visible = pair.infrared.detach(), pair.visible.detach()
        unit = torch.cat([infrared, visible], 1).square().mean().add(1e-8).sqrt()
        value = (pair.fused - infrared).abs().mean()
        gradient = (spatial_gradient(pair.fused) - spatial_gradient(visible)).abs().mean()
        loss = loss + weight * (value + gradient) / unit
    return loss


def _mean(image: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(image, window, stride=1)


def contrast_structure(first: Tensor, second: Tensor, window: int = 15) -> Tensor:
    """``(2 cov + C2) / (var + var + C2)`` of every complete window: (B, 1, h, w)."""
    mean_a, mean_b = _mean(first, window), _mean(second, window)
    variance = _mean(first * first, window) - mean_a**2 + _mean(second * second, window)
    variance = variance - mean_b**2
    covariance = _mean(first * second, window) - mean_a * mean_b
    return (2 * covariance + _C2) / (variance + _C2)


def patch_loss(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    beta: float,
    temperature: float,
    window: int = 15,
) -> Tensor:
    """Patch level: contrast and structure, and squared distance, of overlapping windows.

    A softmax over the gradient energies of both sources in the window weights the structure. A
    softmax over their mean plus ``beta`` times their variance weights the distance.
    """
    with torch.no_grad():
        energies = torch.cat(
            [
                _mean(spatial_gradient(x)[:, 0].square().sum(1, keepdim=True), window)
                for x in (infrared, visible)
            ],
            1,
        )
        share = energies / energies.sum(1, keepdim=True).clamp_min(1e-12)
        structure = (share / (temperature / 2)).softmax(1)
        sources = torch.cat([infrared, visible], 1)
        means = _mean(sources, window)
        variances = _mean(sources.square(), window) - means.square()
        brightness = ((means + beta * variances) / temperature).softmax(1)
    loss = torch.zeros((), device=fused.device)
    for index, source in enumerate((infrared, visible)):
        dissimilarity = 1 - contrast_structure(fused, source, window)
        distance = _mean((fused - source).square(), window)
        loss = loss + (structure[:, index : index + 1] * dissimilarity).mean()
        loss = loss + (brightness[:, index : index + 1] * distance).mean()
    return loss


def style_loss(fused: list[Tensor], infrared: list[Tensor]) -> Tensor:
    """Style: Kullback-Leibler divergence of the Gram matrices, normalised by softmax.

    Zero when the features of the fused and of the infrared image have the same correlations.
    """
    losses = []
    for f, ir in zip(fused, infrared, strict=True):
        grams = []
        for x in (f, ir):
            flat = x.flatten(2)
            flat = flat / flat.square().mean((1, 2), keepdim=True).add(1e-8).sqrt()
            grams.append((flat @ flat.transpose(1, 2) / flat.shape[2]).flatten(1))
        losses.append(
            F.kl_div(
                grams[0].log_softmax(1),
                grams[1].log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
        )
    return torch.stack(losses).mean()
