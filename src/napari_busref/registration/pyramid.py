"""Two images at one working resolution, the moving one resampled by what was found so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.geometry import Estimate, sampling_grid, warp

_MULTIPLE = 8  # sides that the bus takes without padding
_ROUGH = 64  # working size at which an overlap is measured


@dataclass(frozen=True)
class MaskedImage:
    """Grey values and where they hold content.

    Attributes
    ----------
    image : Tensor
        (B, 1, H, W), float32; filled with neighbouring values where not valid.
    valid : Tensor
        (B, 1, H, W), 1 where the image holds content, else 0.
    """

    image: Tensor
    valid: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[-2], self.image.shape[-1]

    def resized(self, size: tuple[int, int]) -> MaskedImage:
        """The same picture at another size; pixels that were partly valid are not."""
        if size == self.shape:
            return self
        image, valid = (
            F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
            for x in (self.image, self.valid)
        )
        return MaskedImage(image, (valid > 0.99).to(valid.dtype))

    def sampled(self, grid: Tensor) -> MaskedImage:
        """Interpolated at normalised positions (B, h, w, 2)."""
        count = len(grid)
        image, valid = (x.expand(count, -1, -1, -1) for x in (self.image, self.valid))
        return MaskedImage(
            warp(image, grid, padding="border"), (warp(valid, grid) > 0.99).to(valid.dtype)
        )


def working_size(shape: tuple[int, int], side: float, smallest: int = 48) -> tuple[int, int]:
    """Size with the aspect of ``shape`` and at most the area of a square with this ``side``.

    Multiples of 8, the shorter one at least ``smallest``. Images are not enlarged but for that.
    """
    factor = min(side / (shape[0] * shape[1]) ** 0.5, 1.0)
    factor = max(factor, smallest / min(shape))
    rows, cols = (max(round(n * factor / _MULTIPLE), 1) * _MULTIPLE for n in shape)
    return rows, cols


def pixel_scale(theta: Tensor, fixed: tuple[int, int], moving: tuple[int, int]) -> Tensor:
    """How many moving pixels a fixed pixel spans along rows and columns, the smaller, (B,)."""
    linear = theta[:, :, :2]
    size = torch.tensor([moving[1], moving[0]], device=theta.device)[None, :, None]
    step = torch.tensor([fixed[1], fixed[0]], device=theta.device)[None, None, :]
    return (linear * size / step).square().sum(1).sqrt().amin(1)


def reduced(moving: MaskedImage, factor: float) -> MaskedImage:
    """Reduce the moving image to what a grid that is coarser by ``factor`` can hold."""
    if factor <= 1.1:
        return moving
    height, width = (max(round(n / factor), 16) for n in moving.shape)
    return moving.resized((height, width))


def overlap_magnification(
    moving: MaskedImage, estimate: Estimate, shape: tuple[int, int]
) -> float:
    """How much larger than usual a fixed image of ``shape`` is worked on: 1, 2**0.5 or 2.

    What lies outside the overlap tells nothing, so that what lies inside is looked at in as many
    pixels as usual, about.
    """
    share = float(resample(moving, estimate, working_size(shape, _ROUGH)).valid.mean())
    steps = max(math.floor(-math.log2(max(share, 0.25))), 0)  # few sizes, each described once
    return 2 ** (steps / 2)


def resample(moving: MaskedImage, estimate: Estimate, size: tuple[int, int]) -> MaskedImage:
    """The moving image on the fixed grid of ``size``, interpolated once."""
    factor = float(pixel_scale(estimate.theta, size, moving.shape).min())
    return reduced(moving, factor).sampled(sampling_grid(estimate, *size))
