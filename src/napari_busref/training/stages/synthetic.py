"""Validation and targets of the stages that learn from known warps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color import rgb2gray
from torch import Tensor, nn

from napari_busref.data.datasets import load_pairs
from napari_busref.geometry import estimate_to_pixels
from napari_busref.metrics.registration import Scorer, SyntheticPair, make_pair
from napari_busref.training.recipe import Recipe
from napari_busref.transforms.transform import Transform


@torch.no_grad()
def validate_registration(
    model: nn.Module, recipe: Recipe, device: torch.device
) -> dict[str, float]:
    """Mean EPE and MNCC on synthetic warps (seed 0) of each data set of a recipe."""
    scores: dict[str, float] = {}
    data = recipe.data
    for dataset in data.datasets:
        rows = []
        pairs = load_pairs(dataset, data.root or None, "val")[: recipe.validation_pairs]
        for _, infrared, visible in pairs:
            pair = make_pair(infrared / 255.0, rgb2gray(visible), seed=0)
            rows.append(score(pair, register_pair(model, pair, device)))
        scores[f"{dataset}_epe"] = float(np.mean([row["epe"] for row in rows]))
        scores[f"{dataset}_mncc"] = float(np.mean([row["mncc"] for row in rows]))
    return scores


@torch.no_grad()
def register_pair(model: nn.Module, pair: SyntheticPair, device: torch.device) -> Transform:
    """Register a synthetic pair of grey images in [0, 1] with a model."""
    fixed, moving = (
        torch.from_numpy(np.ascontiguousarray(image)).float()[None, None].to(device)
        for image in (pair.fixed, pair.moving)
    )
    estimate = model(fixed, moving, (moving > 0).float())
    shape = (fixed.shape[-2], fixed.shape[-1])
    affine, displacement = estimate_to_pixels(estimate, shape)[0]
    return Transform(affine, displacement, fixed_shape=shape, moving_shape=shape)


def score(pair: SyntheticPair, transform: Transform) -> dict[str, float]:
    """Score a transform estimated for a synthetic pair, see `Scorer`."""
    rows, cols = transform.fixed_shape
    return Scorer(pair)(np.mgrid[:rows, :cols] + transform.flow())


def grey_borders(moving: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Empty the invalid pixels of augmented images, except of a random 30 % of them.

    In those the border keeps the augmented grey level and counts as valid, as grey borders do in
    practice.
    """
    grey = torch.rand(len(moving), 1, 1, 1).to(moving.device) < 0.3
    return (
        torch.where(grey, moving, moving * valid),
        torch.where(grey, torch.ones_like(valid), valid),
    )


def true_cells(truth: Tensor, mask: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """True positions in cells, and which cells have one, for a grid of ``shape``.

    Parameters
    ----------
    truth : Tensor
        (B, H, W, 2), normalised positions at every pixel.
    mask : Tensor
        (B, 1, H, W).
    shape : tuple of int
        (h, w): H and W divided by one integer.

    Returns
    -------
    cells : Tensor
        (B, h, w, 2), (x, y).
    valid : Tensor of bool
        (B, h, w), cells inside the mask.
    """
    step = truth.shape[1] // shape[0]
    # cell centres lie between the middle pixels of a cell
    position = F.avg_pool2d(truth.permute(0, 3, 1, 2), step).permute(0, 2, 3, 1)
    size = torch.tensor([shape[1], shape[0]], device=truth.device)
    return ((position + 1) * size - 1) / 2, F.avg_pool2d(mask, step)[:, 0] > 0.99
