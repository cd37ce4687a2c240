"""Classical fusion methods, the baselines of the trained models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.filters import box_blur, gaussian_blur2d, guided_blur, laplacian
from kornia.geometry.transform import pyrdown
from torch import Tensor, nn


class Average(nn.Module):
    """Fusion by the mean of both images."""

    receptive_field = 0

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Mean of two (B, 1, H, W) images."""
        return (visible + infrared) / 2


class Maximum(nn.Module):
    """Fusion by the maximum of both images."""

    receptive_field = 0

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Larger of two (B, 1, H, W) images."""
        return torch.maximum(visible, infrared)


class GuidedFilter(nn.Module):
    """Fusion by guided filtering in two scales (Li, Kang and Hu, IEEE TIP 2013).

    A mean filter of 31 pixels splits each image into base and detail. The image with the larger
    smoothed absolute Laplacian has the weight 1, the other 0. A guided filter with the image as
    guide smooths this map: coarsely for the base (radius 45, eps 0.3), finely for the detail
    (radius 7, eps 1e-6). These are the paper's settings for images in [0, 1].
    """

    base_size = 31
    coarse = (2 * 45 + 1, 0.3)
    fine = (2 * 7 + 1, 1e-6)
    #: Two mean filters of the coarse guided filter, the saliency's Gaussian, the Laplacian.
    receptive_field = 2 * 45 + 5 + 1

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse two (B, 1, H, W) images in [0, 1]; the result is clipped."""
        images = torch.cat([visible, infrared])  # one batch: both get the same filters
        base = box_blur(images, self.base_size, "replicate", separable=True)
        change = laplacian(images, 3, "replicate", normalized=False).abs()
        salience = gaussian_blur2d(change, (11, 11), (5.0, 5.0), "replicate")
        first, second = salience.chunk(2)
        chosen = torch.cat([first >= second, first < second]).to(images.dtype)
        fused = torch.zeros_like(visible)
        for part, (size, eps) in ((base, self.coarse), (images - base, self.fine)):
            weights = guided_blur(images, chosen, size, eps, "replicate", separable=True)
            weights = weights.clamp(1e-6, 1)
            parts, shares = (part * weights).chunk(2), weights.chunk(2)
            fused = fused + (parts[0] + parts[1]) / (shares[0] + shares[1])
        return fused.clamp(0, 1)


class LaplacianPyramid(nn.Module):
    """Fusion by Laplacian pyramids (Burt and Adelson, 1983): the stronger coefficient wins.

    Parameters
    ----------
    levels : int
        Band-pass levels; the low-pass residual is averaged.
    """

    def __init__(self, levels: int = 5) -> None:
        super().__init__()
        self.levels = levels

    @property
    def stride(self) -> int:
        """Side of a pixel of the low-pass residual."""
        return 1 << self.levels

    @property
    def receptive_field(self) -> int:
        """A blur of 2 px and an interpolation of 1 px at every level, down and up."""
        return 4 * self.stride

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse two (B, 1, H, W) images in [0, 1]; the result is clipped."""
        bands: list[Tensor] = []
        height, width = visible.shape[-2:]
        # exact halves keep the pixels of all levels aligned
        margin = (0, -width % self.stride, 0, -height % self.stride)
        pair = F.pad(torch.cat([visible, infrared], 1), margin, mode="replicate")
        for _ in range(self.levels):
            coarse = pyrdown(pair, border_type="replicate")
            size = (pair.shape[-2], pair.shape[-1])
            band = pair - F.interpolate(coarse, size, mode="bilinear", align_corners=False)
            first, second = band.chunk(2, 1)
            bands.append(torch.where(first.abs() >= second.abs(), first, second))
            pair = coarse
        fused = pair.mean(1, keepdim=True)
        for band in reversed(bands):
            size = (band.shape[-2], band.shape[-1])
            fused = F.interpolate(fused, size, mode="bilinear", align_corners=False) + band
        return fused[..., :height, :width].clamp(0, 1)
