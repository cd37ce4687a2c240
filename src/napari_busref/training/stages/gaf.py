"""Stage 2: the gradient-aware fusion network on the frozen bus."""

from __future__ import annotations

from torch import Tensor

from napari_busref.models.fusion.gaf import Gaf, GafConfig
from napari_busref.training.batches.pair_store import Crops
from napari_busref.training.losses.busref import fusion_gradient_loss, similarity_loss
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.fusion import FusionStage


class GafStage(FusionStage):
    """Fusion of aligned crops: ``L_fuse = sigma L_wsim + L_grad``.

    ``L_grad`` is the paper's (``loss.fuse_gradient``), or ours over several scales
    (``fusion.detail``). ``fusion.brightness`` adds a term on the brightness.
    """

    export_name = "gaf"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: Gaf = Gaf(GafConfig.from_plain(recipe.model))
        self.model.bus.load_state_dict(self.load_bus())
        self.freeze(self.model.bus)

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """Fusion loss of one batch."""
        visible, infrared = self.photometric(batch.visible, batch.infrared)
        fused = self.model(visible, infrared).float()
        weights, ours = self.recipe.loss, self.recipe.fusion
        parts = {"similarity": similarity_loss(fused, visible, infrared)}
        loss = weights.ssim * parts["similarity"]
        if weights.fuse_gradient:
            parts["gradient"] = fusion_gradient_loss(fused, visible, infrared, weights.gamma)
            loss = loss + weights.fuse_gradient * parts["gradient"]
        if ours.detail:
            parts["detail"] = self.detail_loss(fused, visible, infrared)
            loss = loss + ours.detail * parts["detail"]
        if ours.brightness:
            parts["brightness"] = self.brightness_loss(fused, visible, infrared)
            loss = loss + ours.brightness * parts["brightness"]
        return {"loss": loss, **parts}
