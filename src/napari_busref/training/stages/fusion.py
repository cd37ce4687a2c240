"""Base class and scores of the fusion stages."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_busref.data.datasets import load_pairs
from napari_busref.metrics.fusion import nabf, qabf, scd, ssim, vif
from napari_busref.training.batches.pair_store import Crops, PairStore
from napari_busref.training.losses.fusion import brightness_loss, pyramid_gradient_loss
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.base import Stage

_SCORES = {"qabf": qabf, "vif": vif, "scd": scd, "ssim": ssim, "nabf": nabf}


class FusionStage(Stage):
    """A fusion network that trains on aligned crops; the first data set validates it."""

    kind = "fusion"

    def draw(self, store: PairStore) -> Crops:
        """Draw aligned crops."""
        return store.draw(self.recipe.batch, self.recipe.data)

    def detail_loss(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
        """`pyramid_gradient_loss` with the recipe's settings."""
        return pyramid_gradient_loss(fused, visible, infrared, self.recipe.fusion)

    def brightness_loss(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
        """`brightness_loss` with the recipe's settings."""
        weights = self.recipe.fusion
        return brightness_loss(
            fused,
            visible,
            infrared,
            side=16,
            decision=weights.decision,
            contrast=weights.contrast,
        )

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean scores on the val pairs of the first data set."""
        return fusion_scores(self.model, _grey_pairs(self.recipe), device)


@torch.no_grad()
def fusion_scores(
    model: nn.Module,
    pairs: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]],
    device: torch.device,
) -> dict[str, float]:
    """Mean Q_AB/F, VIF, SCD, SSIM and N_AB/F over pairs of grey levels 0..255."""
    rows = []
    for first, second in pairs:
        images = [
            torch.from_numpy(image / 255).float()[None, None].to(device)
            for image in (first, second)
        ]
        fused = np.rint(model(*images).float().clamp(0, 1).cpu().numpy()[0, 0] * 255)
        rows.append([score(fused.astype(float), first, second) for score in _SCORES.values()])
    return dict(zip(_SCORES, np.mean(rows, 0).tolist(), strict=True))


def _grey_pairs(recipe: Recipe) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    data = recipe.data
    pairs = load_pairs(data.datasets[0], data.root or None, "val")[: recipe.validation_pairs]
    weights = np.array([0.299, 0.587, 0.114])
    return [(np.rint(visible @ weights), infrared.astype(float)) for _, infrared, visible in pairs]
