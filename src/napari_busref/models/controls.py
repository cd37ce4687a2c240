"""What the trained models are held against: doing nothing, and two classical fusions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.geometry.transform import pyrdown
from torch import Tensor, nn

from napari_busref.models.geometry import Estimate, identity_theta
from napari_busref.progress import Reporter


class Identity(nn.Module):
    """Registration that leaves everything where it is."""

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """Return the identity for each of (B, 1, H, W)."""
        return Estimate(identity_theta(len(fixed), fixed))


class Average(nn.Module):
    """Fusion by the mean of both images."""

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Mean of two (B, 1, H, W) images."""
        return (visible + infrared) / 2


class LaplacianPyramid(nn.Module):
    """Fusion by Laplacian pyramids (Burt and Adelson, 1983): the stronger coefficient wins.

    Parameters
    ----------
    levels : int
        Band-pass levels; the low-pass rest is averaged.
    """

    def __init__(self, levels: int = 5) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse two (B, 1, H, W) images in [0, 1]; the result is clipped."""
        bands: list[Tensor] = []
        pair = torch.cat([visible, infrared], 1)
        for _ in range(self.levels):
            if min(pair.shape[-2:]) < 8:
                break
            coarse = pyrdown(pair)
            size = (pair.shape[-2], pair.shape[-1])
            band = pair - F.interpolate(coarse, size, mode="bilinear", align_corners=False)
            first, second = band.chunk(2, 1)
            bands.append(torch.where(first.abs() >= second.abs(), first, second))
            pair = coarse
        fused = pair.mean(1, keepdim=True)
        for band in reversed(bands):
            size = (band.shape[-2], band.shape[-1])
            fused = F.interpolate(fused, size, mode="bilinear", align_corners=False) + band
        return fused.clamp(0, 1)
