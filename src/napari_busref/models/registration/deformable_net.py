"""Deformable Net of BusReF: the fine step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_busref.models.registration.descriptors import correlate, local_window


class DeformableNet(nn.Module):
    """``D({F1..F4}_x, {F1..F4}_y) -> phi``: grouped proposals 4 x 2, then 3x3 8 -> 2.

    Grouped convolutions, which never mix levels, compute a two-channel proposal from each F. A
    plain 3x3 convolution combines the eight channels to one field.

    Parameters
    ----------
    channels : int
        Channels of each F of the bus.
    width : int
        Hidden channels of each group.
    matching : bool
        Add the local correlation of its level's descriptors to each group (our addition).
    radius : int
        Window of the local correlation, in cells.
    """

    groups = 4

    def __init__(
        self, channels: int, *, width: int = 48, matching: bool = True, radius: int = 3
    ) -> None:
        super().__init__()
        self.matching, self.radius = matching, radius
        inputs = 2 * channels + ((2 * radius + 1) ** 2 if matching else 0)
        groups = self.groups
        self.propose = nn.Sequential(
            nn.Conv2d(groups * inputs, groups * width, 1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(groups * width, groups * width, 3, padding=1, groups=groups),
            nn.GroupNorm(groups, groups * width),
            nn.ReLU(),
            nn.Conv2d(groups * width, groups * width, 3, padding=2, dilation=2, groups=groups),
            nn.GroupNorm(groups, groups * width),
            nn.ReLU(),
            nn.Conv2d(groups * width, groups * 2, 3, padding=1, groups=groups),
        )
        self.weigh = nn.Conv2d(groups * 2, 2, 3, padding=1)
        nn.init.normal_(self.weigh.weight, std=1e-3)
        nn.init.zeros_(self.weigh.bias)  # type: ignore[arg-type]

    def forward(
        self,
        fixed: list[Tensor],
        moving: list[Tensor],
        descriptors: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Displacement in cells, (B, 2, h, w) in (x, y) order, at the features' resolution."""
        height, width = fixed[0].shape[-2:]
        levels: list[list[Tensor]] = [[f, m] for f, m in zip(fixed, moving, strict=True)]
        if self.matching:
            if descriptors is None:
                raise ValueError("descriptors must be given when matching is on")
            window = local_window(correlate(*descriptors), height, width, self.radius)
            for level, part in zip(levels, window.chunk(self.groups, 1), strict=True):
                level.append(part.to(fixed[0].dtype))
        stacked = torch.cat([part for level in levels for part in level], 1)
        return self.weigh(self.propose(stacked)).float()
