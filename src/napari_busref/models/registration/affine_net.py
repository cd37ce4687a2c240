"""Affine Net of BusReF: the coarse step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.registration.descriptors import (
    affine_from_matches,
    correlate,
    local_window,
    voted_match,
)


class DynamicConv2d(nn.Module):
    """Dynamic convolution: attention over K parallel kernels (Chen et al., CVPR 2020).

    Parameters
    ----------
    channels : int
        Input and output channels.
    kernels : int
        K, number of kernels that a softmax over a pooled description of the input mixes.
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
        # one grouped convolution with a kernel of its own for each sample
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
    """``A({F1..F4}_x, {F1..F4}_y) -> theta``: six parameters of the affine, identity at the start.

    Parameters
    ----------
    channels : int
        Channels of each F of the bus.
    width : int
        Channels inside; a multiple of 8.
    stages : int
        Number of down-sampling stages.
    kernels : int
        Parallel kernels of each dynamic convolution.
    pooled : int
        The pooling before the MLP keeps ``pooled`` x ``pooled`` cells: which way things moved says
        little about a rotation without where.
    matching : bool
        Our addition: correlate trained descriptors, let neighbours vote on displacements, fit an
        affine to them with learned weights, and let the network correct that fit. Without it the
        features of both images are only concatenated, as in the paper.
    radius : int
        Window of correlations, in cells.
    reaches : tuple of int
        Over how many cells neighbours vote.
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
        reaches: tuple[int, ...] = (3, 9),
    ) -> None:
        super().__init__()
        self.matching, self.radius, self.pooled, self.reaches = matching, radius, pooled, reaches
        inputs = 8 * channels + 2
        if matching:
            inputs += (2 * radius + 1) ** 2 + 3 * len(reaches)
            self.log_temperature = nn.Parameter(torch.tensor(-2.3))
            self.log_vote_temperatures = nn.Parameter(torch.full((len(reaches),), -3.5))
            self.trust = nn.Conv2d(width, len(reaches), 1)
            nn.init.zeros_(self.trust.weight)
        self.enter = nn.Conv2d(inputs, width, 1)
        self.stages = nn.ModuleList(AffineStage(width, kernels) for _ in range(stages))
        self.mlp = nn.Sequential(
            nn.Linear(width * pooled**2, 256),
            nn.ReLU(),
            nn.Linear(256, 64),
            nn.ReLU(),
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
        described: tuple[Tensor, Tensor] | None = None,
        moving_valid: Tensor | None = None,
    ) -> Tensor:
        """Departure from the identity in isotropic units (see ``isotropic_to_normalised``).

        Parameters
        ----------
        fixed, moving : list of Tensor
            F1..F4 of each image, (B, C, h, w).
        described : tuple of Tensor, optional
            Descriptors of both, (B, 4, D, h, w); needed when ``matching``.
        moving_valid : Tensor, optional
            (B, 1, h, w), 1 for cells that hold a picture.

        Returns
        -------
        Tensor
            (B, 2, 3).
        """
        batch, _, height, width = fixed[0].shape
        side = min(height, width)
        device = fixed[0].device
        # cell centres and displacements in units of half the shorter side
        rows = (torch.arange(height, device=device) - (height - 1) / 2) * (2 / side)
        cols = (torch.arange(width, device=device) - (width - 1) / 2) * (2 / side)
        y, x = torch.meshgrid(rows, cols, indexing="ij")
        parts = [*fixed, *moving, torch.stack([x, y]).expand(batch, -1, -1, -1)]
        voted: list[tuple[Tensor, Tensor]] = []
        if self.matching:
            if described is None:
                raise ValueError("described must be given when matching is on")
            window, inside = self._window(described, moving_valid)
            for reach, log_temperature in zip(
                self.reaches, self.log_vote_temperatures, strict=True
            ):
                temperature = log_temperature.exp().clamp(3e-3, 1)
                # detached: through the fit, the end-point error's noisy gradient would drown the
                # matching loss that the descriptors learn from
                cells, confidence = voted_match(window.detach(), inside, temperature, reach)
                voted.append((cells * (2 / side), confidence))
            parts += [window, *(part for pair in voted for part in pair)]
        out = self.enter(torch.cat([part.to(fixed[0].dtype) for part in parts], 1))
        delta = torch.zeros(batch, 2, 3, device=device)
        if voted:
            trust = torch.sigmoid(self.trust(out)).float()
            weight = trust * torch.cat([confidence for _, confidence in voted], 1)
            moves = torch.cat([cells.flatten(2).transpose(1, 2) for cells, _ in voted], 1)
            position = torch.stack([x.flatten(), y.flatten()], 1).repeat(len(voted), 1)
            with torch.autocast(device.type, enabled=False):
                delta = affine_from_matches(moves, weight.flatten(1), position)
        for stage in self.stages:
            out = stage(out)
        out = F.adaptive_avg_pool2d(out, self.pooled).flatten(1)
        return delta + self.mlp(out).float().view(batch, 2, 3)

    def _window(
        self, described: tuple[Tensor, Tensor], moving_valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Correlations around each cell, and which of them lie on the moving picture."""
        height, width = described[0].shape[-2:]
        correlation = correlate(*described).mean(1, keepdim=True)
        window = local_window(correlation, height, width, self.radius)
        valid = torch.ones_like(window[:, :1]) if moving_valid is None else moving_valid.float()
        spread = F.unfold(valid, 2 * self.radius + 1, padding=self.radius)
        return window, spread.unflatten(2, (height, width))
