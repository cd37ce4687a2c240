"""Trainable descriptors on the frozen bus and their correlation (our addition to BusReF).

The bus is trained to reconstruct: its features discriminate intensities, not positions. A grouped
stack of convolutions, with one group for each of F1..F4, turns them into unit-length descriptors.
Both modalities share its weights. The registration networks get the correlation of descriptors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.geometry import offsets
from napari_busref.models.layers import DilatedBlock, unit_length


class Descriptors(nn.Module):
    """F1..F4 -> four groups of unit-length descriptors, (B, 4, D, h, w).

    Parameters
    ----------
    channels : int
        Channels of each F.
    width : int
        Hidden channels of each group.
    size : int
        D, length of a descriptor of one group.
    dilations : tuple of int
        Dilation of each grouped 3x3 convolution; instance norm and ReLU follow each.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 48,
        size: int = 32,
        dilations: tuple[int, ...] = (1, 1, 2, 1),
    ) -> None:
        super().__init__()
        groups = 4
        self.size = size
        self.enter = nn.Sequential(
            nn.InstanceNorm2d(groups * channels), nn.Conv2d(groups * channels, groups * width, 1)
        )
        self.blocks = nn.ModuleList(
            DilatedBlock(groups * width, dilation, groups) for dilation in dilations
        )
        self.leave = nn.Conv2d(groups * width, groups * size, 1, groups=groups)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Compute descriptors from F1..F4, each (B, C, h, w)."""
        x = self.enter(torch.cat(features, 1))
        for block in self.blocks:
            x = block(x)
        x = self.leave(x)
        x = x.unflatten(1, (4, self.size)).float()
        return unit_length(x - x.mean((-2, -1), keepdim=True), dim=2)


def correlate(fixed: Tensor, moving: Tensor) -> Tensor:
    """All-pairs correlation of (B, G, D, h, w) descriptors -> (B, G, h*w, h*w), fixed first."""
    # float32 even under autocast: a softmax at a low temperature amplifies rounding
    with torch.autocast(fixed.device.type, enabled=False):
        return fixed.flatten(3).transpose(2, 3) @ moving.flatten(3)


def local_window(correlation: Tensor, height: int, width: int, radius: int) -> Tensor:
    """Cut the correlations within ``radius`` cells of each fixed cell.

    Parameters
    ----------
    correlation : Tensor
        (B, G, h*w, h*w).

    Returns
    -------
    Tensor
        (B, G * (2 radius + 1)**2, h, w); 0 for cells outside the moving image.
    """
    device = correlation.device
    offsets = torch.arange(-radius, radius + 1, device=device)
    rows = torch.arange(height, device=device)[:, None, None, None] + offsets[None, None, :, None]
    cols = torch.arange(width, device=device)[None, :, None, None] + offsets[None, None, None, :]
    valid = ((rows >= 0) & (rows < height)) & ((cols >= 0) & (cols < width))
    index = (rows.clamp(0, height - 1) * width + cols.clamp(0, width - 1)).flatten(2)
    index = index.flatten(0, 1).expand(*correlation.shape[:2], -1, -1)
    window = correlation.gather(3, index) * valid.flatten(2).flatten(0, 1).to(correlation.dtype)
    return window.transpose(2, 3).unflatten(3, (height, width)).flatten(1, 2)


def aggregated_match(
    window: Tensor, inside: Tensor, temperature: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Match each cell by local correlations averaged over its neighbours.

    One cell's correlations have many peaks. Averaging each offset over ``side`` x ``side`` cells
    keeps those that neighbours share.

    Parameters
    ----------
    window : Tensor
        (B, (2 r + 1)**2, h, w), correlations of ``local_window``.
    inside : Tensor
        The same shape, 1 where the window's cell is valid in the moving image.
    temperature : Tensor
        Scalar of the softmax over the offsets.
    side : int
        Odd number of cells.

    Returns
    -------
    displacement : Tensor
        (B, 2, h, w), (x, y) in cells.
    confidence : Tensor
        (B, 1, h, w), the largest probability.
    """
    correlation = F.avg_pool2d(window * inside, side, 1, side // 2)
    valid_fraction = F.avg_pool2d(inside, side, 1, side // 2)
    probability = (correlation / valid_fraction.clamp_min(0.3) / temperature).softmax(1)
    radius = (round(window.shape[1] ** 0.5) - 1) // 2
    along = offsets(radius, window)[..., None, None].unbind(1)
    displacement = torch.stack([(probability * axis).sum(1) for axis in along], 1)
    return displacement, probability.amax(1, keepdim=True)


def affine_from_matches(
    displacement: Tensor, weight: Tensor, position: Tensor, *, rounds: int = 8, ridge: float = 1e-3
) -> Tensor:
    """Fit an affine to displacements by robust weighted least squares.

    Parameters
    ----------
    displacement : Tensor
        (B, N, 2).
    weight : Tensor
        (B, N), at least 0.
    position : Tensor
        (N, 2), in the units of the displacements.
    rounds : int
        Number of fits; between them, large residuals reduce the weights (Geman-McClure).
    ridge : float
        Damping towards the identity, as a fraction of the weights.

    Returns
    -------
    Tensor
        (B, 2, 3), the affine less the identity.
    """
    design = torch.cat([position, torch.ones_like(position[:, :1])], 1)
    trust = weight
    for index in range(rounds):
        weighted = design * trust[..., None]
        normal = (weighted[..., :, None] * design[:, None, :]).sum(1)
        damping = ridge * trust.sum(1)[:, None, None] + 1e-6
        normal = normal + damping * torch.eye(3, device=design.device, dtype=design.dtype)
        moments = (weighted[..., :, None] * displacement[..., None, :]).sum(1)
        solution = _solve3(normal, moments)
        if index + 1 < rounds:
            residual = (displacement - design @ solution).square().sum(2)
            # squared residual, in units of half the shorter side: a quarter at first, then 3 %
            limit = max(0.06 * 0.25**index, 0.001)
            trust = weight / (1 + residual.detach() / limit).square()
    return solution.transpose(1, 2)


def _solve3(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve 3x3 systems by cofactors: some devices lack a solver."""
    a, b, c = matrix.unbind(1)
    adjugate = torch.stack(
        [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], 2
    )
    determinant = (a * adjugate[:, :, 0]).sum(1)
    return (adjugate[..., None] * right[:, None]).sum(2) / determinant[:, None, None]
