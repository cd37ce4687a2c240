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
        One look of the Affine Net, then of the Deformable Net, for each: the images are shown at
        the aspect-preserving size whose area is that of a square with this side, in pixels.
    """

    channels: int = 64
    matching: bool = True
    affine_sides: tuple[int, ...] = (128, 192, 288, 384)
    deformable_sides: tuple[int, ...] = (384, 384)


@dataclass(frozen=True)
class Features:
    """What the networks see of one image.

    Attributes
    ----------
    levels : list of Tensor
        F1..F4, each (B, C, h, w).
    described : Tensor or None
        Descriptors (B, 4, D, h, w), when matching is on.
    known : Tensor or None
        (B, 1, h, w), 1 for cells that hold a picture; None for all.
    """

    levels: list[Tensor]
    described: Tensor | None
    known: Tensor | None


class BusRef(nn.Module):
    """Registration on one shared set of features (BusReF, section "registration").

    The moving image is resampled with the affine found so far, described by the frozen bus again
    and shown to the networks again; the image itself is interpolated once a pass, from the
    original, with everything composed.
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
        """Size (h, w), multiples of 8, at which images are shown for ``side`` (the finest)."""
        aspect = min(max(width / height, 1 / 3), 3.0)
        if side is None:
            side = max(self.config.affine_sides + self.config.deformable_sides)
        rows = max(round(side / aspect**0.5 / 8), 4) * 8
        cols = max(round(side * aspect**0.5 / 8), 4) * 8
        return rows, cols

    def features(self, image: Tensor, valid: Tensor | None = None) -> Features:
        """Features of the standardised image, whose sides are multiples of 8."""
        levels = self.bus.encode(standardise(image, valid))
        described = None if self.describe is None else self.describe(levels)
        known = None
        if valid is not None:
            known = (F.avg_pool2d(valid, Bus.stride) > 0.9).to(valid.dtype)
        return Features(levels, described, known)

    def affine_step(self, fixed: Features, moving: Features, size: tuple[int, int]) -> Tensor:
        """One look of the Affine Net: theta (B, 2, 3) in normalised coordinates."""
        described = _pair(fixed.described, moving.described)
        delta = self.affine_net(fixed.levels, moving.levels, described, moving.known)
        return isotropic_to_normalised(delta, *size)

    def deformable_step(self, fixed: Features, moving: Features, size: tuple[int, int]) -> Tensor:
        """One look of the Deformable Net: phi (B, 2, h/8, w/8) in normalised coordinates."""
        described = _pair(fixed.described, moving.described)
        cells = self.deformable_net(fixed.levels, moving.levels, described)
        scale = torch.tensor(
            [2 * Bus.stride / size[1], 2 * Bus.stride / size[0]], device=cells.device
        )
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
            (B, 1, H, W), non-zero where ``moving`` holds a picture.
        reporter : Reporter, optional
            Told, and asked whether to stop, at every look.

        Returns
        -------
        Estimate
            ``theta`` (B, 2, 3) and ``phi`` (B, 2, h, w) at an eighth of the finest size.
        """
        config = self.config
        return self._look(
            fixed, moving, moving_valid, reporter, config.affine_sides, config.deformable_sides
        )

    def coarse(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """The affine of the first look alone: enough where something else refines it.

        Parameters and result as of ``forward``, without ``phi``.
        """
        return self._look(fixed, moving, moving_valid, reporter, self.config.affine_sides[:1], ())

    def _look(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None,
        reporter: Reporter | None,
        affine_sides: tuple[int, ...],
        deformable_sides: tuple[int, ...],
    ) -> Estimate:
        valid = torch.ones_like(moving) if moving_valid is None else moving_valid.to(moving.dtype)
        looks = len(affine_sides) + len(deformable_sides)
        estimate = Estimate(identity_theta(len(fixed), fixed))
        shown, target = -1, None
        for index, side in enumerate((*affine_sides, *deformable_sides)):
            affine = index < len(affine_sides)
            if reporter is not None:
                reporter.step("coarse: affine" if affine else "fine: displacement", index / looks)
            size = self.working_shape(fixed.shape[-2], fixed.shape[-1], side)
            if target is None or side != shown:
                shown, target = side, self.features(_resize(fixed, size))
                small, small_valid = _resize(moving, size), _resize(valid, size)
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


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
