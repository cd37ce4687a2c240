"""Results of registering layers. Needs neither Qt nor a viewer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.plane_pairs import PlanePairs, Position
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref.fusion import FusionResult
    from napari_busref.registration import RegistrationResult
    from napari_busref.registration.quality import Quality

__all__ = ["LayersResult", "PlaneResult"]


@dataclass(frozen=True, eq=False)
class PlaneResult:
    """Result for one plane of a stack.

    Attributes
    ----------
    transform : Transform
        Between the images at full resolution.
    quality : Quality
        In pixels of the fixed layer at full resolution.
    mask : ndarray of bool
        The reconstructible mask, on `LayersResult.fixed_grid`.
    """

    transform: Transform
    quality: Quality
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LayersResult:
    """Result of registering two layers.

    `napari_busref._napari.register.stacks` computes it, and
    `napari_busref._napari.register.result_layers` turns it into layers.

    Attributes
    ----------
    registration : RegistrationResult
        Of the shown planes, on `fixed_grid` and `moving_grid`.
    fusion : FusionResult or None
        Of the first fused planes, on `fused_grid`; None without fusion, when cancelled earlier
        or when nothing was found.
    quality : Quality
        Of the shown planes, in pixels of the fixed layer at full resolution.
    mode : str
        ``"plane"``, ``"one"`` or ``"each"``, see `napari_busref._napari.register.stacks`.
    pairs : PlanePairs
        The registered planes, and the position of the results.
    initial : Transform or None
        Initial transform of the shown planes, between full resolutions.
    fixed_grid, moving_grid : Grid
        Grids on which the two layers were read.
    transform : Transform
        Of the shown planes, between the images at full resolution.
    planes : mapping
        Result for each position along the other dimensions, the shown one first. Mode "each" has
        an entry for each finished plane, other modes for the shown plane only.
    warped : ndarray or list of dask arrays
        The moving layer on the fixed one, with all dimensions of `pairs`: an array in memory, or
        lazy pyramid levels, finest first. The coarsest level of a single plane is in memory.
    fused : ndarray or None
        Fused planes, with all dimensions of `fused_pairs`; 0 where cancelled earlier.
    fused_grid : Grid
        Pixels of `fused`.
    fused_pairs : PlanePairs
        `pairs`, or the shown pair alone if the whole would exceed
        `napari_busref._napari.register.stack_fusion.STACK_BUDGET`.
    weights : ndarray of float32 or None
        Weight of the moving layer in a learned fusion loss, in [0, 1], on `fused_grid` and
        `fused_pairs`; None unless requested.
    reading : dict
        Level, step and shape at which each layer was read, as JSON can hold it.
    cancelled : bool
        Whether the run was cancelled; the result then holds the finished part.
    """

    registration: RegistrationResult
    fusion: FusionResult | None
    quality: Quality
    mode: str
    pairs: PlanePairs
    initial: Transform | None
    fixed_grid: Grid
    moving_grid: Grid
    transform: Transform
    planes: Mapping[Position, PlaneResult]
    warped: NDArray[Any] | list[Any]
    fused: NDArray[Any] | None
    fused_grid: Grid
    fused_pairs: PlanePairs
    weights: NDArray[np.float32] | None = None
    reading: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False
