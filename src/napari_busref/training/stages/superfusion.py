"""SuperFusion's dense matcher in both directions, from known warps and aligned pairs."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.geometry import base_grid, inside, warp
from napari_busref.models.registration.superfusion import (
    FlowEstimator,
    Pyramid,
    SuperFusionConfig,
    SuperFusionMatcher,
    compose_passes,
    resample,
    resize_field,
)
from napari_busref.training.batches.pair_store import PairStore, WarpedCrops
from napari_busref.training.batches.warps import fixed_to_moving
from napari_busref.training.losses.busref import (
    bending_loss,
    edge_weight,
    endpoint_loss,
    masked_mean,
    matching_loss,
    photometric_loss,
    registered_fusion_loss,
)
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.base import Stage
from napari_busref.training.stages.synthetic import (
    grey_borders,
    true_cells,
    validate_registration,
)

_SECOND_PASS_STRIDE = 3  # one sample in three takes a second pass
_COARSE_WEIGHT = 0.3  # of the end-point error of each coarser field
_MATCHING_SAMPLES = 2  # at 1/4 resolution, where pairs of cells are many
_GUIDE_SAMPLES = 4  # fused at half their size; all samples would double the time


@dataclass(frozen=True)
class _Direction:
    """Images and ground truth of one direction, for a batch.

    Attributes
    ----------
    target, source : Tensor
        Images before the augmentation.
    aligned : Tensor
        The source's modality on the grid of the target.
    truth, mask : Tensor
        True source positions (B, H, W, 2), and which of them lie inside the source image.
    """

    target: Tensor
    source: Tensor
    aligned: Tensor
    truth: Tensor
    mask: Tensor

    def select(self, index: slice) -> _Direction:
        """Part of the batch."""
        return _Direction(*(getattr(self, field.name)[index] for field in fields(self)))


class SuperFusionStage(Stage):
    """The losses of SuperFusion's registration, both directions.

    The frozen GAF gives the fused images of the fusion terms. Matching of the features is our
    addition.
    """

    kind, export_name = "registration", "superfusion"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: SuperFusionMatcher = SuperFusionMatcher(
            SuperFusionConfig.from_plain(recipe.model)
        )
        self.fusion: torch.nn.Module | None = None
        if recipe.loss.fuse or recipe.loss.consistency:
            self.fusion = self.load_fusion()

    def draw(self, store: PairStore) -> WarpedCrops:
        """Draw crops with a warped moving image."""
        return store.draw_warped(self.recipe.batch, self.recipe.data, self.recipe.warp)

    def forward(self, batch: WarpedCrops) -> dict[str, Tensor]:
        """Losses of one pass over all samples and of a second one over some."""
        weights, model = self.recipe.loss, self.model
        size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
        fixed, moving = self.photometric(batch.fixed, batch.moving)
        moving, valid = grey_borders(moving, batch.valid)
        everywhere = torch.ones_like(valid)
        there, back = _directions(batch, size)

        visible = model.features(fixed, everywhere, visible=True)
        infrared = model.features(moving, valid, visible=False)
        both = visible.with_others(infrared), infrared.with_others(visible)
        flows = [field.chunk(2) for field in model.flows(*both)]
        forward, backward = ([pair[i] for pair in flows] for i in (0, 1))
        parts = {
            "endpoint": self._endpoint(forward, there, size)
            + self._endpoint(backward, back, size),
            "smooth": torch.stack(
                [bending_loss(_in_cells(field, size)) for field in forward + backward]
            ).mean(),
        }
        part = slice(max(len(fixed) // _SECOND_PASS_STRIDE, 1))
        # the second pass resamples the source with the result of the first
        first = forward[-1][part].detach()
        source = model.features(*resample(moving[part], valid[part], first), visible=False)
        second = compose_passes(first, model.flows(visible.select(part), source)[-1])
        parts["second_pass"] = self._field_error(second, there.select(part), size)
        first = backward[-1][part].detach()
        source = model.features(*resample(fixed[part], everywhere[part], first), visible=True)
        second = compose_passes(first, model.flows(infrared.select(part), source)[-1])
        parts["second_pass"] = parts["second_pass"] + self._field_error(
            second, back.select(part), size
        )
        if weights.matching:
            parts["matching"] = self._matching(*both, there, back)
        return self._with_image_losses(parts, there, back, (forward[-1], backward[-1]))

    def _with_image_losses(
        self,
        parts: dict[str, Tensor],
        there: _Direction,
        back: _Direction,
        finest: tuple[Tensor, Tensor],
    ) -> dict[str, Tensor]:
        """Add the losses of the images that the finest fields warp, and the total."""
        weights = self.recipe.loss
        size = (there.target.shape[-2], there.target.shape[-1])
        grids = [_positions(field, size) for field in finest]
        warped = [warp(d.source, g) for d, g in zip((there, back), grids, strict=True)]
        parts["photometric"] = photometric_loss(
            warped[0], there.aligned, there.mask
        ) + photometric_loss(warped[1], back.aligned, back.mask)
        # outside the other image the warped one must be empty
        parts["border"] = (warped[0] * (1 - there.mask)).mean() + (
            warped[1] * (1 - back.mask)
        ).mean()
        loss = (
            weights.endpoint * (parts["endpoint"] + parts["second_pass"])
            + weights.smooth * parts["smooth"]
            + weights.photometric * parts["photometric"]
            + weights.border * parts["border"]
        )
        if weights.matching:
            loss = loss + weights.matching * parts["matching"]
        if self.fusion is not None:
            fuse, consistency = self._fusion_losses(there, warped, grids[0])
            parts |= {"fuse": fuse, "consistency": consistency}
            loss = loss + weights.fuse * fuse + weights.consistency * consistency
        return {"loss": loss, **parts}

    def _field_error(self, field: Tensor, true: _Direction, size: tuple[int, int]) -> Tensor:
        """End-point error of one field, weighted by the edges of the target."""
        weight = true.mask * edge_weight(true.target, self.recipe.loss.edges)
        return endpoint_loss(_positions(field, size), weight, true.truth, size)

    def _endpoint(self, fields: list[Tensor], true: _Direction, size: tuple[int, int]) -> Tensor:
        """End-point error of the last field and, with less weight, of the coarser ones."""
        loss = self._field_error(fields[-1], true, size)
        for field in fields[:-1]:
            loss = loss + _COARSE_WEIGHT * self._field_error(field, true, size)
        return loss

    def _matching(
        self, targets: Pyramid, sources: Pyramid, there: _Direction, back: _Direction
    ) -> Tensor:
        """Cross-entropy of the descriptors of the cost volumes against the true positions."""
        half = len(targets.levels[0]) // 2
        loss = torch.zeros((), device=there.truth.device)
        for estimator, scale in zip(self.model.estimators, (2, 1), strict=True):
            assert isinstance(estimator, FlowEstimator)
            count = half if scale == 2 else min(half, _MATCHING_SAMPLES)
            for start, true in ((0, there), (half, back)):
                part = slice(start, start + count)
                target, source, valid = estimator.describe(
                    targets.levels[scale][part],
                    sources.levels[scale][part],
                    sources.valid[scale][part],
                )
                cells, mask = true_cells(
                    true.truth[:count],
                    true.mask[:count],
                    (target.shape[-2], target.shape[-1]),
                )
                # as in the cost volume: invalid cells match nothing
                source = source * valid
                with torch.autocast(target.device.type, enabled=False):
                    similarity = target.flatten(2).transpose(1, 2) @ source.flatten(2)
                loss = loss + matching_loss(similarity, estimator.temperature, cells, mask)
        return loss / 4

    def _fusion_losses(
        self, there: _Direction, warped: list[Tensor], grid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fusion loss of the registered pair, and distance between both fused images."""
        assert self.fusion is not None
        part = slice(_GUIDE_SAMPLES)
        fixed, moving, registered, visible, infrared, mask = (
            F.avg_pool2d(image[part], 2)
            for image in (
                there.target,
                there.source,
                warped[0],
                warped[1],
                there.aligned,
                there.mask,
            )
        )
        mask = (mask > 0.99).to(mask.dtype)
        fused = self.fusion(fixed, registered).float()
        # fused on the moving grid, then resampled to the fixed one
        other = self.fusion(visible, moving).float()
        positions = F.avg_pool2d(grid[part].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        distance = (fused - warp(other, positions)).abs()
        return (
            registered_fusion_loss(fused, fixed, infrared, mask),
            masked_mean(distance, mask),
        )

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean EPE and MNCC on synthetic warps (seed 0) of each data set."""
        return validate_registration(self.model, self.recipe, device)


def _directions(batch: WarpedCrops, size: tuple[int, int]) -> tuple[_Direction, _Direction]:
    """Fixed -> moving and moving -> fixed."""
    truth = fixed_to_moving(batch.warps, size)
    mask = inside(truth, *size).float()
    back = batch.warps.aligned_points(base_grid(*size, batch.fixed))
    back_mask = inside(back, *size).float()
    visible = warp(batch.fixed, back)
    return (
        _Direction(batch.fixed, batch.moving, batch.aligned, truth, mask),
        _Direction(batch.moving, batch.fixed, visible, back, back_mask),
    )


def _positions(field: Tensor, size: tuple[int, int]) -> Tensor:
    """Source positions (B, H, W, 2) of a displacement (B, 2, h, w)."""
    return base_grid(*size, field) + resize_field(field, size).permute(0, 2, 3, 1)


def _in_cells(field: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised displacement -> cells of 8 pixels."""
    return field * torch.tensor([size[1] / 16, size[0] / 16], device=field.device)[:, None, None]
