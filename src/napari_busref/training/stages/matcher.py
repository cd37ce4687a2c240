"""The matching head learns on the bus which places of two modalities are the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.geometry import base_grid, inside, offsets, sample_field, warp
from napari_busref.models.features.matcher import Matcher
from napari_busref.training.batches.augment import random_curve
from napari_busref.training.batches.data import PairStore, WarpedCrops
from napari_busref.training.batches.warps import draw_warps, fixed_to_moving
from napari_busref.training.losses.busref import contrastive_loss, offset_loss
from napari_busref.training.losses.votes import aggregate_costs, local_correlation
from napari_busref.training.recipe import Recipe, WarpConfig
from napari_busref.training.stages.base import Stage

# How far a search leaves the images apart, so that refinement meets in training what it meets
# later: a few cells.
_NEARLY = WarpConfig(rotation=3.0, scale=(0.96, 1.04), shear=2.0, shift=0.03, elastic=(0.0, 0.03))
_RADIUS = 6  # cells of the local window
_PART = 36  # side of the part of the picture whose votes are counted, in cells
_POSITIONS = 384  # of each sample, drawn for the contrastive loss


class MatcherStage(Stage):
    """Contrast over the whole picture after a far warp, votes in a window after a small one.

    Neither warp lies near the identity in cells: features that see only aligned pairs learn where
    a cell lies instead of what it shows.
    """

    kind, export_name = "features", "matcher"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.model: Matcher = Matcher(**recipe.model)
        self.model.bus.load_state_dict(self.load_bus())
        if not recipe.train_bus:
            self.freeze(self.model.bus)
        self.freeze(self.model.bus.up)  # no part of the features
        self.freeze(self.model.bus.head)

    def draw(self, store: PairStore) -> WarpedCrops:
        """Draw crops whose moving image is warped."""
        return store.draw_warped(self.recipe.batch, self.recipe.data, self.recipe.warp)

    def forward(self, batch: WarpedCrops) -> dict[str, Tensor]:
        """Contrastive loss of a far view of the moving image, vote loss of a near one."""
        size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
        far_points = fixed_to_moving(batch.warps, size)
        far, aligned = self._remapped(batch)
        near = draw_warps(_NEARLY, len(batch.fixed), size, batch.fixed)
        near_points = near.aligned_points(base_grid(*size, batch.fixed))
        close = warp(aligned, near_points, padding="border")

        fixed, far = self.photometric(batch.fixed, far)
        _, close = self.photometric(batch.fixed, close)
        # half of the empty borders stay black, the others continue the picture's mean
        black = torch.rand(len(far), 1, 1, 1).to(far.device) < 0.5
        far = torch.where(black, far * batch.valid, far)
        target, seen, nearby = (
            self.model(image, valid)
            for image, valid in ((fixed, None), (far, batch.valid), (close, None))
        )
        truth = near.source_points(base_grid(*size, batch.fixed))
        # a softmax at a low temperature would show the rounding of bfloat16
        with torch.autocast(batch.fixed.device.type, enabled=False):
            contrast = self._contrast(target, seen, far_points, inside(far_points, *size).float())
            votes = self._votes(target, nearby, truth, inside(truth, *size).float())
        weights = self.recipe.loss
        return {
            "loss": weights.matching * contrast + weights.votes * votes,
            "contrast": contrast,
            "votes": votes,
        }

    def _remapped(self, batch: WarpedCrops) -> tuple[Tensor, Tensor]:
        """Warped and aligned moving images; some are the visible one under a random curve."""
        count = len(batch.fixed)
        chosen = torch.rand(count, 1, 1, 1).to(batch.fixed.device) < self.recipe.augment.remap
        curved = random_curve(batch.fixed)
        points = batch.warps.aligned_points(
            base_grid(batch.fixed.shape[-2], batch.fixed.shape[-1], batch.fixed)
        )
        aligned = torch.where(chosen, curved, batch.aligned)
        far = torch.where(chosen, warp(curved, points, padding="border"), batch.moving)
        return far, aligned

    def _contrast(self, fixed: Tensor, moving: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
        height, width = fixed.shape[-2:]
        mask = F.avg_pool2d(mask, Matcher.stride)[:, 0] > 0.99
        index = torch.rand(mask.shape).to(mask.device).masked_fill(~mask, -1).flatten(1)
        chosen = index.topk(min(_POSITIONS, index.shape[1]), 1).indices
        known = mask.flatten(1).gather(1, chosen)
        cells = _to_cells(truth)
        places = cells.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, 2))
        first = fixed.flatten(2).gather(2, chosen[:, None].expand(-1, fixed.shape[1], -1))
        second = sample_field(moving, places[:, None])[:, :, 0]
        grid = torch.stack([chosen % width, chosen // width], -1).float()
        scale = torch.tensor([width / 2, height / 2], device=cells.device)
        return contrastive_loss(
            first.transpose(1, 2),
            second.transpose(1, 2),
            self.model.temperature(0),
            known,
            (grid, places * scale),
        )

    def _votes(self, fixed: Tensor, moving: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
        height, width = fixed.shape[-2:]
        weight = (F.avg_pool2d(mask, Matcher.stride) > 0.99).float()
        scale = torch.tensor([width / 2, height / 2], device=truth.device)
        shift = (_to_cells(truth) - base_grid(height, width, truth)) * scale
        # a part of the picture does, and takes a third of the time
        rows, cols = (
            slice(start, start + _PART)
            for start in (int(torch.randint(max(n - _PART, 0) + 1, ())) for n in (height, width))
        )
        fixed, moving, weight, shift = (
            fixed[..., rows, cols],
            moving[..., rows, cols],
            weight[..., rows, cols],
            shift[:, rows, cols],
        )
        window = local_correlation(fixed, moving, _RADIUS)
        losses = [
            offset_loss(
                aggregate_costs(window, weight, reach) / self.model.temperature(number),
                shift.permute(0, 3, 1, 2),
                weight,
                offsets(_RADIUS, window),
            )
            for number, reach in enumerate(Matcher.reaches, 1)
        ]
        return torch.stack(losses).mean()

    def validate(self, device: torch.device) -> dict[str, float]:
        """The losses on the validation pairs, under warps of a fixed seed."""
        return self.mean_losses(device)


def _to_cells(points: Tensor) -> Tensor:
    """Average positions (B, H, W, 2) over the pixels of each cell."""
    pooled = F.avg_pool2d(points.permute(0, 3, 1, 2), Matcher.stride)
    return pooled.permute(0, 2, 3, 1)
