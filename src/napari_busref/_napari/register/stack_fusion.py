"""The fused layer of a run, of one plane or of many."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.grids import Grid, Rescaled
from napari_busref._napari.layers.lazy import Source, warp_window
from napari_busref._napari.layers.plane_pairs import PlanePairs, Position, single_pair
from napari_busref._napari.layers.reading import Reading
from napari_busref.runtime.progress import Reporter

if TYPE_CHECKING:
    from napari_busref.fusion import FusionResult
    from napari_busref.registration import RegistrationResult

__all__ = ["FUSION_BUDGET", "STACK_BUDGET", "Fuser", "ToFuse"]

#: Planes of more pixels are fused as they were read for the registration.
FUSION_BUDGET = 4096 * 4096

#: Fused stacks of more bytes are not made; then the shown plane alone is fused.
STACK_BUDGET = 1 << 30


@dataclass(frozen=True, eq=False)
class ToFuse:
    """A registered pair of planes.

    Parameters
    ----------
    registration : RegistrationResult
        As the planes were read; of another pair of planes when `fixed` is None.
    transform : Rescaled
    source : Source
        The moving plane.
    fixed : ndarray or None
        The fixed plane as it was read.
    cval : float
        What lies beyond the moving layer.
    """

    registration: RegistrationResult
    transform: Rescaled
    source: Source
    fixed: NDArray[Any] | None
    cval: float


class Fuser:
    """Fuses pairs of planes, each into its place in one array.

    Parameters
    ----------
    pairs : PlanePairs
    readings : (Reading, Reading)
        How the fixed and the moving planes were read.
    options : mapping
        For `napari_busref.fuse`: ``model``, ``device``, ``task`` and so on.
    cancel : threading.Event, optional

    Attributes
    ----------
    grid : Grid
        Pixels of the fused planes.
    pairs : PlanePairs
        The given one, or the shown plane alone if the whole would be larger than `STACK_BUDGET`.
    fused : ndarray
        With all dimensions of `pairs`; planes that were not reached are 0.
    weights : ndarray of float32 or None
        Likewise, what a learned loss weighs the infrared planes with, if that is asked for.
    """

    def __init__(
        self,
        pairs: PlanePairs,
        readings: tuple[Reading, Reading],
        options: Mapping[str, Any],
        cancel: threading.Event | None,
    ) -> None:
        fixed, moving = pairs.by_position[pairs.shown]
        self._whole, self._readings, self._cancel = pairs, readings, cancel
        self._options = dict(options)
        self._read_grid = readings[0].grid
        small = fixed.shape[0] * fixed.shape[1] <= FUSION_BUDGET
        self.grid = Grid(fixed.shape) if small else self._read_grid
        dtype = np.dtype(fixed.source.dtype).newbyteorder("=")
        weighs = bool(options.get("loss_weights"))
        for self.pairs in (pairs, single_pair(fixed, moving)):
            sizes = self.pairs.sizes_on(self.grid)
            shape = (*sizes, *fixed.source.shape[fixed.ndim :])
            if np.prod(shape, dtype=float) * (dtype.itemsize + 4 * weighs) <= STACK_BUDGET:
                break
        self.fused = np.zeros(shape, dtype)
        self.weights = np.zeros(sizes, np.float32) if weighs else None

    def fuse(self, position: Position, pair: ToFuse, reporter: Reporter) -> FusionResult | None:
        """Fuse one pair of planes; None if there is no room for it.

        Parameters
        ----------
        position : tuple of int
            In the whole pairs.
        pair : ToFuse
        reporter : Reporter
        """
        where = position
        if self.pairs is not self._whole:
            if position != self._whole.shown:
                return None
            where = self.pairs.shown
        from napari_busref.fusion import fuse

        reporter.check()
        result = fuse(
            self._fixed(position, pair),
            self._warped(pair),
            mask=_spread(pair.registration.mask, self._read_grid, self.grid),
            progress=reporter.step,
            cancel=self._cancel,
            **self._options,
        )
        index: list[Any] = [slice(None)] * len(self.pairs.sizes)
        for axis, number in zip(self.pairs.hidden, where, strict=True):
            index[axis] = number
        self.fused[tuple(index)] = result.fused
        if self.weights is not None and result.loss_weights is not None:
            self.weights[tuple(index)] = result.loss_weights["infrared"]
        return result

    def _fixed(self, position: Position, pair: ToFuse) -> NDArray[Any]:
        if pair.fixed is not None and self.grid == self._read_grid:
            return pair.fixed
        plane = self._whole.by_position[position][0]
        as_read = self.grid == self._read_grid
        reading = self._readings[0] if as_read else Reading(plane, 0, 1)
        return replace(reading, plane=plane).read(cancel=self._cancel)

    def _warped(self, pair: ToFuse) -> NDArray[Any]:
        as_read = self.grid == self._read_grid and self._readings[1].grid.full
        if pair.fixed is not None and as_read:
            return pair.registration.warped
        rows, cols = self.grid.shape
        window = slice(0, rows), slice(0, cols)
        return warp_window(pair.source, pair.transform, self.grid, window, cval=pair.cval)


def _spread(mask: NDArray[np.bool_], grid: Grid, onto: Grid) -> NDArray[np.bool_]:
    """A mask on another grid over the same picture, each pixel from the one that it lies in."""
    if grid == onto:
        return mask
    index = [
        np.clip(((np.arange(size) + 0.5) * fine / coarse).astype(int), 0, limit - 1)
        for size, fine, coarse, limit in zip(
            onto.shape, onto.step, grid.step, grid.shape, strict=True
        )
    ]
    return mask[np.ix_(*index)]
