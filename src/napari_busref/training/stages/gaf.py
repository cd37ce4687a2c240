"""Stage 2: the gradient-aware fusion network learns on the frozen bus."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from napari_busref.datasets import load_pairs
from napari_busref.metrics.fusion import qabf, ssim, vif
from napari_busref.models.gaf import Gaf, GafConfig
from napari_busref.training.config import Recipe
from napari_busref.training.data import Crops, PairStore
from napari_busref.training.losses import fusion_gradient_loss, intensity_loss, similarity_loss
from napari_busref.training.stages.base import Stage


class GafStage(Stage):
    """Fusion of aligned crops: ``L_fuse = sigma L_wsim + L_grad``."""

    kind, export_name = "fusion", "gaf"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: Gaf = Gaf(GafConfig(**recipe.model))
        self.model.bus.load_state_dict(self.load_bus())
        self.freeze(self.model.bus)

    def draw(self, store: PairStore) -> Crops:
        """Draw aligned crops."""
        return store.draw(self.recipe.batch, self.recipe.data)

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """Fusion loss of one batch."""
        visible, infrared = self.photometric(batch.visible, batch.infrared)
        fused = self.model(visible, infrared).float()
        weights = self.recipe.loss
        parts = {
            "similarity": similarity_loss(fused, visible, infrared),
            "gradient": fusion_gradient_loss(fused, visible, infrared, weights.gamma),
        }
        loss = weights.ssim * parts["similarity"] + weights.fuse_gradient * parts["gradient"]
        if weights.fuse_intensity:
            parts["intensity"] = intensity_loss(fused, visible, infrared)
            loss = loss + weights.fuse_intensity * parts["intensity"]
        return {"loss": loss, **parts}

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean Q_AB/F, VIF and SSIM on the first data set."""
        scores: list[tuple[float, float, float]] = []
        data = self.recipe.data
        pairs = load_pairs(data.datasets[0], data.root or None, "val")[
            : self.recipe.validation_pairs
        ]
        for _, infrared, visible in pairs:
            luma = np.rint(visible @ np.array([0.299, 0.587, 0.114]))
            images = [
                torch.from_numpy(x / 255).float()[None, None].to(device) for x in (luma, infrared)
            ]
            fused = np.rint(self.model(*images).float().cpu().numpy()[0, 0] * 255).astype(float)
            ir = infrared.astype(float)
            scores.append((qabf(fused, luma, ir), vif(fused, luma, ir), ssim(fused, luma, ir)))
        means = np.mean(scores, 0)
        return {"qabf": float(means[0]), "vif": float(means[1]), "ssim": float(means[2])}
