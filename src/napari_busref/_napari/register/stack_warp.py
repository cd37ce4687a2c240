"""The warped layer of a run: one plane or many, in memory or lazy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.lazy import BLOCK, Source, lazy_array, warp_window
from napari_busref._napari.layers.plane_pairs import PlanePairs, Position
from napari_busref._napari.layers.planes import Plane
from napari_busref._napari.layers.reading import PIXEL_BUDGET, level_grid
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref._napari.layers.result import PlaneResult

__all__ = ["Warp"]

_MAX_IN_MEMORY = 8192 * 8192  # warped planes of more pixels are lazy
_MIN_LEVEL = 1024 * 1024  # pixels of the coarsest level


@dataclass(frozen=True, eq=False)
class Warp:
    """Warps the planes of a moving layer onto those of a fixed one.

    Parameters
    ----------
    pairs : PlanePairs
    mode : str
        One of `napari_busref._napari.register.stacks.MODES`.
    source : Source
        Of the shown plane.
    transform : Transform
        Of the shown plane, and of each that is not among `planes`.
    planes : mapping
        Results by position; may grow until a block is computed.
    cval : float
        Value beyond the moving layer.
    """

    pairs: PlanePairs
    mode: str
    source: Source
    transform: Transform
    planes: Mapping[Position, PlaneResult]
    cval: float

    @property
    def at_once(self) -> bool:
        """Whether the layer becomes an array in memory, as the moving one is."""
        return (
            self.mode == "plane"
            and len(self._fixed.levels) == 1
            and isinstance(self._moving.source, np.ndarray)
            and self._fixed.shape[0] * self._fixed.shape[1] <= _MAX_IN_MEMORY
        )

    def compute(self, reporter: Reporter) -> NDArray[Any]:
        """Warp the shown plane, a band of rows at a time."""
        height, width = (self.pairs.sizes[axis] for axis in self.pairs.axes)
        grid = Grid((height, width))
        warped = np.empty((height, width, *self._channels), self._dtype)
        for top in range(0, height, BLOCK):
            reporter.step("resampling the image", 0.99)
            rows = slice(top, min(top + BLOCK, height))
            warped[rows] = self.block(grid, self.pairs.shown, (rows, slice(0, width)))
        return np.expand_dims(warped, self.pairs.hidden)

    def layer(self, reporter: Reporter) -> NDArray[Any] | list[Any]:
        """Data of the warped layer: an array, or levels of which napari shows the last first."""
        if self.at_once:
            return self.compute(reporter)
        levels = self.levels()
        if self.mode == "plane" and len(levels) > 1:
            reporter.step("resampling the image", 0.99)
            levels[-1] = levels[-1].compute()
        return levels

    def levels(self) -> list[Any]:
        """The levels of the layer as lazy arrays, finest first."""
        return [self._level(grid) for grid in _pyramid(self._fixed)]

    def block(self, grid: Grid, position: Position, window: tuple[slice, slice]) -> NDArray[Any]:
        """Warp a window of one plane, on a grid over the fixed picture."""
        pair = self.pairs.by_position.get(position)
        found = self.planes.get(position)
        if pair is None or (self.mode == "each" and found is None):
            shape = [part.stop - part.start for part in window]
            return np.full((*shape, *self._channels), self.cval, self._dtype)
        transform = self.transform if found is None else found.transform
        source = self.source if pair[1] is self._moving else Source(pair[1])
        return warp_window(source, transform, grid, window, cval=self.cval, nested=True)

    def _level(self, grid: Grid) -> Any:
        def block(position: Position, window: tuple[slice, slice]) -> NDArray[Any]:
            return self.block(grid, position, window)

        sizes = self.pairs.sizes_on(grid)
        return lazy_array(sizes, self.pairs.axes, block, self._dtype, self._channels)

    @property
    def _fixed(self) -> Plane:
        return self.pairs.by_position[self.pairs.shown][0]

    @property
    def _moving(self) -> Plane:
        return self.pairs.by_position[self.pairs.shown][1]

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self._moving.source.dtype).newbyteorder("=")

    @property
    def _channels(self) -> tuple[int, ...]:
        return tuple(self._moving.source.shape[self._moving.ndim :])


def _pyramid(fixed: Plane) -> list[Grid]:
    """Grids of the fixed plane's levels; of a large plane without levels, halves and quarters."""
    if len(fixed.levels) > 1:
        return [level_grid(fixed, level) for level in range(len(fixed.levels))]
    grids = [Grid(fixed.shape)]
    while grids[-1].shape[0] * grids[-1].shape[1] > max(PIXEL_BUDGET, _MIN_LEVEL):
        rows, cols = (max(1, size // 2) for size in grids[-1].shape)
        grids.append(Grid((rows, cols), (2.0 * grids[-1].step[0], 2.0 * grids[-1].step[1])))
    return grids
