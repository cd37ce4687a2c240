"""The matching head on the bus, trained to match positions across modalities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.geometry import base_grid, inside, offsets, sample_field, warp
from napari_busref.models.features.matcher import Matcher
from napari_busref.models.layers import unit_length
from napari_busref.registration.canvases import with_local_contrast
from napari_busref.registration.pyramid import MaskedImage
from napari_busref.training.batches.modalities import generated
from napari_busref.training.batches.pair_store import PairStore, WarpedCrops
from napari_busref.training.batches.warps import draw_warps, fixed_to_moving
from napari_busref.training.losses.busref import contrastive_loss, offset_loss
from napari_busref.training.losses.local_correlation import aggregate_costs, local_correlation
from napari_busref.training.losses.search import search_loss
from napari_busref.training.recipe import Recipe, WarpConfig
from napari_busref.training.stages.base import Stage

# The search leaves errors of a few cells: refinement must learn from such warps.
_NEAR_WARP = WarpConfig(
    rotation=3.0, scale=(0.96, 1.04), shear=2.0, shift=0.03, elastic=(0.0, 0.03)
)
_RADIUS = 6  # of the local window, in cells
_LOCAL_SIDE = 36  # of the part that is correlated locally, in cells
_CONTRASTIVE_POSITIONS = 384  # random ones in each sample


class MatcherStage(Stage):
    """Contrastive and search loss after a far warp, local loss in a window after a near one.

    Both warps move by whole cells: from aligned pairs alone, features would learn the position of
    a cell instead of its content.
    """

    kind, export_name = "features", "matcher"

    def __init__(self, recipe: Recipe, model: Matcher | None = None) -> None:
        super().__init__(recipe)
        if model is None:
            model = Matcher(**recipe.model)
            model.bus.load_state_dict(self.load_bus())
        self.model: Matcher = model
        if not recipe.train_bus:
            self.freeze(self.model.bus)
        self.freeze(self.model.bus.up)  # not part of the features
        self.freeze(self.model.bus.head)

    def draw(self, store: PairStore) -> WarpedCrops:
        """Draw crops with a warped moving image."""
        return store.draw_warped(self.recipe.batch, self.recipe.data, self.recipe.warp)

    def forward(self, batch: WarpedCrops) -> dict[str, Tensor]:
        """Contrastive loss of a far warped moving image, local loss of a near one."""
        size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
        far_points = fixed_to_moving(batch.warps, size)
        far, aligned = self._remapped(batch)
        near = draw_warps(_NEAR_WARP, len(batch.fixed), size, batch.fixed)
        near_points = near.aligned_points(base_grid(*size, batch.fixed))
        close = warp(aligned, near_points, padding="border")

        fixed, far = self.photometric(batch.fixed, far)
        _, close = self.photometric(batch.fixed, close)
        # half of the empty borders stay black, the others keep the augmented grey level
        black = torch.rand(len(far), 1, 1, 1).to(far.device) < 0.5
        far = torch.where(black, far * batch.valid, far)
        ones = torch.ones_like(fixed)
        if self.recipe.augment.local_contrast:
            chosen = torch.rand(len(far), 1, 1, 1).to(far.device)
            fixed, far, close = (
                self._evened(image, valid, chosen)
                for image, valid in ((fixed, ones), (far, batch.valid), (close, ones))
            )
        fixed_features, far_features, near_features = (
            self.model(image, valid)
            for image, valid in ((fixed, None), (far, batch.valid), (close, None))
        )
        truth = near.source_points(base_grid(*size, batch.fixed))
        # float32: a softmax at a low temperature amplifies the rounding of bfloat16
        with torch.autocast(batch.fixed.device.type, enabled=False):
            known = inside(far_points, *size).float()
            contrast = self._contrastive_loss(fixed_features, far_features, far_points, known)
            search, found = self._search_loss(fixed_features, far_features, far_points, known)
            votes = self._local_loss(
                fixed_features, near_features, truth, inside(truth, *size).float()
            )
        weights = self.recipe.loss
        return {
            "loss": weights.matching * contrast + weights.search * search + weights.votes * votes,
            "contrast": contrast,
            "search": search,
            "found": found,
            "votes": votes,
        }

    def _evened(self, image: Tensor, valid: Tensor, chosen: Tensor) -> Tensor:
        """Images, some with one local mean and contrast as in the wide search."""
        even = with_local_contrast(MaskedImage(image, valid)).image
        return torch.where(chosen < self.recipe.augment.local_contrast, even, image)

    def _remapped(self, batch: WarpedCrops) -> tuple[Tensor, Tensor]:
        """Warped and aligned moving images; some show a modality made from the visible one."""
        count = len(batch.fixed)
        chosen = torch.rand(count, 1, 1, 1).to(batch.fixed.device) < self.recipe.augment.remap
        other = generated(batch.fixed, self.recipe.augment.modalities)
        points = batch.warps.aligned_points(
            base_grid(batch.fixed.shape[-2], batch.fixed.shape[-1], batch.fixed)
        )
        aligned = torch.where(chosen, other, batch.aligned)
        far = torch.where(chosen, warp(other, points, padding="border"), batch.moving)
        return far, aligned

    def _contrastive_loss(
        self, fixed: Tensor, moving: Tensor, truth: Tensor, mask: Tensor
    ) -> Tensor:
        """InfoNCE of the features at random positions inside the mask."""
        height, width = fixed.shape[-2:]
        mask = F.avg_pool2d(mask, Matcher.stride)[:, 0] > 0.99
        index = torch.rand(mask.shape).to(mask.device).masked_fill(~mask, -1).flatten(1)
        chosen = index.topk(min(_CONTRASTIVE_POSITIONS, index.shape[1]), 1).indices
        valid = mask.flatten(1).gather(1, chosen)
        cells = _to_cells(truth)
        positions = cells.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, 2))
        first = fixed.flatten(2).gather(2, chosen[:, None].expand(-1, fixed.shape[1], -1))
        second = sample_field(moving, positions[:, None])[:, :, 0]
        grid = torch.stack([chosen % width, chosen // width], -1).float()
        scale = torch.tensor([width / 2, height / 2], device=cells.device)
        return contrastive_loss(
            first.transpose(1, 2),
            second.transpose(1, 2),
            self.model.temperature(0),
            valid,
            (grid, positions * scale),
        )

    def _search_loss(
        self, fixed: Tensor, moving: Tensor, truth: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss of a search with the moving descriptors turned and scaled to the true pose."""
        if not self.recipe.loss.search:
            return fixed.new_zeros(()), fixed.new_zeros(())
        posed = unit_length(sample_field(moving, _to_cells(truth)))
        known = (F.avg_pool2d(mask, Matcher.stride) > 0.9).float()
        return search_loss(fixed, posed, known)

    def _local_loss(self, fixed: Tensor, moving: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of local correlations, aggregated over squares of several sides."""
        height, width = fixed.shape[-2:]
        weight = (F.avg_pool2d(mask, Matcher.stride) > 0.99).float()
        scale = torch.tensor([width / 2, height / 2], device=truth.device)
        shift = (_to_cells(truth) - base_grid(height, width, truth)) * scale
        # a part of the image suffices, in a third of the time
        rows, cols = (
            slice(start, start + _LOCAL_SIDE)
            for start in (
                int(torch.randint(max(n - _LOCAL_SIDE, 0) + 1, ())) for n in (height, width)
            )
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
                aggregate_costs(window, weight, side) / self.model.temperature(number),
                shift.permute(0, 3, 1, 2),
                weight,
                offsets(_RADIUS, window),
            )
            for number, side in enumerate(Matcher.aggregation_sides, 1)
        ]
        return torch.stack(losses).mean()

    def validate(self, device: torch.device) -> dict[str, float]:
        """The losses on the validation pairs, under warps of a fixed seed."""
        return self.mean_losses(device)


def _to_cells(points: Tensor) -> Tensor:
    """Average positions (B, H, W, 2) over the pixels of each cell."""
    pooled = F.avg_pool2d(points.permute(0, 3, 1, 2), Matcher.stride)
    return pooled.permute(0, 2, 3, 1)
