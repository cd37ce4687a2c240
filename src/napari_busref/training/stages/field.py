"""The field network learns on the frozen matcher what local correlations stand for."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.matching.features import describe_local
from napari_busref.matching.views import View
from napari_busref.matching.votes import offsets
from napari_busref.models.field_net import BLOCK, FieldNet
from napari_busref.models.geometry import base_grid, inside, warp
from napari_busref.models.matcher import Matcher
from napari_busref.training.augment import random_curve
from napari_busref.training.config import Recipe
from napari_busref.training.data import PairStore, WarpedCrops
from napari_busref.training.losses import masked_mean, offset_loss
from napari_busref.training.stages.base import Stage
from napari_busref.training.warps import fixed_to_moving

_SIGMA = (0.06, 0.18)
"""Smoothness of the elastic part, as a share of the crop's side.

A crop is a part of a picture, so that what is 8 % of the picture is more of the crop.
"""
_PIXELS = BLOCK * Matcher.stride


class FieldStage(Stage):
    """End-point error of the field, what the cells choose alone, and the error's own estimate.

    Warps are those that a search leaves: small, from nearly nothing but the elastic part up to the
    ranges of the recipe.
    """

    kind, export_name = "features", "field"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        matcher = self.load_earlier("matcher", "features")
        assert isinstance(matcher, Matcher)
        self.matcher = matcher
        self.freeze(self.matcher)
        self.model: FieldNet = FieldNet(**recipe.model)

    def draw(self, store: PairStore) -> WarpedCrops:
        """Draw crops whose moving image is warped, all of a batch about as strongly."""
        warping, strength = self.recipe.warp, float(torch.rand(()))
        low, high = _SIGMA
        near = replace(
            warping,
            rotation=warping.rotation * strength,
            scale=(warping.scale[0] ** strength, warping.scale[1] ** strength),
            shear=warping.shear * strength,
            shift=warping.shift * strength,
            sigma=low + (high - low) * float(torch.rand(())),
        )
        return store.draw_warped(self.recipe.batch, self.recipe.data, near)

    def forward(self, batch: WarpedCrops) -> dict[str, Tensor]:
        """Losses in cells of two pixels."""
        size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
        moving, valid = self._remapped(batch)
        fixed, moving = self.photometric(batch.fixed, moving)
        # half of the empty borders stay black, the others follow the augmentation
        black = torch.rand(len(moving), 1, 1, 1).to(moving.device) < 0.5
        moving = torch.where(black, moving * valid, moving)
        with torch.no_grad():
            first = describe_local(self.matcher, View(fixed, torch.ones_like(fixed)))
            second = describe_local(self.matcher, View(moving, valid))
        truth = fixed_to_moving(batch.warps, size)
        mask = inside(truth, *size).float()

        votes = self.model.votes(first, second)
        found, log_spread = self.model.read(votes)
        wanted = _in_cells(truth - base_grid(*size, truth))
        known = (F.avg_pool2d(mask, _PIXELS) > 0.99).float()
        error = (found - wanted).square().sum(1, keepdim=True).add(1e-4).sqrt()
        alone = offset_loss(votes.local, wanted, known, offsets(self.model.radius, found))
        # Laplace's likelihood, for the spread alone: what is sure must not outweigh the rest
        spread = masked_mean(error.detach() * (-log_spread).exp() + 2 * log_spread, known)
        endpoint = masked_mean(error, known)
        weights = self.recipe.loss
        return {
            "loss": endpoint + weights.votes * alone + 0.1 * spread,
            "endpoint": endpoint,
            "before": masked_mean(wanted.square().sum(1, keepdim=True).sqrt(), known),
            "alone": alone,
            "spread": spread,
        }

    def _remapped(self, batch: WarpedCrops) -> tuple[Tensor, Tensor]:
        """Warped moving images and where they are valid; some are the visible one, recoloured."""
        size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
        points = batch.warps.aligned_points(base_grid(*size, batch.fixed))
        curved, inner = warp(random_curve(batch.fixed), points), inside(points, *size)
        chosen = torch.rand(len(curved), 1, 1, 1).to(curved.device) < self.recipe.augment.remap
        return (
            torch.where(chosen, curved * inner, batch.moving),
            torch.where(chosen, inner.to(batch.valid.dtype), batch.valid),
        )

    def validate(self, device: torch.device) -> dict[str, float]:
        """The losses on the validation pairs, under warps of a fixed seed."""
        return self.mean_losses(device)


def _in_cells(displacement: Tensor) -> Tensor:
    """Normalised (B, H, W, 2) -> means over blocks, (B, 2, H / 8, W / 8), in cells."""
    height, width = displacement.shape[1:3]
    scale = torch.tensor([width, height], device=displacement.device) / (2 * Matcher.stride)
    return F.avg_pool2d((displacement * scale).permute(0, 3, 1, 2), _PIXELS)
