"""BusReF registration: bus, Affine Net and Deformable Net, coarse to fine."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.geometry import (
    Estimate,
    compose_affine,
    compose_displacement,
    identity_theta,
    isotropic_to_normalised,
    sampling_grid,
    warp,
)
from napari_busref.models.config import PlainConfig
from napari_busref.models.features.bus import Bus, standardise
from napari_busref.models.layers import resize, working_size
from napari_busref.models.registration.affine_net import AffineNet
from napari_busref.models.registration.deformable_net import DeformableNet
from napari_busref.models.registration.descriptors import Descriptors
from napari_busref.runtime.progress import Reporter


@dataclass(frozen=True)
class BusRefConfig(PlainConfig):
    """Architecture of :class:`BusRef`; stored on the weights' card.

    Attributes
    ----------
    channels : int
        Channels of F1..F4.
    matching : bool
        Descriptors and their correlation (our addition); False is the paper's concatenation.
    affine_sides, deformable_sides : tuple of int
        One pass of the Affine Net, then of the Deformable Net, for each. The images are resized to
        the area of a square with this side, in pixels; the aspect ratio is kept.
    """

    channels: int = 64
    matching: bool = True
    affine_sides: tuple[int, ...] = (128, 192, 288, 384)
    deformable_sides: tuple[int, ...] = (384, 384)


@dataclass(frozen=True)
class Features:
    """Input of the networks for one image.

    Attributes
    ----------
    levels : list of Tensor
        F1..F4, each (B, C, h, w).
    descriptors : Tensor or None
        (B, 4, D, h, w), when matching is on.
    valid : Tensor or None
        (B, 1, h, w), 1 for valid cells; None for all.
    """

    levels: list[Tensor]
    descriptors: Tensor | None
    valid: Tensor | None


class BusRef(nn.Module):
    """Registration on one shared set of features (BusReF, section "registration").

    Each pass resamples the original moving image once, with the composition of all earlier
    passes. The frozen bus then describes it again, and a network estimates what remains.
    """

    def __init__(self, config: BusRefConfig | None = None) -> None:
        super().__init__()
        self.config = config or BusRefConfig()
        channels, matching = self.config.channels, self.config.matching
        self.bus = Bus(channels)
        self.describe = Descriptors(channels) if matching else None
        self.affine_net = AffineNet(channels, matching=matching)
        self.deformable_net = DeformableNet(channels, matching=matching)

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return asdict(self.config)

    def working_shape(self, height: int, width: int, side: int | None = None) -> tuple[int, int]:
        """Working size (h, w), multiples of 8, for ``side`` (by default the finest)."""
        if side is None:
            side = max(self.config.affine_sides + self.config.deformable_sides)
        return working_size(height, width, side, min_cells=4)

    def features(self, image: Tensor, valid: Tensor | None = None) -> Features:
        """Features of the standardised image, whose sides are multiples of 8."""
        levels = self.bus.encode(standardise(image, valid))
        descriptors = None if self.describe is None else self.describe(levels)
        if valid is not None:
            valid = (F.avg_pool2d(valid, Bus.stride) > 0.9).to(valid.dtype)
        return Features(levels, descriptors, valid)

    def affine_step(self, fixed: Features, moving: Features, size: tuple[int, int]) -> Tensor:
        """One pass of the Affine Net: theta (B, 2, 3) in normalised coordinates."""
        descriptors = _pair(fixed.descriptors, moving.descriptors)
        delta = self.affine_net(fixed.levels, moving.levels, descriptors, moving.valid)
        return isotropic_to_normalised(delta, *size)

    def deformable_step(self, fixed: Features, moving: Features, size: tuple[int, int]) -> Tensor:
        """One pass of the Deformable Net: phi (B, 2, h/8, w/8) in normalised coordinates."""
        descriptors = _pair(fixed.descriptors, moving.descriptors)
        cells = self.deformable_net(fixed.levels, moving.levels, descriptors)
        scale = cells.new_tensor([2 * Bus.stride / size[1], 2 * Bus.stride / size[0]])
        return cells * scale[None, :, None, None]

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """Register images of one size.

        Parameters
        ----------
        fixed, moving : Tensor
            (B, 1, H, W) in [0, 1], H and W at least 16.
        moving_valid : Tensor, optional
            (B, 1, H, W), non-zero for valid pixels of ``moving``.
        reporter : Reporter, optional
            Reports every pass, and raises there when cancelled.

        Returns
        -------
        Estimate
            ``theta`` (B, 2, 3) and ``phi`` (B, 2, h, w) at an eighth of the finest size.
        """
        config = self.config
        return self._estimate(
            fixed, moving, moving_valid, reporter, config.affine_sides, config.deformable_sides
        )

    def coarse(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """The affine of the first pass alone, for later refinement.

        Parameters and result as in ``forward``, without ``phi``.
        """
        sides = self.config.affine_sides[:1]
        return self._estimate(fixed, moving, moving_valid, reporter, sides, ())

    def _estimate(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None,
        reporter: Reporter | None,
        affine_sides: tuple[int, ...],
        deformable_sides: tuple[int, ...],
    ) -> Estimate:
        valid = torch.ones_like(moving) if moving_valid is None else moving_valid.to(moving.dtype)
        passes = len(affine_sides) + len(deformable_sides)
        estimate = Estimate(identity_theta(len(fixed), fixed))
        target_side, target = -1, None
        for index, side in enumerate((*affine_sides, *deformable_sides)):
            affine = index < len(affine_sides)
            if reporter is not None:
                reporter.step("coarse: affine" if affine else "fine: displacement", index / passes)
            size = self.working_shape(fixed.shape[-2], fixed.shape[-1], side)
            if target is None or side != target_side:
                target_side, target = side, self.features(resize(fixed, size))
                small, small_valid = resize(moving, size), resize(valid, size)
            grid = sampling_grid(estimate, *size)
            source = self.features(warp(small, grid), warp(small_valid, grid))
            if affine:
                theta = self.affine_step(target, source, size)
                estimate = Estimate(compose_affine(estimate.theta, theta))
            else:
                phi = self.deformable_step(target, source, size)
                if estimate.phi is not None:
                    phi = compose_displacement(estimate.phi, phi)
                estimate = Estimate(estimate.theta, phi)
        return estimate


def _pair(fixed: Tensor | None, moving: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if fixed is None or moving is None else (fixed, moving)
