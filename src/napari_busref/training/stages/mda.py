"""MDA, with weights of complementary information measured on the frozen bus."""

from __future__ import annotations

from torch import Tensor

from napari_busref.models.features.bus import Bus
from napari_busref.models.fusion.mda import Mda, MdaConfig
from napari_busref.training.batches.pair_store import Crops
from napari_busref.training.losses.mda import (
    feature_loss,
    image_loss,
    information_weights,
    patch_loss,
    style_loss,
)
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.fusion import FusionStage


class MdaStage(FusionStage):
    """Losses on the image, feature and patch levels, and on style."""

    export_name = "mda"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: Mda = Mda(MdaConfig.from_plain(recipe.model))
        self.bus = Bus()
        self.bus.load_state_dict(self.load_earlier("bus", "reconstruction").state_dict())
        self.freeze(self.bus)

    def shallow(self, image: Tensor) -> list[Tensor]:
        """Bus features at 1/2 and 1/4 resolution; deeper levels hold little detail."""
        features = [image]
        for down in self.bus.down[:2]:
            features.append(down(features[-1]))
        return features[1:]

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """All terms of one batch."""
        visible, infrared = self.photometric(batch.visible, batch.infrared)
        fused, pairs = self.model.fuse_features(visible, infrared)
        fused = fused.float()
        weights = self.recipe.fusion
        infrared_features, visible_features, fused_features = (
            self.shallow(image) for image in (infrared, visible, fused)
        )
        intensity, structure = information_weights(
            infrared_features, visible_features, weights.deviation, weights.temperature
        )
        parts = {
            "image": image_loss(fused, infrared, visible, intensity, structure),
            "feature": feature_loss(pairs),
            "patch": patch_loss(fused, infrared, visible, weights.deviation, weights.temperature),
            "style": style_loss(fused_features, infrared_features),
        }
        loss = (
            parts["image"]
            + weights.feature * parts["feature"]
            + weights.patch * parts["patch"]
            + weights.style * parts["style"]
        )
        if weights.detail:
            parts["detail"] = self.detail_loss(fused, visible, infrared)
            loss = loss + weights.detail * parts["detail"]
        if weights.brightness:
            parts["brightness"] = self.brightness_loss(fused, visible, infrared)
            loss = loss + weights.brightness * parts["brightness"]
        return {"loss": loss, **parts}
