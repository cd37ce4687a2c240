"""The fused layer of a run, of one plane or many."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.lazy import Source, warp_window
from napari_busref._napari.layers.plane_pairs import PlanePairs, Position, single_pair
from napari_busref._napari.layers.reading import Reading
from napari_busref.images.figures import as_picture
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref.fusion import FusionResult
    from napari_busref.registration import RegistrationResult
    from napari_busref.registration.quality import Quality

__all__ = ["FUSION_BUDGET", "STACK_BUDGET", "Fuser", "RegisteredPair"]

#: Planes of more pixels are fused as they were read for the registration.
FUSION_BUDGET = 4096 * 4096

#: Of a stack whose fused planes would take more bytes, only the shown plane is fused.
STACK_BUDGET = 1 << 30


@dataclass(frozen=True, eq=False)
class RegisteredPair:
    """A registered pair of planes.

    Parameters
    ----------
    registration : RegistrationResult
        Of the planes as read; of another pair of planes where `fixed` is None.
    transform : Transform
    quality : Quality
        In pixels of the fixed layer at full resolution.
    source : Source
        The moving plane.
    fixed : ndarray or None
        The fixed plane as read.
    """

    registration: RegistrationResult
    transform: Transform
    quality: Quality
    source: Source
    fixed: NDArray[Any] | None


class Fuser:
    """Fuses pairs of planes into one array.

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
        Likewise, the weights of the infrared planes in a learned loss, if `options` ask for them.
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
        colours = fixed.source.shape[fixed.ndim :]
        self._drawn = options.get("style", "natural") != "natural"
        if self._drawn:
            dtype, colours = np.dtype(np.uint8), (3,)
        weighs = bool(options.get("loss_weights"))
        for self.pairs in (pairs, single_pair(fixed, moving)):
            sizes = self.pairs.sizes_on(self.grid)
            shape = (*sizes, *colours)
            if np.prod(shape, dtype=float) * (dtype.itemsize + 4 * weighs) <= STACK_BUDGET:
                break
        self.fused = np.zeros(shape, dtype)
        self.weights = np.zeros(sizes, np.float32) if weighs else None

    def fuse(
        self, position: Position, pair: RegisteredPair, cval: float, reporter: Reporter
    ) -> FusionResult | None:
        """Fuse one pair of planes, or return None if `fused` has no room for it.

        Parameters
        ----------
        position : tuple of int
            In the whole pairs.
        pair : RegisteredPair
        cval : float
            Value beyond the moving layer.
        reporter : Reporter
        """
        index = self._index(position)
        if index is None:
            return None
        from napari_busref.fusion import fuse

        reporter.check()
        fixed, moving, mask = self.images(position, pair, cval)
        if not mask.any():
            self.keep_fixed(position, pair)
            return None
        result = fuse(
            fixed, moving, mask=mask, progress=reporter, cancel=self._cancel, **self._options
        )
        self.fused[index] = result.fused
        if self.weights is not None and result.loss_weights is not None:
            self.weights[index] = result.loss_weights["infrared"]
        return result

    def images(
        self, position: Position, pair: RegisteredPair, cval: float
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        """The fixed plane, the warped moving plane and the mask, on `grid`."""
        mask = _spread(pair.registration.mask, self._read_grid, self.grid)
        return self._fixed(position, pair), self._warped(pair, cval), mask

    def keep_fixed(self, position: Position, pair: RegisteredPair) -> None:
        """Put the fixed plane alone where nothing was found, if `fused` has room for it."""
        if (index := self._index(position)) is not None:
            fixed = self._fixed(position, pair)
            self.fused[index] = as_picture(fixed, "fixed") if self._drawn else fixed

    def _index(self, position: Position) -> tuple[Any, ...] | None:
        """Where a pair of planes lies in `fused`; None if there is no room for it."""
        if self.pairs is not self._whole:
            if position != self._whole.shown:
                return None
            position = self.pairs.shown
        index: list[Any] = [slice(None)] * len(self.pairs.sizes)
        for axis, number in zip(self.pairs.hidden, position, strict=True):
            index[axis] = number
        return tuple(index)

    def _fixed(self, position: Position, pair: RegisteredPair) -> NDArray[Any]:
        if pair.fixed is not None and self.grid == self._read_grid:
            return pair.fixed
        plane = self._whole.by_position[position][0]
        as_read = self.grid == self._read_grid
        reading = self._readings[0] if as_read else Reading(plane, 0, 1)
        return replace(reading, plane=plane).read(cancel=self._cancel)

    def _warped(self, pair: RegisteredPair, cval: float) -> NDArray[Any]:
        as_read = self.grid == self._read_grid and self._readings[1].grid.full
        if pair.fixed is not None and as_read:
            return pair.registration.warped
        rows, cols = self.grid.shape
        window = slice(0, rows), slice(0, cols)
        return warp_window(pair.source, pair.transform, self.grid, window, cval=cval)


def _spread(mask: NDArray[np.bool_], grid: Grid, onto: Grid) -> NDArray[np.bool_]:
    """Resample a mask to another grid over the same picture, by the nearest pixel."""
    if grid == onto:
        return mask
    index = [
        np.clip(((np.arange(size) + 0.5) * fine / coarse).astype(int), 0, limit - 1)
        for size, fine, coarse, limit in zip(
            onto.shape, onto.step, grid.step, grid.shape, strict=True
        )
    ]
    return mask[np.ix_(*index)]
