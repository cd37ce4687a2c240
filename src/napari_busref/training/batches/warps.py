"""Synthetic warps of the measuring protocol, for a whole batch on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor

from napari_busref.geometry import base_grid, invert_affine, sample_field, transform_points
from napari_busref.training.recipe import WarpConfig

_FIELD_STRIDE = 4  # px; the elastic field is smooth, with a sigma of 8 % of the side


@dataclass  # not frozen: Fabric converts the tensors of a batch in place
class Warps:
    """Maps ``g``: moving -> aligned, ``g(p) = theta p + elastic(p)``, in normalised coordinates.

    Attributes
    ----------
    theta : Tensor
        (B, 2, 3).
    elastic : Tensor
        (B, 2, h, w), (x, y) order; edge values continue outside.
    """

    theta: Tensor
    elastic: Tensor

    def aligned_points(self, points: Tensor) -> Tensor:
        """Evaluate ``g`` at moving positions (B, H, W, 2)."""
        residual = sample_field(self.elastic, points.expand(len(self.theta), -1, -1, -1))
        return transform_points(self.theta, points) + residual.permute(0, 2, 3, 1)

    def source_points(self, points: Tensor, iterations: int = 12) -> Tensor:
        """Invert ``g`` by fixed point: the moving positions of aligned ones, (B, H, W, 2)."""
        inverse = invert_affine(self.theta)
        source = transform_points(inverse, points)
        for _ in range(iterations):
            residual = sample_field(self.elastic, source).permute(0, 2, 3, 1)
            source = transform_points(inverse, points - residual)
        return source

    def approximate_source_points(self, points: Tensor) -> Tensor:
        """The paper's inverse, ``theta^-1`` and ``-phi``.

        Cheaper, with an error of the field's variation over its own displacement.
        """
        points = points.expand(len(self.theta), -1, -1, -1)
        residual = sample_field(self.elastic, transform_points(invert_affine(self.theta), points))
        return transform_points(invert_affine(self.theta), points - residual.permute(0, 2, 3, 1))


def draw_warps(config: WarpConfig, batch: int, shape: tuple[int, int], like: Tensor) -> Warps:
    """Draw ``batch`` warps for images of ``shape`` (H, W) on the device of ``like``.

    They come from torch's global generator.
    """
    height, width = shape
    side = min(height, width)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(batch, device=like.device).uniform_(low, high)

    angle = torch.deg2rad(uniform(-config.rotation, config.rotation))
    scale = uniform(math.log(config.scale[0]), math.log(config.scale[1])).exp()
    shear = torch.deg2rad(uniform(-config.shear, config.shear))
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    one, zero = torch.ones_like(shear), torch.zeros_like(shear)
    shearing = torch.stack([torch.stack([one, shear.tan()], 1), torch.stack([zero, one], 1)], 1)
    linear = scale[:, None, None] * rotation @ shearing
    # pixels -> normalised coordinates
    extent = torch.tensor([float(width), float(height)], device=like.device)
    linear = linear * extent[None, None, :] / extent[None, :, None]
    shift = 2 * torch.stack([uniform(-config.shift, config.shift) for _ in range(2)], 1)
    theta = torch.cat([linear, shift[:, :, None]], 2)

    rows, cols = max(height // _FIELD_STRIDE, 8), max(width // _FIELD_STRIDE, 8)
    sigma = config.sigma * min(rows, cols)
    noise = torch.randn(batch, 2, rows, cols, device=like.device)
    kernel = min(2 * round(4 * sigma) + 1, 2 * (min(rows, cols) // 2) - 1)
    field = gaussian_blur2d(noise, (kernel, kernel), (sigma, sigma))
    largest = field.square().sum(1).amax((1, 2)).sqrt().clamp_min(1e-8)
    amplitude = uniform(*config.elastic) * side
    field = field * (amplitude / largest)[:, None, None, None]  # pixels
    return Warps(theta, field * (2 / extent)[None, :, None, None])


def fixed_to_moving(warps: Warps, shape: tuple[int, int]) -> Tensor:
    """True source positions (B, H, W, 2) of every fixed pixel."""
    height, width = shape
    coarse = (max(height // _FIELD_STRIDE, 8), max(width // _FIELD_STRIDE, 8))
    points = base_grid(*coarse, warps.theta)
    # interpolating the smooth residual instead of positions is exact at the border
    inverse = invert_affine(warps.theta)
    residual = warps.source_points(points) - transform_points(inverse, points)
    residual = F.interpolate(
        residual.permute(0, 3, 1, 2), shape, mode="bicubic", align_corners=False
    )
    return transform_points(inverse, base_grid(height, width, warps.theta)) + residual.permute(
        0, 2, 3, 1
    )
