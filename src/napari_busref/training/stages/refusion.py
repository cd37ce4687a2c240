"""ReFusion: a network learns the fusion loss by meta-learning, with three updates a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from napari_busref.models.fusion.refusion import ReFusion, ReFusionConfig
from napari_busref.training.batches.pair_store import Crops
from napari_busref.training.losses.refusion import proposed_loss, reconstruction_loss
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.fusion import FusionStage


class ReFusionStage(FusionStage):
    """Inner, outer and fusion update.

    Inner: one differentiable step of the fusion module under the proposed loss, on one half of the
    batch. Outer: the reconstruction loss of the stepped module on the other half; its gradient
    reaches the loss-proposal module through that step. Fusion: the fusion and the reconstruction
    module under the present loss. The optimiser applies all gradients; no parameter gets two.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.export_name = recipe.export or "refusion"
        self.model: ReFusion = ReFusion(ReFusionConfig.from_plain(recipe.model))

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """Losses of one batch; the fraction ``fusion.outer_share`` updates the proposal."""
        visible, infrared = self.photometric(batch.visible, batch.infrared)
        settings = self.recipe.fusion
        fused = self.model.fusion(visible, infrared)
        weights = self.model.loss_weights(visible, infrared)
        # detached: the loss weights must not learn to make the loss small
        fixed = type(weights)(*(w.detach() for w in weights))
        parts = {
            "fusion": proposed_loss(fused, visible, infrared, fixed, settings),
            "reconstruction": reconstruction_loss(
                self.model.reconstruct(fused), visible, infrared
            ),
        }
        # the reconstruction term trains its own module, and the fusion module only weakly
        loss = parts["fusion"] + settings.reconstruction * parts["reconstruction"]
        if settings.brightness:
            parts["brightness"] = self.brightness_loss(fused, visible, infrared)
            loss = loss + settings.brightness * parts["brightness"]
        if self.updates_proposal():
            parts["outer"] = self.outer(visible, infrared)
            loss = loss + parts["outer"]
        return {"loss": loss, **parts}

    def updates_proposal(self) -> bool:
        """Whether this step updates the loss proposal; drawn, so a resumed run agrees."""
        return bool(torch.rand(()) < self.recipe.fusion.outer_share)

    def outer(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Reconstruction loss after one functional step; only the proposal gets a gradient."""
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
        first, second = functional_call(model.reconstruction, frozen, (fused,)).chunk(2, 1)
        return reconstruction_loss((first, second), outer_v, outer_r)
