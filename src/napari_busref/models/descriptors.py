"""Trainable descriptors on the frozen bus and their correlation (our addition to BusReF).

The bus is trained to reconstruct, so its features tell intensities apart, not places. A grouped
stack of convolutions, one group for each of F1..F4 and the same weights for both modalities, turns
them into unit-length descriptors; the registration networks see how well these agree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Descriptors(nn.Module):
    """F1..F4 -> four groups of unit-length descriptors, (B, 4, D, h, w).

    Parameters
    ----------
    channels : int
        Channels of each F.
    width : int
        Channels of each group inside.
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
        dilations: tuple[int, ...] = (1, 2, 3, 1),
    ) -> None:
        super().__init__()
        groups = 4
        self.size = size
        self.enter = nn.Sequential(
            nn.InstanceNorm2d(groups * channels), nn.Conv2d(groups * channels, groups * width, 1)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    groups * width,
                    groups * width,
                    3,
                    padding=dilation,
                    dilation=dilation,
                    groups=groups,
                    padding_mode="reflect",
                ),
                nn.InstanceNorm2d(groups * width, affine=True),
                nn.ReLU(),
            )
            for dilation in dilations
        )
        self.leave = nn.Conv2d(groups * width, groups * size, 1, groups=groups)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Describe F1..F4, each (B, C, h, w)."""
        x = self.enter(torch.cat(features, 1))
        for block in self.blocks:
            x = x + block(x)
        x = self.leave(x)
        x = x.unflatten(1, (4, self.size)).float()
        return F.normalize(x - x.mean((-2, -1), keepdim=True), dim=2, eps=1e-4)


def correlate(fixed: Tensor, moving: Tensor) -> Tensor:
    """All-pairs correlation of (B, G, D, h, w) descriptors -> (B, G, h*w, h*w), fixed first."""
    # in float32 also under autocast: a softmax at a low temperature would show the rounding
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
        (B, G * (2 radius + 1)**2, h, w); cells outside the moving image read 0.
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


def expected_match(correlation: Tensor, height: int, width: int, temperature: Tensor) -> Tensor:
    """Where each fixed cell finds its match, and how surely.

    Parameters
    ----------
    correlation : Tensor
        (B, h*w, h*w), fixed cells first.
    temperature : Tensor
        Scalar; the softmax runs over ``correlation / temperature``.

    Returns
    -------
    Tensor
        (B, 5, h, w): expected displacement (x, y) in cells, that of the best cell and its
        neighbours, and the root of the best probability of a dual softmax.
    """
    batch = len(correlation)
    logits = correlation / temperature
    forward = logits.softmax(2)
    sure = (forward * logits.softmax(1)).amax(2, keepdim=True).clamp_min(1e-8).sqrt()
    rows = torch.arange(height, device=correlation.device)
    cols = torch.arange(width, device=correlation.device)
    y, x = (axis.flatten() for axis in torch.meshgrid(rows, cols, indexing="ij"))
    position = torch.stack([x, y], 1).to(correlation.dtype)
    with torch.autocast(correlation.device.type, enabled=False):
        expected = forward @ position - position
    # the best cell's neighbourhood: sharp where the expectation of a multi-modal row is not
    best = forward.argmax(2, keepdim=True)
    step = torch.tensor([-1, 0, 1], device=correlation.device)
    near_x = (best % width + step.repeat(3)).clamp(0, width - 1)
    near_y = (best // width + step.repeat_interleave(3)).clamp(0, height - 1)
    weight = forward.gather(2, near_y * width + near_x)
    weight = weight / weight.sum(2, keepdim=True).clamp_min(1e-6)
    peak = torch.stack([(weight * near_x).sum(2), (weight * near_y).sum(2)], 2) - position
    match = torch.cat([expected, peak, sure], 2)
    return match.transpose(1, 2).reshape(batch, 5, height, width)
