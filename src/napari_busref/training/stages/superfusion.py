"""SuperFusion's dense matcher learns in both directions, from known warps and aligned pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.geometry import base_grid, inside, warp
from napari_busref.models.registration.superfusion import (
    FlowEstimator,
    Pyramid,
    SuperFusionConfig,
    SuperFusionMatcher,
    resample,
    resize_field,
    then,
)
from napari_busref.training.batches.data import PairStore, WarpedCrops
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
from napari_busref.training.stages.synthetic import true_cells, validate_registration

_AGAIN = 3  # one sample in so many is shown again, as the later passes see it
_COARSE = 0.3  # weight of the end-point error of each coarser field
_MATCHED = 2  # samples whose matches at 1/4 are learned: all pairs of cells are many
_GUIDED = 4  # samples that are fused, at half their size: all would double the time


@dataclass(frozen=True)
class _Direction:
    """What is known about one direction, for a batch.

    Attributes
    ----------
    target, source : Tensor
        Images as they were before the augmentation.
    wanted : Tensor
        The source's modality as it lies on the target.
    truth, mask : Tensor
        True source positions (B, H, W, 2), and where they are on the source's picture.
    """

    target: Tensor
    source: Tensor
    wanted: Tensor
    truth: Tensor
    mask: Tensor

    def select(self, index: slice) -> _Direction:
        """Part of the batch."""
        return _Direction(
            self.target[index],
            self.source[index],
            self.wanted[index],
            self.truth[index],
            self.mask[index],
        )


class SuperFusionStage(Stage):
    """The losses of SuperFusion's registration, both directions.

    The fused images of its fusion terms come from the frozen GAF, as SuperFusion's own fusion
    network is not part of this package yet. Matching of the features is our addition.
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
        """Draw crops whose moving image is warped."""
        return store.draw_warped(self.recipe.batch, self.recipe.data, self.recipe.warp)

    def forward(self, batch: WarpedCrops) -> dict[str, Tensor]:
        """Losses of one look at all samples and of a second one at some."""
        weights, model = self.recipe.loss, self.model
        size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
        fixed, moving = self.photometric(batch.fixed, batch.moving)
        # three in ten of the empty borders follow the augmentation, as grey ones do in practice
        grey = torch.rand(len(moving), 1, 1, 1).to(moving.device) < 0.3
        moving = torch.where(grey, moving, moving * batch.valid)
        valid = torch.where(grey, torch.ones_like(batch.valid), batch.valid)
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
        part = slice(max(len(fixed) // _AGAIN, 1))
        # the pass that comes after: the source resampled with what the first one found
        first = forward[-1][part].detach()
        look = model.features(*resample(moving[part], valid[part], first), visible=False)
        second = then(first, model.flows(visible.select(part), look)[-1])
        parts["again"] = self._far(second, there.select(part), size)
        first = backward[-1][part].detach()
        look = model.features(*resample(fixed[part], everywhere[part], first), visible=True)
        second = then(first, model.flows(infrared.select(part), look)[-1])
        parts["again"] = parts["again"] + self._far(second, back.select(part), size)
        if weights.matching:
            parts["matching"] = self._matching(*both, there, back)
        grids = [_positions(fields[-1], size) for fields in (forward, backward)]
        shown = [warp(d.source, g) for d, g in zip((there, back), grids, strict=True)]
        parts["photometric"] = photometric_loss(
            shown[0], there.wanted, there.mask
        ) + photometric_loss(shown[1], back.wanted, back.mask)
        # nothing may be shown where the other image has nothing
        parts["border"] = (shown[0] * (1 - there.mask)).mean() + (
            shown[1] * (1 - back.mask)
        ).mean()
        loss = (
            weights.endpoint * (parts["endpoint"] + parts["again"])
            + weights.smooth * parts["smooth"]
            + weights.photometric * parts["photometric"]
            + weights.border * parts["border"]
        )
        if weights.matching:
            loss = loss + weights.matching * parts["matching"]
        if self.fusion is not None:
            fuse, consistency = self._fused(there, shown, grids[0])
            parts |= {"fuse": fuse, "consistency": consistency}
            loss = loss + weights.fuse * fuse + weights.consistency * consistency
        return {"loss": loss, **parts}

    def _far(self, field: Tensor, known: _Direction, size: tuple[int, int]) -> Tensor:
        """End-point error of one field, weighted by the edges of the target."""
        weight = known.mask * edge_weight(known.target, self.recipe.loss.edges)
        return endpoint_loss(_positions(field, size), weight, known.truth, size)

    def _endpoint(self, fields: list[Tensor], known: _Direction, size: tuple[int, int]) -> Tensor:
        """End-point error of the last field and, with less weight, of those before it."""
        loss = self._far(fields[-1], known, size)
        for field in fields[:-1]:
            loss = loss + _COARSE * self._far(field, known, size)
        return loss

    def _matching(
        self, targets: Pyramid, sources: Pyramid, there: _Direction, back: _Direction
    ) -> Tensor:
        """Cross-entropy of what the cost volumes compare against the known positions."""
        half = len(targets.levels[0]) // 2
        loss = torch.zeros((), device=there.truth.device)
        for estimator, scale in zip(self.model.estimators, (2, 1), strict=True):
            assert isinstance(estimator, FlowEstimator)
            count = half if scale == 2 else min(half, _MATCHED)
            for start, known in ((0, there), (half, back)):
                part = slice(start, start + count)
                target, source, picture = estimator.describe(
                    targets.levels[scale][part],
                    sources.levels[scale][part],
                    sources.known[scale][part],
                )
                cells, mask = true_cells(
                    known.truth[:count],
                    known.mask[:count],
                    (target.shape[-2], target.shape[-1]),
                )
                # as in the cost volume: what holds no picture matches nothing
                source = source * picture
                with torch.autocast(target.device.type, enabled=False):
                    similarity = target.flatten(2).transpose(1, 2) @ source.flatten(2)
                loss = loss + matching_loss(similarity, estimator.temperature, cells, mask)
        return loss / 4

    def _fused(
        self, there: _Direction, shown: list[Tensor], grid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fusion loss of the registered pair, and distance of the images fused either way."""
        assert self.fusion is not None
        part = slice(_GUIDED)
        fixed, moving, registered, visible, infrared, mask = (
            F.avg_pool2d(image[part], 2)
            for image in (
                there.target,
                there.source,
                shown[0],
                shown[1],
                there.wanted,
                there.mask,
            )
        )
        mask = (mask > 0.99).to(mask.dtype)
        fused = self.fusion(fixed, registered).float()
        # fused in the moving image's frame, then brought to the fixed one
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
