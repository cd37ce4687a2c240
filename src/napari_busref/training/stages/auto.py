"""The matcher and the likelihood of the default together, continuing from earlier weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from napari_busref.models import load_model
from napari_busref.registration.auto import Auto
from napari_busref.training.batches.pair_store import PairStore, WarpedCrops
from napari_busref.training.recipe import Recipe, WarpConfig
from napari_busref.training.stages.base import Stage
from napari_busref.training.stages.likelihood import LikelihoodStage
from napari_busref.training.stages.matcher import MatcherStage

# The likelihood learns from warps as small as the errors after a fit, the matcher from the
# recipe's.
_SMALL_WARP = WarpConfig(
    rotation=2.0, scale=(0.97, 1.03), shear=1.5, shift=0.015, elastic=(0.0, 0.05), beyond=0.7
)


class AutoStage(Stage):
    """Sum of the losses of both stages, each on its own batch.

    Every checkpoint then holds a likelihood that knows its matcher. The likelihood's loss does not
    reach the matcher. Proposal networks stay as they are.
    """

    kind, export_name = "registration", "auto"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        model = load_model(recipe.start_from or "auto", device="cpu", kind=self.kind)
        if not isinstance(model, Auto):
            raise ValueError(
                f"start_from: stage auto needs 'auto' or a set of its networks, got "
                f"{recipe.start_from!r}"
            )
        self.model: Auto = model
        self.freeze(model.proposal_networks)
        self.matching = MatcherStage(recipe, model.matcher)
        self.blocks = LikelihoodStage(replace(recipe, warp=_SMALL_WARP), model.networks)

    def load_start(self) -> None:
        """Do nothing: the constructor has loaded the start."""

    def prepare(self, store: PairStore) -> PairStore:
        """Realign the pairs, if the recipe names a network for it."""
        return self.blocks.prepare(store)

    def draw(self, store: PairStore) -> tuple[WarpedCrops, WarpedCrops]:
        """Draw crops for the matcher and for the likelihood."""
        return self.matching.draw(store), self.blocks.draw(store)

    def forward(self, batch: tuple[WarpedCrops, WarpedCrops]) -> dict[str, Tensor]:
        """The losses of both stages, and the fraction of blocks whose best offset is right."""
        matching, blocks = self.matching(batch[0]), self.blocks(batch[1])
        return {
            "loss": matching.pop("loss") + blocks["loss"],
            **matching,
            "blocks": blocks["loss"],
            "right": blocks["right"],
        }

    def validate(self, device: torch.device) -> dict[str, float]:
        """The losses on the validation pairs, under warps of a fixed seed."""
        return self.mean_losses(device)

    def exports(self) -> dict[str, tuple[str, nn.Module]]:
        """The set, and both networks alone."""
        networks = vars(self.model.networks).items()
        return {**super().exports(), **{name: ("features", part) for name, part in networks}}
