"""Stage 1: the bus, an auto-encoder of both modalities."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from napari_busref.models.features.bus import Bus, standardise
from napari_busref.training.batches.pair_store import Crops, PairStore
from napari_busref.training.losses.busref import reconstruction_loss
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.base import Stage


class BusStage(Stage):
    """Auto-encoder on visible and infrared crops, half of them standardised."""

    kind, export_name = "reconstruction", "bus"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: Bus = Bus(**recipe.model)

    def draw(self, store: PairStore) -> Crops:
        """Draw aligned crops."""
        return store.draw(self.recipe.batch, self.recipe.data)

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """Reconstruction loss of both modalities."""
        image = torch.cat(self.photometric(batch.visible, batch.infrared))
        plain = torch.rand(len(image), 1, 1, 1).to(image.device) < 0.5
        image = torch.where(plain, image, standardise(image))
        return {"loss": reconstruction_loss(image, self.model(image), self.recipe.loss.ssim)}

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """PSNR and SSIM of the reconstruction, over both modalities."""
        store = PairStore.from_config(self.recipe.data, "val").to(device)
        psnr, similarity = [], []
        for pair in store.pairs[: self.recipe.validation_pairs]:
            for image in pair:
                image = image[None]
                decoded = self.model(image).float().clamp(0, 1)
                psnr.append(float(peak_signal_noise_ratio(decoded, image, data_range=1.0)))
                value = structural_similarity_index_measure(decoded, image, data_range=1.0)
                assert isinstance(value, Tensor)
                similarity.append(float(value))
        return {"psnr": sum(psnr) / len(psnr), "ssim": sum(similarity) / len(similarity)}
