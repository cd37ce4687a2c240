"""Losses of BusReF (reconstruction, fusion, registration) and our additions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.filters import laplacian, sobel, spatial_gradient
from kornia.metrics import ssim
from torch import Tensor

_EPS = 1e-6


def reconstruction_loss(image: Tensor, reconstructed: Tensor, weight: float) -> Tensor:
    """``L_re = ||I - I_re||_2 + lambda (1 - SSIM(I, I_re))``, the norm as a root mean square."""
    distance = (image - reconstructed).square().mean((1, 2, 3)).add(_EPS).sqrt().mean()
    return distance + weight * (1 - ssim(image, reconstructed, 11).mean())


def similarity_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """``L_wsim = 1 - (SSIM(I_f, I_v) + SSIM(I_f, I_r)) / 2``."""
    return 1 - (ssim(fused, visible, 11).mean() + ssim(fused, infrared, 11).mean()) / 2


def gradient_target(visible: Tensor, infrared: Tensor, gamma: float) -> Tensor:
    """Stronger Laplacian of both, its magnitude to the power ``gamma`` (< 1: weak edges grow)."""
    gradients = [laplacian(image, 3, normalized=False) for image in (visible, infrared)]
    stronger = torch.where(gradients[0].abs() > gradients[1].abs(), gradients[0], gradients[1])
    return stronger.sign() * (stronger.abs() + _EPS).pow(gamma)


def fusion_gradient_loss(fused: Tensor, visible: Tensor, infrared: Tensor, gamma: float) -> Tensor:
    """``L_grad = ||grad I_f - grad I_t||_2`` with the Laplacian as gradient."""
    difference = laplacian(fused, 3, normalized=False) - gradient_target(visible, infrared, gamma)
    return difference.square().mean((1, 2, 3)).add(_EPS).sqrt().mean()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask of (B, 1, H, W), averaged over the batch."""
    return ((values * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1)).mean()


def masked_correlation(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """MNCC: normalised cross-correlation over the mask, averaged over the batch."""
    total = mask.sum((1, 2, 3), keepdim=True).clamp_min(1)

    def centred(image: Tensor) -> Tensor:
        return (image - (image * mask).sum((1, 2, 3), keepdim=True) / total) * mask

    a, b = centred(first), centred(second)
    covariance = (a * b).sum((1, 2, 3))
    energy = a.square().sum((1, 2, 3)) * b.square().sum((1, 2, 3))
    return (covariance / (energy + _EPS).sqrt()).mean()


def guide_loss(fused: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """``L_MG``: distance of the Laplacians of two fused images, over the mask."""
    difference = laplacian(fused, 3, normalized=False) - laplacian(target, 3, normalized=False)
    return (masked_mean(difference.square(), mask) + _EPS).sqrt()


def endpoint_loss(estimated: Tensor, mask: Tensor, truth: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean distance of positions (B, H, W, 2) over the mask, in cells of 8 pixels."""
    half = torch.tensor([size[1] / 16, size[0] / 16], device=truth.device)
    distance = ((estimated - truth) * half).square().sum(-1).add(_EPS).sqrt()
    return masked_mean(distance[:, None], mask)


def smoothness_loss(phi: Tensor) -> Tensor:
    """Mean squared first differences of a displacement (B, 2, h, w) in cells."""
    return spatial_gradient(phi, normalized=True).square().mean()


def matching_loss(
    correlation: Tensor, temperature: Tensor, target: Tensor, mask: Tensor
) -> Tensor:
    """Cross-entropy of the matches, in both directions.

    Parameters
    ----------
    correlation : Tensor
        (B, h*w, h*w), fixed cells along the first axis of cells.
    temperature : Tensor
        Scalar.
    target : Tensor
        (B, h, w, 2), true position (x, y) in cells of the moving image for each fixed cell.
    mask : Tensor
        (B, h, w), fixed cells that have a match.
    """
    height, width = mask.shape[1:]
    logits = correlation / temperature
    floor = target.floor()
    fraction = target - floor
    loss = torch.zeros((), device=correlation.device)
    rows, columns = logits.log_softmax(2), logits.log_softmax(1)
    total = torch.zeros((), device=correlation.device)
    # the four cells around the true position share it by bilinear weights
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = (floor[..., 0] + dx).long(), (floor[..., 1] + dy).long()
            share = (fraction[..., 0] if dx else 1 - fraction[..., 0]) * (
                fraction[..., 1] if dy else 1 - fraction[..., 1]
            )
            valid = mask & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            share = (share * valid).flatten(1)
            index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)[..., None]
            likelihood = rows.gather(2, index) + columns.gather(2, index)
            loss = loss - (share * likelihood.squeeze(2)).sum() / 2
            total = total + share.sum()
    return loss / total.clamp_min(1)


def contrastive_loss(
    first: Tensor,
    second: Tensor,
    temperature: Tensor,
    valid: Tensor,
    positions: tuple[Tensor, Tensor],
    *,
    min_distance: float = 2.0,
) -> Tensor:
    """Cross-entropy between N corresponding descriptors, in both directions (InfoNCE).

    Parameters
    ----------
    first, second : Tensor
        (B, N, D), unit length; row i of both describes the same position.
    temperature : Tensor
        Scalar.
    valid : Tensor
        (B, N) bool, rows that count.
    positions : tuple of Tensor
        (B, N, 2), of the rows in each image, in cells.
    min_distance : float
        Rows closer than this are no negatives of each other.
    """
    logits = first @ second.transpose(1, 2) / temperature
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    near = torch.stack([torch.cdist(p, p) < min_distance for p in positions]).any(0)
    ignored = (near | ~valid[:, None] | ~valid[:, :, None]) & ~own
    logits = logits.masked_fill(ignored, -1e4)
    loss = -(logits.log_softmax(2) + logits.log_softmax(1)).diagonal(dim1=1, dim2=2) / 2
    return (loss * valid).sum() / valid.sum().clamp_min(1)


def offset_loss(logits: Tensor, shift: Tensor, mask: Tensor, offsets: Tensor) -> Tensor:
    """Cross-entropy of the scores of a window of offsets against the true offsets.

    Parameters
    ----------
    logits : Tensor
        (B, N, h, w), one score per offset.
    shift : Tensor
        (B, 2, h, w), true offset (x, y) in cells; the four offsets around it share it.
    mask : Tensor
        (B, 1, h, w), cells that count. A true offset outside the window excludes its cell too.
    offsets : Tensor
        (N, 2), x and y.
    """
    share = torch.ones_like(logits)
    for axis in range(2):
        distance = shift[:, axis, None] - offsets[None, :, axis, None, None]
        share = share * (1 - distance.abs()).clamp_min(0)
    valid = mask * (share.sum(1, keepdim=True) > 0.999)
    loss = -(share * logits.log_softmax(1)).sum(1, keepdim=True)
    return (loss * valid).sum() / valid.sum().clamp_min(1)


def intensity_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Our addition to the fusion loss: mean distance to the brighter source."""
    return F.l1_loss(fused, torch.maximum(visible, infrared))


def photometric_loss(registered: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """SuperFusion: ``0.1 (L1 + L2) + 0.9 gradient`` of two images (B, 1, H, W), over the mask."""
    difference = registered - target
    gradient = spatial_gradient(difference).abs().mean(2)
    near = difference.abs() + difference.square()
    return masked_mean(0.1 * near + 0.9 * gradient, mask)


def edge_weight(image: Tensor, amount: float) -> Tensor:
    """``1 + amount * g`` for (B, 1, H, W): second-order gradients ``g`` with mean 1 per image."""
    strength = spatial_gradient(image, order=2).abs().sum(2)
    return 1 + amount * strength / strength.mean((1, 2, 3), keepdim=True).clamp_min(1e-4)


def bending_loss(phi: Tensor) -> Tensor:
    """Mean absolute second differences of a displacement (B, 2, h, w) in cells.

    The second differences of an affine are 0: rotation and scale cost nothing.
    """
    along_x = phi[..., 2:] - 2 * phi[..., 1:-1] + phi[..., :-2]
    along_y = phi[..., 2:, :] - 2 * phi[..., 1:-1, :] + phi[..., :-2, :]
    mixed = phi[..., 1:, 1:] - phi[..., 1:, :-1] - phi[..., :-1, 1:] + phi[..., :-1, :-1]
    return along_x.abs().mean() + along_y.abs().mean() + 2 * mixed.abs().mean()


def registered_fusion_loss(
    fused: Tensor, visible: Tensor, infrared: Tensor, mask: Tensor
) -> Tensor:
    """SuperFusion's fusion loss over the mask: maximum gradient, SSIM, maximum intensity."""
    gradient = sobel(fused) - torch.maximum(sobel(visible), sobel(infrared))
    intensity = fused - torch.maximum(visible, infrared)
    similarity = (ssim(fused, visible, 11) + ssim(fused, infrared, 11)) / 2
    return masked_mean(gradient.abs() + intensity.abs() + 1 - similarity, mask)
