"""Aligned pairs in memory, and random crops of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color import rgb2gray
from torch import Tensor

from napari_busref.data.datasets import load_pairs
from napari_busref.geometry import base_grid, inside, transform_points, warp
from napari_busref.training.batches.srif import PREFIX, load_srif
from napari_busref.training.batches.warps import Warps, draw_warps
from napari_busref.training.recipe import DataConfig, WarpConfig

Pair = tuple[Tensor, Tensor]
"""Infrared and visible image."""


@dataclass  # not frozen: Fabric converts the tensors of a batch in place
class Crops:
    """A batch of aligned crops, with their origin.

    Attributes
    ----------
    visible, infrared : Tensor
        (B, 1, h, w) in [0, 1].
    index : Tensor
        (B,), index of the pair in the store.
    theta : Tensor
        (B, 2, 3), crop -> image, normalised coordinates.
    """

    visible: Tensor
    infrared: Tensor
    index: Tensor
    theta: Tensor


@dataclass
class WarpedCrops:
    """Crops with a moving image from a known warp.

    Attributes
    ----------
    fixed, moving, aligned : Tensor
        (B, 1, h, w) in [0, 1]: visible, warped infrared, and infrared on the grid of ``fixed``.
    valid : Tensor
        (B, 1, h, w), 1 where ``moving`` is valid.
    warps : Warps
        moving -> aligned.
    """

    fixed: Tensor
    moving: Tensor
    aligned: Tensor
    valid: Tensor
    warps: Warps


class PairStore:
    """Aligned pairs as tensors, each at its own size.

    Parameters
    ----------
    pairs : sequence of (infrared, visible)
        Tensors (1, H, W) in [0, 1] of equal size within a pair.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        if not pairs:
            raise ValueError("pairs must hold at least one aligned pair")
        self.pairs = pairs

    @classmethod
    def from_config(cls, config: DataConfig, split: str = "train") -> PairStore:
        """Read the data sets of a recipe, and reduce the images to ``store_side``."""
        read = {}
        for dataset in set(config.datasets):
            load = load_srif if dataset.startswith(PREFIX) else load_pairs
            read[dataset] = [
                (
                    shrink(infrared / 255.0, config.store_side),
                    shrink(rgb2gray(visible), config.store_side),
                )
                for _, infrared, visible in load(dataset, config.root or None, split)
            ]
        return cls([pair for dataset in config.datasets for pair in read[dataset]])

    def to(self, device: torch.device) -> PairStore:
        """The same pairs on another device."""
        return PairStore([(ir.to(device), vis.to(device)) for ir, vis in self.pairs])

    def draw(self, batch: int, config: DataConfig) -> Crops:
        """Draw aligned crops with random positions, sizes, flips and a common aspect."""
        device = self.pairs[0][0].device
        aspect = config.aspects[int(torch.randint(len(config.aspects), ()))]
        shape = crop_shape(config.crop_side, aspect)
        index = torch.randint(len(self.pairs), (batch,))
        draws = torch.rand(batch, 5)
        thetas, visible, infrared = [], [], []
        for number, draw in zip(index.tolist(), draws.tolist(), strict=True):
            ir, vis = self.pairs[number]
            theta = _crop_theta((ir.shape[1], ir.shape[2]), shape, config.crop_range, draw).to(
                device
            )
            grid = transform_points(theta, base_grid(*shape, ir))
            pair = warp(torch.cat([vis, ir])[None], grid, padding="border")
            visible.append(pair[:, :1])
            infrared.append(pair[:, 1:])
            thetas.append(theta)
        return Crops(torch.cat(visible), torch.cat(infrared), index, torch.cat(thetas))

    def draw_warped(self, batch: int, config: DataConfig, warping: WarpConfig) -> WarpedCrops:
        """Draw crops, and resample the infrared image of each by its own random warp."""
        crops = self.draw(batch, config)
        shape = (crops.visible.shape[-2], crops.visible.shape[-1])
        warps = draw_warps(warping, batch, shape, crops.visible)
        aligned_points = warps.aligned_points(base_grid(*shape, crops.visible))
        in_crop = inside(aligned_points, *shape)
        beyond = torch.rand(batch, 1, 1, 1).to(in_crop.device) < warping.beyond
        moving, valid = [], []
        for i, number in enumerate(crops.index.tolist()):
            ir = self.pairs[number][0][None]
            grid = transform_points(crops.theta[i : i + 1], aligned_points[i : i + 1])
            shown = inside(grid, ir.shape[-2], ir.shape[-1])
            shown = shown & (in_crop[i : i + 1] | beyond[i : i + 1])
            moving.append(warp(ir, grid) * shown)
            valid.append(shown)
        return WarpedCrops(
            crops.visible,
            torch.cat(moving),
            crops.infrared,
            torch.cat(valid).to(crops.visible.dtype),
            warps,
        )


def crop_shape(side: int, aspect: float) -> tuple[int, int]:
    """Height and width in multiples of 8, with about the area of a square of ``side``."""
    return max(round(side / aspect**0.5 / 8), 2) * 8, max(round(side * aspect**0.5 / 8), 2) * 8


def _crop_theta(
    image: tuple[int, int], crop: tuple[int, int], extent: tuple[float, float], draw: list[float]
) -> Tensor:
    """Crop -> image: the largest window of the crop's aspect, randomly reduced and placed."""
    height, width = image
    share = (extent[0] + (extent[1] - extent[0]) * draw[0]) * min(
        height / crop[0], width / crop[1]
    )
    rows, cols = share * crop[0] / height, share * crop[1] / width
    flip_x, flip_y = (1 if draw[3] < 0.5 else -1), (1 if draw[4] < 0.9 else -1)
    return torch.tensor(
        [
            [
                [flip_x * cols, 0.0, (2 * draw[1] - 1) * (1 - cols)],
                [0.0, flip_y * rows, (2 * draw[2] - 1) * (1 - rows)],
            ]
        ]
    )


def shrink(image: np.ndarray, side: int) -> Tensor:
    """Convert (H, W) to a tensor (1, H, W), its shorter side reduced to at most ``side``."""
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None]
    factor = side / min(tensor.shape[1:])
    if factor >= 1:
        return tensor
    size = (round(tensor.shape[1] * factor), round(tensor.shape[2] * factor))
    return F.interpolate(tensor[None], size, mode="bilinear", antialias=True, align_corners=False)[
        0
    ]
