"""Descriptors on the bus, which search and refinement compare."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.features.bus import Bus, standardise
from napari_busref.models.layers import DilatedBlock, unit_length
from napari_busref.runtime.device import narrow


class MatchingHead(nn.Module):
    """Bus activations -> one unit-length descriptor for every second pixel.

    Both modalities share the weights. Instance norm removes gain and offset; reflect padding does
    not reveal the border.

    Parameters
    ----------
    channels : int
        Channels of the bus's F1..F4.
    width : int
        Hidden channels.
    size : int
        D, length of a descriptor.
    dilations : tuple of int
        Dilation of each 3x3 convolution.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 48,
        size: int = 16,
        dilations: tuple[int, ...] = (1, 2, 4, 8),
    ) -> None:
        super().__init__()
        inputs = (channels // 4, channels // 2, Bus.levels * channels)
        self.enter = nn.ModuleList(
            nn.Sequential(nn.InstanceNorm2d(count), nn.Conv2d(count, width, 1)) for count in inputs
        )
        self.blocks = nn.ModuleList(DilatedBlock(width, dilation) for dilation in dilations)
        self.leave = nn.Conv2d(width, size, 1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Descriptors from ``Bus.pyramid``: (B, D, h/2, w/2), float32."""
        finest = (pyramid[0].shape[-2], pyramid[0].shape[-1])
        # channels last in memory: three quarters of the time on a CPU
        x = pyramid[0].new_zeros(())
        for level, enter in zip(pyramid, self.enter, strict=True):
            entered = enter(level).contiguous(memory_format=torch.channels_last)
            x = x + F.interpolate(entered, finest, mode="bilinear")
        for block in self.blocks:
            x = block(x)
        x = self.leave(x).float().contiguous()
        return unit_length(x - x.mean((-2, -1), keepdim=True))


class Matcher(nn.Module):
    """The bus with its matching head.

    Parameters
    ----------
    channels : int
        Channels of the bus's F1..F4.
    width, size : int
        As for `MatchingHead`.
    """

    stride = 2
    aggregation_sides = (1, 5, 11)
    """Sides, in cells, of the squares over which the training averages correlations."""
    smallest = 40
    """Minimum of the shorter side, in pixels, for the largest dilation."""

    def __init__(self, channels: int = 64, width: int = 48, size: int = 16) -> None:
        super().__init__()
        self._settings: dict[str, object] = {"channels": channels, "width": width, "size": size}
        self.size = size
        self.bus = Bus(channels)
        self.head = MatchingHead(channels, width=width, size=size)
        # of all cells against all, then of the local correlations of each aggregation side
        self.log_temperature = nn.Parameter(
            torch.tensor([math.log(start) for start in (0.1, 0.15, 0.07, 0.05)])
        )

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return dict(self._settings)

    def temperature(self, number: int) -> Tensor:
        """Temperature of the softmax over all cells (0), or for an aggregation side (1..)."""
        return self.log_temperature[number].exp().clamp(2e-3, 1.0)

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compute descriptors.

        Parameters
        ----------
        image : Tensor
            (B, 1, H, W), grey values; H and W multiples of 8, at least ``smallest``.
        valid : Tensor, optional
            (B, 1, H, W), non-zero for valid pixels.

        Returns
        -------
        Tensor
            (B, D, H/2, W/2), unit length in D, float32.
        """
        return self.describe(image, valid)[0]

    def describe(self, image: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``forward`` and the first scale of the bus, (B, C / 4, H / 2, W / 2)."""
        ready = standardise(image, valid)
        with narrow(image.device):
            pyramid = self.bus.pyramid(ready)
            return self.head(pyramid), pyramid[0].float()
