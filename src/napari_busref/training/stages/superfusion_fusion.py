"""SuperFusion's fusion network: largest gradients, SSIM, largest intensities, semantics."""

from __future__ import annotations

from torch import Tensor

from napari_busref.models.superfusion_fusion import SuperFusionNet, SuperFusionNetConfig
from napari_busref.training.config import Recipe
from napari_busref.training.data import Crops
from napari_busref.training.fusion_losses import brightness_loss
from napari_busref.training.losses import intensity_loss, similarity_loss
from napari_busref.training.stages.fusion import FusionStage


class SuperFusionFusionStage(FusionStage):
    """Fusion of aligned crops; ``training.semantic`` has the semantic constraint."""

    export_name = "superfusion-fusion"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: SuperFusionNet = SuperFusionNet(SuperFusionNetConfig.from_plain(recipe.model))

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """Fusion loss of one batch."""
        visible, infrared = self.photometric(batch.visible, batch.infrared)
        fused = self.model(visible, infrared).float()
        weights = self.recipe.fusion
        parts = {
            "similarity": similarity_loss(fused, visible, infrared),
            "detail": self.detail_loss(fused, visible, infrared),
            "intensity": intensity_loss(fused, visible, infrared),
            "brightness": brightness_loss(fused, visible, infrared, side=16),
        }
        loss = (
            self.recipe.loss.ssim * parts["similarity"]
            + weights.detail * parts["detail"]
            + self.recipe.loss.fuse_intensity * parts["intensity"]
            + weights.brightness * parts["brightness"]
        )
        return {"loss": loss, **parts}
