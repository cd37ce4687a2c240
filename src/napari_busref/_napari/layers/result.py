"""What comes out when layers are registered. Needs neither Qt nor a viewer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.grids import Grid, Rescaled
from napari_busref._napari.layers.plane_pairs import PlanePairs, Position
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref.fusion import FusionResult
    from napari_busref.registration import RegistrationResult
    from napari_busref.registration.quality import Quality

__all__ = ["LayersResult", "PlaneResult"]


@dataclass(frozen=True, eq=False)
class PlaneResult:
    """What was found for one plane of a stack.

    Attributes
    ----------
    transform : Rescaled
        Between the pictures at full resolution.
    quality : Quality
        In pixels of the fixed layer at full resolution.
    mask : ndarray of bool
        The reconstructible area, on `LayersResult.fixed_grid`.
    """

    transform: Rescaled
    quality: Quality
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LayersResult:
    """What `napari_busref._napari.register.stacks.register_layers` returns.

    `napari_busref._napari.register.result_layers.result_layers` makes layers of it.

    Attributes
    ----------
    registration : RegistrationResult
        Of the shown planes, as they were read: on `fixed_grid` and `moving_grid`.
    fusion : FusionResult or None
        Of the shown planes, on `fused_grid`; None when it was not asked for or not reached.
    quality : Quality
        Of the shown planes, in pixels of the fixed layer at full resolution.
    mode : str
        ``"plane"``, ``"one"`` or ``"each"``, see `napari_busref._napari.register.stacks.register_layers`.
    pairs : PlanePairs
        Where the results lie.
    initial : Transform or None
        Where the shown planes started, from full resolution to full resolution.
    fixed_grid, moving_grid : Grid
        Pixels at which the two layers were looked at.
    transform : Rescaled
        Of the shown planes, between the pictures at full resolution.
    planes : mapping
        For each position along the other dimensions, shown one first, what was found there. The
        mode "each" has an entry for each plane that was done, the others for the shown one only.
    warped : ndarray or list of dask arrays
        The moving layer on the fixed one, with all dimensions of `pairs`: an array in memory, or
        the levels of a pyramid, finest first, computed where they are looked at (of a single
        plane the coarsest is in memory).
    fused : ndarray or None
        Fused planes, with all dimensions of `fused_pairs`. Planes that were not reached are 0.
    fused_grid : Grid
        Pixels of `fused`.
    fused_pairs : PlanePairs
        `pairs`, or the shown plane alone if the whole would be larger than
        `napari_busref._napari.register.stack_fusion.STACK_BUDGET`.
    weights : ndarray of float32 or None
        On `fused_grid` and `fused_pairs`, what a learned loss weighs the moving layer with, in
        [0, 1], if that was asked for.
    reading : dict
        How the layers were read: level, step and shape of each. JSON can hold it.
    cancelled : bool
        Whether this is what had been done when the run was cancelled.
    """

    registration: RegistrationResult
    fusion: FusionResult | None
    quality: Quality
    mode: str
    pairs: PlanePairs
    initial: Transform | None
    fixed_grid: Grid
    moving_grid: Grid
    transform: Rescaled
    planes: Mapping[Position, PlaneResult]
    warped: NDArray[Any] | list[Any]
    fused: NDArray[Any] | None
    fused_grid: Grid
    fused_pairs: PlanePairs
    weights: NDArray[np.float32] | None = None
    reading: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False
