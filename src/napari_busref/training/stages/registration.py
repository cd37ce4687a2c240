"""Stage 3: Affine Net and Deformable Net on the frozen bus, guided by the frozen GAF."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from napari_busref.geometry import (
    Estimate,
    base_grid,
    compose_affine,
    inside,
    invert_affine,
    sampling_grid,
    transform_points,
    warp,
)
from napari_busref.models.registration.busref import BusRef, BusRefConfig, Features
from napari_busref.models.registration.descriptors import correlate
from napari_busref.training.batches.pair_store import PairStore, WarpedCrops
from napari_busref.training.batches.warps import draw_warps, fixed_to_moving
from napari_busref.training.losses.busref import (
    endpoint_loss,
    guide_loss,
    masked_correlation,
    matching_loss,
    smoothness_loss,
)
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.base import Stage
from napari_busref.training.stages.synthetic import (
    grey_borders,
    true_cells,
    validate_registration,
)

_AFFINE_PASSES = 2
_GUIDE_SAMPLES = 4  # of a batch; all samples would double the time


class RegistrationStage(Stage):
    """``L_reg = epsilon L_MNCC + L_MG``, and our end-point, smoothness and matching terms."""

    kind, export_name = "registration", "busref"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: BusRef = BusRef(BusRefConfig.from_plain(recipe.model))
        if not recipe.train_bus:
            self.model.bus.load_state_dict(self.load_bus())
            self.freeze(self.model.bus)
        # DDP takes modules without gradients for a mistake
        self.freeze(self.model.bus.up)
        self.freeze(self.model.bus.head)
        self.guide: torch.nn.Module | None = None
        if recipe.loss.guide:
            self.guide = self.load_fusion()

    def draw(self, store: PairStore) -> WarpedCrops:
        """Draw crops whose moving image is warped."""
        return store.draw_warped(self.recipe.batch, self.recipe.data, self.recipe.warp)

    def forward(self, batch: WarpedCrops) -> dict[str, Tensor]:
        """Losses of two passes of the Affine Net and one of the Deformable Net."""
        weights, model = self.recipe.loss, self.model
        size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
        fixed, moving = self.photometric(batch.fixed, batch.moving)
        moving, valid = grey_borders(moving, batch.valid)
        truth = fixed_to_moving(batch.warps, size)
        mask = inside(truth, *size).float() if weights.mask else torch.ones_like(batch.valid)
        base = base_grid(*size, fixed)
        target = model.features(fixed)
        theta = draw_warps(self.recipe.start, len(fixed), size, fixed).theta
        source = model.features(*_resample(moving, valid, theta, base))
        matching = torch.zeros((), device=fixed.device)
        if weights.matching and target.descriptors is not None and source.descriptors is not None:
            described = (target.descriptors, source.descriptors)
            matching = self._matching(described, theta, truth, mask)
            # Descriptors learn from the far start alone. Later inputs are nearly aligned, and
            # position would be the best descriptor.
            target = replace(target, descriptors=target.descriptors.detach())
            source = replace(source, descriptors=source.descriptors.detach())
        endpoint = torch.zeros((), device=fixed.device)
        for index in range(_AFFINE_PASSES):
            if index:
                source = self._later_features(moving, valid, theta, base)
            total = compose_affine(theta, model.affine_step(target, source, size))
            endpoint = endpoint + endpoint_loss(transform_points(total, base), mask, truth, size)
            theta = total.detach()
        source = self._later_features(moving, valid, theta, base)
        phi = model.deformable_step(target, source, size)
        final = sampling_grid(Estimate(total, phi), *size)
        registered = warp(batch.moving, final)
        parts = {
            "endpoint": endpoint / _AFFINE_PASSES + endpoint_loss(final, mask, truth, size),
            "matching": matching,
            "mncc": -masked_correlation(registered, batch.aligned, mask),
            "smooth": smoothness_loss(phi * _cells(size, phi)),
        }
        loss = (
            weights.endpoint * parts["endpoint"]
            + weights.matching * parts["matching"]
            + weights.mncc * parts["mncc"]
            + weights.smooth * parts["smooth"]
        )
        if self.guide is not None:
            parts["guide"] = self._guide_loss(batch, registered, mask)
            loss = loss + weights.guide * parts["guide"]
        return {"loss": loss, **parts}

    def _later_features(
        self, moving: Tensor, valid: Tensor, theta: Tensor, base: Tensor
    ) -> Features:
        resampled = _resample(moving, valid, theta, base)
        if not self.recipe.loss.matching:
            return self.model.features(*resampled)
        with torch.no_grad():  # see forward: descriptors learn from the far start alone
            return self.model.features(*resampled)

    def _guide_loss(self, batch: WarpedCrops, registered: Tensor, mask: Tensor) -> Tensor:
        """``L_MG`` of a few samples, in a random window of half their size."""
        assert self.guide is not None
        height, width = (n // 2 for n in registered.shape[-2:])
        top, left = (int(torch.randint(n, ())) for n in (height, width))
        window = (
            slice(_GUIDE_SAMPLES),
            slice(None),
            slice(top, top + height),
            slice(left, left + width),
        )
        fused = self.guide(batch.fixed[window], registered[window])
        with torch.no_grad():
            aligned = self.guide(batch.fixed[window], batch.aligned[window])
        return guide_loss(fused, aligned, mask[window])

    def _matching(
        self, described: tuple[Tensor, Tensor], theta: Tensor, truth: Tensor, mask: Tensor
    ) -> Tensor:
        """Cross-entropy of the descriptors against the known positions in the resampled image."""
        shape = (described[0].shape[-2], described[0].shape[-1])
        cells, valid = true_cells(transform_points(invert_affine(theta), truth), mask, shape)
        correlation = correlate(*described).mean(1)
        temperature = self.model.affine_net.log_temperature.exp().clamp(1e-2, 1)
        return matching_loss(correlation, temperature, cells, valid)

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean EPE and MNCC on synthetic warps (seed 0) of each data set."""
        return validate_registration(self.model, self.recipe, device)


def _resample(moving: Tensor, valid: Tensor, theta: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """Resample the moving image and its valid pixels with the present affine."""
    grid = transform_points(theta, base)
    return warp(moving, grid), warp(valid, grid)


def _cells(size: tuple[int, int], like: Tensor) -> Tensor:
    """Factors from normalised displacements to cells of 8 pixels."""
    return torch.tensor([size[1] / 16, size[0] / 16], device=like.device)[None, :, None, None]
