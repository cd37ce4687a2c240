"""SuperFusion's fusion network: largest gradients, SSIM, largest intensities, semantics."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_busref.models.fusion.superfusion import SuperFusionNet, SuperFusionNetConfig
from napari_busref.training.batches.pair_store import Crops
from napari_busref.training.losses.busref import intensity_loss, similarity_loss
from napari_busref.training.losses.semantic import (
    LabelledScenes,
    SemanticConstraint,
    load_segmenter,
    mean_iou,
)
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.fusion import FusionStage


class SuperFusionFusionStage(FusionStage):
    """Fusion of aligned crops, with the semantic constraint if ``loss.semantic`` is positive."""

    export_name = "superfusion-fusion"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: SuperFusionNet = SuperFusionNet(SuperFusionNetConfig.from_plain(recipe.model))
        self.constraint: SemanticConstraint | None = None
        if recipe.loss.semantic:
            segmenter = load_segmenter(recipe.loss.segmenter)
            self.constraint = SemanticConstraint(segmenter, recipe.loss.ignore)
            self.scenes = LabelledScenes.from_config(recipe.data)

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """Fusion loss of one batch."""
        visible, infrared = self.photometric(batch.visible, batch.infrared)
        fused = self.model(visible, infrared).float()
        weights = self.recipe.fusion
        parts = {
            "similarity": similarity_loss(fused, visible, infrared),
            "detail": self.detail_loss(fused, visible, infrared),
            "intensity": intensity_loss(fused, visible, infrared),
            "brightness": self.brightness_loss(fused, visible, infrared),
        }
        loss = (
            self.recipe.loss.ssim * parts["similarity"]
            + weights.detail * parts["detail"]
            + self.recipe.loss.fuse_intensity * parts["intensity"]
            + weights.brightness * parts["brightness"]
        )
        if self.constraint is not None:
            parts["semantic"] = self.constraint(fused, *self.scenes.crop(batch))
            loss = loss + self.recipe.loss.semantic * parts["semantic"]
        return {"loss": loss, **parts}

    def validate(self, device: torch.device) -> dict[str, float]:
        """Scores of every fusion stage; with the semantic constraint also the mean IoU."""
        scores = super().validate(device)
        if self.constraint is not None:
            scenes = LabelledScenes.from_config(self.recipe.data, "val")
            samples = (tuple(part.to(device) for part in scene) for scene in scenes)
            scores["miou"] = mean_iou(self.constraint, self.model, samples)  # type: ignore[arg-type]
        return scores
