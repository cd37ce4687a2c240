"""Pyramid levels, and a pair of images resampled to one level."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.geometry import Estimate, sampling_grid, warp

MAX_SIDE = 2048
"""Side of the largest working size. Larger images are refined at that size."""

_COARSE_SIDES = (128, 128, 192, 288)
_NEAR_SIDE = 192  # largest coarse level of a near candidate; 288 takes a third more of all time
_FINE_SIDE = 640  # above it, halves of the full side fill the gap to the coarse levels
_MAX_REPEATS = 3  # of the last coarse level
_SIDE_MULTIPLE = 8  # the bus then needs no padding
_MAX_ENLARGED_AREA = 4.0  # of a strip's working size, relative to its wanted or own area
_OVERLAP_SIDE = 64  # working size at which the overlap is measured


@dataclass(frozen=True)
class PyramidLevel:
    """One working resolution and the transform model that is fitted at it.

    Attributes
    ----------
    model : str
        ``"affine"``, ``"homography"`` or ``"dense"``.
    side : float
        Side, in pixels, of the square whose area the working size has. `overlap_magnification`
        enlarges it where the images share a small part.
    max_repeats : int
        The fit is repeated up to this often, while it moves the affine by 2 px or more.
    """

    model: str
    side: float
    max_repeats: int = 1


def pyramid_schedule(
    refine: str, transform: str, shape: tuple[int, int], *, near: bool = False
) -> tuple[PyramidLevel, ...]:
    """The pyramid levels for a fixed image of ``shape``, coarse to fine.

    Parameters
    ----------
    refine : str
        ``"affine"``, ``"dense"`` or ``"none"``.
    transform : str
        ``"affine"`` or ``"homography"``.
    shape : tuple of int
        (H, W) of the fixed image.
    near : bool
        Whether the candidate is off by a few pixels only. One coarse level is then enough.
    """
    if refine == "none":
        return ()
    full = min((shape[0] * shape[1]) ** 0.5, MAX_SIDE)
    fine = [full]
    while fine[0] > _FINE_SIDE:
        fine.insert(0, fine[0] / 2)
    coarse = [side for side in _COARSE_SIDES if side < full]
    first = [side for side in coarse if side <= _NEAR_SIDE][-1:] if near else coarse
    levels = [PyramidLevel("affine", side) for side in first or fine[:1]]
    levels[-1] = replace(levels[-1], max_repeats=_MAX_REPEATS)
    if transform == "homography":
        levels.append(PyramidLevel("homography", (coarse or fine)[-1]))
    model = "dense" if refine == "dense" else transform
    return (*levels, *(PyramidLevel(model, side) for side in fine))


@dataclass(frozen=True)
class MaskedImage:
    """Grey values and a validity mask.

    Attributes
    ----------
    image : Tensor
        (B, 1, H, W), float32. Neighbouring values fill the invalid pixels.
    valid : Tensor
        (B, 1, H, W), 1 where the image holds content, else 0.
    """

    image: Tensor
    valid: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[-2], self.image.shape[-1]

    def resize(self, size: tuple[int, int]) -> MaskedImage:
        """Resize to (H, W). A pixel with an invalid part is invalid."""
        if size == self.shape:
            return self
        image, valid = (
            F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
            for x in (self.image, self.valid)
        )
        return MaskedImage(image, (valid > 0.99).to(valid.dtype))

    def sample(self, grid: Tensor) -> MaskedImage:
        """Interpolate at normalised positions (B, h, w, 2)."""
        count = len(grid)
        image, valid = (x.expand(count, -1, -1, -1) for x in (self.image, self.valid))
        return MaskedImage(
            warp(image, grid, padding="border"), (warp(valid, grid) > 0.99).to(valid.dtype)
        )


def working_size(shape: tuple[int, int], side: float, min_side: int = 48) -> tuple[int, int]:
    """Size with the aspect of ``shape`` and at most the area of a square of this ``side``.

    Both sides are multiples of 8, the shorter one at least ``min_side``. Only that bound ever
    enlarges an image. It enlarges the area of a strip at most fourfold: the longer side is
    compressed beyond.
    """
    factor = min(side / (shape[0] * shape[1]) ** 0.5, 1.0)
    factor = max(factor, min_side / min(shape))
    area = max(min(side**2, shape[0] * shape[1]), min_side**2)
    longest = _MAX_ENLARGED_AREA * area / (min(shape) * factor)
    rows, cols = (
        max(round(min(n * factor, longest) / _SIDE_MULTIPLE), 1) * _SIDE_MULTIPLE for n in shape
    )
    return rows, cols


def pixel_scale(theta: Tensor, fixed: tuple[int, int], moving: tuple[int, int]) -> Tensor:
    """Moving pixels that one fixed pixel spans along rows and columns; the smaller one, (B,)."""
    linear = theta[:, :, :2]
    size = torch.tensor([moving[1], moving[0]], device=theta.device)[None, :, None]
    step = torch.tensor([fixed[1], fixed[0]], device=theta.device)[None, None, :]
    return (linear * size / step).square().sum(1).sqrt().amin(1)


def downsample(moving: MaskedImage, factor: float) -> MaskedImage:
    """Shrink by ``factor``, against aliasing on a grid that is coarser by that factor."""
    if factor <= 1.1:
        return moving
    height, width = (max(round(n / factor), 16) for n in moving.shape)
    return moving.resize((height, width))


def overlap_magnification(
    moving: MaskedImage, estimate: Estimate, shape: tuple[int, int]
) -> float:
    """Magnification (1, sqrt 2 or 2) of the working size that suits the overlap.

    It keeps the number of overlapping pixels roughly constant. Three steps are enough, and a
    pyramid with few sizes computes its features once.

    Parameters
    ----------
    moving : MaskedImage
    estimate : Estimate
        Fixed -> moving.
    shape : tuple of int
        (H, W) of the fixed image.
    """
    overlap = float(resample(moving, estimate, working_size(shape, _OVERLAP_SIDE)).valid.mean())
    steps = max(math.floor(-math.log2(max(overlap, 0.25))), 0)
    return 2 ** (steps / 2)


def resample(moving: MaskedImage, estimate: Estimate, size: tuple[int, int]) -> MaskedImage:
    """The moving image on the fixed grid of ``size``, interpolated once."""
    factor = float(pixel_scale(estimate.theta, size, moving.shape).min())
    return downsample(moving, factor).sample(sampling_grid(estimate, *size))
