"""Affine Net of BusReF: the coarse step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.registration.descriptors import (
    affine_from_matches,
    aggregated_match,
    correlate,
    local_window,
)


class DynamicConv2d(nn.Module):
    """Dynamic convolution: attention over K parallel kernels (Chen et al., CVPR 2020).

    Parameters
    ----------
    channels : int
        Input and output channels.
    kernels : int
        K, number of kernels, mixed by a softmax over the pooled input.
    """

    def __init__(self, channels: int, kernels: int = 4, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = nn.Parameter(torch.empty(kernels, channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(kernels, channels))
        for weight in self.weight:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        self.attention = nn.Sequential(
            nn.Linear(channels, max(channels // 4, 4)),
            nn.ReLU(),
            nn.Linear(max(channels // 4, 4), kernels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, h, w) -> (B, C, h, w)."""
        batch, channels, height, width = x.shape
        mix = (self.attention(x.mean((2, 3))) / self.temperature).softmax(1).to(x.dtype)
        # a grouped convolution: each sample has its own kernel
        weight = torch.einsum("bk,koihw->boihw", mix, self.weight.to(x.dtype)).flatten(0, 1)
        bias = (mix @ self.bias.to(x.dtype)).flatten()
        x = F.conv2d(
            x.reshape(1, batch * channels, height, width), weight, bias, padding=1, groups=batch
        )
        return x.reshape(batch, channels, height, width)


class AffineStage(nn.Module):
    """7x7 convolution, dynamic convolution, down-sampling: (B, C, h, w) -> (B, C, h/2, w/2)."""

    def __init__(self, channels: int, kernels: int) -> None:
        super().__init__()
        self.large = nn.Conv2d(channels, channels, 7, padding=3, groups=channels // 8)
        self.norm = nn.GroupNorm(8, channels)
        self.dynamic = DynamicConv2d(channels, kernels)
        self.norm_dynamic = nn.GroupNorm(8, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stage; odd sizes round up."""
        x = x + F.relu(self.norm(self.large(x)))
        x = x + F.relu(self.norm_dynamic(self.dynamic(x)))
        return F.max_pool2d(x, 2, ceil_mode=True)


class AffineNet(nn.Module):
    """``A({F1..F4}_x, {F1..F4}_y) -> theta``: six affine parameters, initially the identity.

    Parameters
    ----------
    channels : int
        Channels of each F of the bus.
    width : int
        Hidden channels; a multiple of 8.
    stages : int
        Number of down-sampling stages.
    kernels : int
        Parallel kernels of each dynamic convolution.
    pooled : int
        The pooling before the MLP keeps ``pooled`` x ``pooled`` cells: displacements reveal a
        rotation only together with their positions.
    matching : bool
        Our addition: correlate trained descriptors, average the correlations over neighbours, and
        fit an affine to the best displacements with learned weights. The network corrects that
        fit. Without it the features of both images are only concatenated, as in the paper.
    radius : int
        Window of the local correlation, in cells.
    aggregation_sides : tuple of int
        Sides of the squares of cells over which correlations are averaged.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 96,
        stages: int = 2,
        kernels: int = 4,
        pooled: int = 4,
        matching: bool = True,
        radius: int = 5,
        aggregation_sides: tuple[int, ...] = (3, 9),
    ) -> None:
        super().__init__()
        self.matching, self.radius, self.pooled = matching, radius, pooled
        self.aggregation_sides = aggregation_sides
        sides = len(aggregation_sides)
        inputs = 8 * channels + 2
        if matching:
            inputs += (2 * radius + 1) ** 2 + 3 * sides
            self.log_temperature = nn.Parameter(torch.tensor(-2.3))
            self.log_vote_temperatures = nn.Parameter(torch.full((sides,), -3.5))
            self.trust = nn.Conv2d(width, sides, 1)
            nn.init.zeros_(self.trust.weight)
        self.enter = nn.Conv2d(inputs, width, 1)
        self.stages = nn.ModuleList(AffineStage(width, kernels) for _ in range(stages))
        # Without the norms, Adam drove all 64 units of a ReLU below zero for every input: the MLP
        # had become a constant.
        self.mlp = nn.Sequential(
            nn.LayerNorm(width * pooled**2),
            nn.Linear(width * pooled**2, 256),
            nn.GELU(),
            nn.LayerNorm(256),
            nn.Linear(256, 64),
            nn.GELU(),
            nn.Linear(64, 6),
        )
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self,
        fixed: list[Tensor],
        moving: list[Tensor],
        descriptors: tuple[Tensor, Tensor] | None = None,
        moving_valid: Tensor | None = None,
    ) -> Tensor:
        """Affine less the identity, in isotropic units (see ``isotropic_to_normalised``).

        Parameters
        ----------
        fixed, moving : list of Tensor
            F1..F4 of each image, (B, C, h, w).
        descriptors : tuple of Tensor, optional
            Of both images, (B, 4, D, h, w); required when ``matching``.
        moving_valid : Tensor, optional
            (B, 1, h, w), 1 for valid cells.

        Returns
        -------
        Tensor
            (B, 2, 3).
        """
        batch, _, height, width = fixed[0].shape
        side = min(height, width)
        device = fixed[0].device
        # cell centres and displacements in units of half the shorter side
        rows, cols = (
            (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * (2 / side)
            for n in (height, width)
        )
        y, x = torch.meshgrid(rows, cols, indexing="ij")
        parts = [*fixed, *moving, torch.stack([x, y]).expand(batch, -1, -1, -1)]
        matches: list[tuple[Tensor, Tensor]] = []
        if self.matching:
            if descriptors is None:
                raise ValueError("descriptors must be given when matching is on")
            window, inside = self._window(descriptors, moving_valid)
            for over, log_temperature in zip(
                self.aggregation_sides, self.log_vote_temperatures, strict=True
            ):
                temperature = log_temperature.exp().clamp(3e-3, 1)
                # detached: through the fit, the end-point error's noisy gradient would dominate
                # the matching loss of the descriptors
                cells, confidence = aggregated_match(window.detach(), inside, temperature, over)
                matches.append((cells * (2 / side), confidence))
            parts += [window, *(part for match in matches for part in match)]
        out = self.enter(torch.cat([part.to(fixed[0].dtype) for part in parts], 1))
        delta = torch.zeros(batch, 2, 3, device=device, dtype=torch.float32)
        if matches:
            trust = torch.sigmoid(self.trust(out)).float()
            weight = trust * torch.cat([confidence for _, confidence in matches], 1)
            displacement = torch.cat([cells.flatten(2).transpose(1, 2) for cells, _ in matches], 1)
            position = torch.stack([x.flatten(), y.flatten()], 1).repeat(len(matches), 1)
            with torch.autocast(device.type, enabled=False):
                delta = affine_from_matches(displacement, weight.flatten(1), position)
        for stage in self.stages:
            out = stage(out)
        out = F.adaptive_avg_pool2d(out, self.pooled).flatten(1)
        return delta + self.mlp(out).float().view(batch, 2, 3)

    def _window(
        self, descriptors: tuple[Tensor, Tensor], moving_valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Correlations around each cell, and the mask of those with valid moving cells."""
        height, width = descriptors[0].shape[-2:]
        correlation = correlate(*descriptors).mean(1, keepdim=True)
        window = local_window(correlation, height, width, self.radius)
        valid = torch.ones_like(window[:, :1]) if moving_valid is None else moving_valid.float()
        spread = F.unfold(valid, 2 * self.radius + 1, padding=self.radius)
        return window, spread.unflatten(2, (height, width))
