"""ReFusion: three alternating updates, the loss being learned by looking one step ahead."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from napari_busref.models.fusion.refusion import ReFusion, ReFusionConfig
from napari_busref.training.batches.data import Crops
from napari_busref.training.losses.refusion import proposed_loss, reconstruction_loss
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.fusion import FusionStage


class ReFusionStage(FusionStage):
    """Inner, outer and fusion update.

    Inner: a step of the fusion module under the proposed loss, on one half of the batch, with the
    graph kept. Outer: the loss-proposal module is told, through that step, how well the stepped
    fusion module's output of the other half gives both sources back. Fusion: the fusion and the
    reconstruction module under the loss as it is now. The trainer's optimiser applies the
    gradients of all three; they meet in no parameter.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.export_name = recipe.export or "refusion"
        self.model: ReFusion = ReFusion(ReFusionConfig.from_plain(recipe.model))

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """Losses of one batch; every ``fusion.outer_every``-th of them updates the proposal."""
        visible, infrared = self.photometric(batch.visible, batch.infrared)
        wanted = self.recipe.fusion
        fused = self.model.fusion(visible, infrared)
        weights = self.model.loss_weights(visible, infrared)
        # the loss as it is now: its weights must not learn to make it small
        fixed = type(weights)(*(w.detach() for w in weights))
        parts = {
            "fusion": proposed_loss(fused, visible, infrared, fixed, wanted),
            "reconstruction": reconstruction_loss(
                self.model.reconstruct(fused), visible, infrared
            ),
        }
        # the fused image keeps what the proposed loss asks for; only the reconstruction module,
        # and weakly the fusion module, learn from the second term
        loss = parts["fusion"] + wanted.reconstruction * parts["reconstruction"]
        if wanted.brightness:
            parts["brightness"] = self.brightness_loss(fused, visible, infrared)
            loss = loss + wanted.brightness * parts["brightness"]
        if self.looks_ahead():
            parts["outer"] = self.outer(visible, infrared)
            loss = loss + parts["outer"]
        return {"loss": loss, **parts}

    def looks_ahead(self) -> bool:
        """Whether this step updates the proposal; drawn, so that a resumed run does the same."""
        return bool(torch.rand(()) < self.recipe.fusion.outer_share)

    def outer(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Reconstruction loss after one functional step; only the proposal gets its gradient."""
        model, settings = self.model, self.recipe.fusion
        half = max(len(visible) // 2, 1)
        inner_v, inner_r = visible[:half], infrared[:half]
        outer_v, outer_r = visible[-half:], infrared[-half:]
        parameters = {
            name: value.detach().requires_grad_()
            for name, value in model.fusion.named_parameters()
        }
        fused = functional_call(model.fusion, parameters, (inner_v, inner_r))
        inner = proposed_loss(
            fused, inner_v, inner_r, model.loss_weights(inner_v, inner_r), settings
        )
        gradients = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
        stepped = {
            name: value.detach() - settings.inner_rate * gradient
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
        }
        fused = functional_call(model.fusion, stepped, (outer_v, outer_r))
        frozen = {name: value.detach() for name, value in model.reconstruction.named_parameters()}
        found = functional_call(model.reconstruction, frozen, (fused,)).chunk(2, 1)
        return reconstruction_loss((found[0], found[1]), outer_v, outer_r)
