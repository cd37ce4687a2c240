"""Block likelihoods on the frozen matcher, from known warps."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.geometry import base_grid, inside, offsets, warp
from napari_busref.models import load_model
from napari_busref.models.features.likelihood import Likelihood
from napari_busref.models.features.matcher import Matcher
from napari_busref.registration.features import MatchingNetworks, dense_features
from napari_busref.registration.pyramid import MaskedImage
from napari_busref.training.batches.modalities import generated
from napari_busref.training.batches.pair_store import PairStore, WarpedCrops
from napari_busref.training.batches.realign import realigned
from napari_busref.training.batches.warps import fixed_to_moving
from napari_busref.training.losses.busref import offset_loss
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.base import Stage

_SIGMA_RANGE = (0.06, 0.18)
"""Smoothness of the elastic part, as a fraction of the crop's side.

The protocol's 8 % refer to the whole image, and are a larger fraction of a crop.
"""


class LikelihoodStage(Stage):
    """Cross-entropy of block displacements against the true ones.

    The warps are small and elastic, like the errors after affine refinement.
    """

    kind, export_name = "features", "likelihood"

    def __init__(self, recipe: Recipe, networks: MatchingNetworks | None = None) -> None:
        super().__init__(recipe)
        if networks is None:
            matcher = self.load_earlier("matcher", "features")
            assert isinstance(matcher, Matcher)
            self.freeze(matcher)
            networks = MatchingNetworks(matcher, Likelihood(**recipe.model))
        self.matcher: Matcher = networks.matcher
        self.model: Likelihood = networks.likelihood

    def prepare(self, store: PairStore) -> PairStore:
        """Realign the pairs when they are first drawn, if the recipe names a network for it."""
        if not self.recipe.data.realign:
            return store
        device = store.pairs[0][0].device
        earlier = load_model(self.recipe.data.realign, device=device, kind="features")
        assert isinstance(earlier, Likelihood)
        # a copy: pairs are realigned when first drawn, and training may change the matcher
        return realigned(store, MatchingNetworks(deepcopy(self.matcher), earlier))

    def draw(self, store: PairStore) -> WarpedCrops:
        """Draw crops with a warped moving image; all warps of a batch are equally smooth."""
        low, high = _SIGMA_RANGE
        ranges = replace(self.recipe.warp, sigma=low + (high - low) * float(torch.rand(())))
        return store.draw_warped(self.recipe.batch, self.recipe.data, ranges)

    def forward(self, batch: WarpedCrops) -> dict[str, Tensor]:
        """Cross-entropy in nats, and the fraction of blocks whose best offset is right."""
        moving, valid = self._remapped(batch)
        fixed, moving = self.photometric(batch.fixed, moving)
        with torch.no_grad():
            first = dense_features(self.matcher, MaskedImage(fixed, torch.ones_like(fixed)))
            second = dense_features(self.matcher, MaskedImage(moving * valid, valid))
        likelihood = self.model(first, second)

        shift, inner = true_blocks(batch, self.model.block)
        right = within(likelihood, shift)
        return {
            "loss": offset_loss(likelihood, shift, inner, offsets(self.model.radius, likelihood)),
            "right": (right * inner).sum() / inner.sum().clamp_min(1),
        }

    def _remapped(self, batch: WarpedCrops) -> tuple[Tensor, Tensor]:
        """Warped moving images and their valid pixels; some show a made modality."""
        size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
        points = batch.warps.aligned_points(base_grid(*size, batch.fixed))
        other = generated(batch.fixed, self.recipe.augment.modalities)
        made, inner = warp(other, points), inside(points, *size)
        chosen = torch.rand(len(made), 1, 1, 1).to(made.device) < self.recipe.augment.remap
        return (
            torch.where(chosen, made * inner, batch.moving),
            torch.where(chosen, inner.to(batch.valid.dtype), batch.valid),
        )

    def validate(self, device: torch.device) -> dict[str, float]:
        """The loss on the validation pairs, under warps of a fixed seed."""
        return self.mean_losses(device)


def true_blocks(batch: WarpedCrops, block: int) -> tuple[Tensor, Tensor]:
    """True displacement of each block in pixels, (B, 2, rows, cols), and 1 where it is known."""
    size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
    truth = fixed_to_moving(batch.warps, size)
    pixels = torch.tensor([size[1] / 2, size[0] / 2], device=truth.device)
    shift = ((truth - base_grid(*size, truth)) * pixels).permute(0, 3, 1, 2)
    known = F.avg_pool2d(inside(truth, *size).float(), block) > 0.99
    return F.avg_pool2d(shift, block), known.float()


def within(likelihood: Tensor, shift: Tensor, px: float = 2.0) -> Tensor:
    """1 where the most likely offset of a block is less than ``px`` from the true one."""
    window = offsets((round(likelihood.shape[1] ** 0.5) - 1) // 2, likelihood)
    best = window[likelihood.argmax(1)].permute(0, 3, 1, 2)
    return ((best - shift).square().sum(1, keepdim=True) < px**2).float()
