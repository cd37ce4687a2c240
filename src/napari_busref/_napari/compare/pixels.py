"""Pixels of layers on the grid of the fixed plane, for "Compare".

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref._napari.layers.lazy import Source, warp_window
from napari_busref._napari.layers.pair import expand
from napari_busref._napari.layers.planes import Plane, linear_of
from napari_busref._napari.layers.reading import PIXEL_BUDGET, level_grid, read_window
from napari_busref.images.comparison import grey_picture, stretch
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import onto_levels
from napari_busref.transforms.transform import Transform

__all__ = [
    "ComparedPlane",
    "DisplayColormap",
    "Pixels",
    "Region",
    "choose_region",
    "layer_on_region",
]

_COLOURS = 256
_BORDER = 4  # pixels that an empty border may extend from the edge of the mask


@dataclass(frozen=True, eq=False)
class DisplayColormap:
    """The colormap and contrast limits with which a viewer draws a layer."""

    colours: NDArray[np.uint8] | None
    """``(256, 3)`` over the contrast limits; None for a colour image."""
    limits: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, layer: Image) -> DisplayColormap:
        """Copy the colormap of a layer, for a worker that must not touch the layer."""
        if layer.rgb:
            return cls(None)
        levels = np.linspace(0, 1, _COLOURS) ** layer.gamma
        colours = np.asarray(layer.colormap.map(levels))[:, :3]
        low, high = layer.contrast_limits
        return cls(np.rint(255 * colours).astype(np.uint8), (float(low), float(high)))

    def picture(self, image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Draw an image in its colours, uint8 (H, W, 3); pixels that are not valid are black."""
        kept = np.where(valid if image.ndim == 2 else valid[..., None], image, 0)
        if self.colours is None:
            picture = _colour_bytes(kept[..., :3])
        else:
            low, high = self.limits
            work = np.dtype(np.float32 if kept.dtype.itemsize <= 2 else np.float64)
            level = kept.astype(work) - work.type(low)
            level *= work.type((_COLOURS - 1) / max(high - low, 1e-30))
            picture = self.colours[np.clip(np.rint(level), 0, _COLOURS - 1).astype(np.uint8)]
        picture[~valid] = 0
        return picture


@dataclass(frozen=True, eq=False)
class ComparedPlane:
    """A plane to compare, not read yet.

    Parameters
    ----------
    plane : Plane
    colormap : DisplayColormap
    placed : Transform
        From the pixels of the fixed plane to those of `plane`.
    warp : Transform or None
        The transform that `plane` was resampled through. Only pixels with a source under it are
        valid.
    """

    plane: Plane
    colormap: DisplayColormap
    placed: Transform
    warp: Transform | None = None


@dataclass(frozen=True)
class Region:
    """The region of the fixed plane that is compared, and its sampling.

    Parameters
    ----------
    level : int
        Level of the plane that is read.
    step : int
        Rows and columns of that level that one pixel of `grid` averages.
    grid : Grid
        The pixels of the pictures, over the whole plane.
    window : tuple of slice
        Rows and columns of `grid`.
    """

    level: int
    step: int
    grid: Grid
    window: tuple[slice, slice]

    @property
    def shape(self) -> tuple[int, int]:
        """``(H, W)`` of the pictures."""
        rows, cols = self.window
        return rows.stop - rows.start, cols.stop - cols.start

    @property
    def whole(self) -> bool:
        """Whether the region is the whole plane at full resolution."""
        return self.grid.full and self.shape == self.grid.shape


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels of a compared plane in a region of the fixed plane.

    Attributes
    ----------
    image : ndarray, shape (H, W) or (H, W, C)
        The original values.
    mask : ndarray of bool, shape (H, W)
        Pixels that have a source.
    colormap : DisplayColormap
    name : str
        Of the layer.
    """

    image: NDArray[Any]
    mask: NDArray[np.bool_]
    colormap: DisplayColormap
    name: str

    @classmethod
    def read(
        cls, compared: ComparedPlane, region: Region, cancel: threading.Event | None = None
    ) -> Pixels:
        """Read and resample a plane; for a worker.

        Raises
        ------
        Cancelled
            When `cancel` was set.
        """
        plane, level = compared.plane, region.level
        unmoved = compared.placed == Transform.identity(plane.shape)
        same_grid = level < len(plane.levels) and region.grid == _level_grid(
            plane, level, region.step
        )
        if unmoved and same_grid:
            image = read_window(plane, level, region.window, region.step, cancel=cancel)
        else:
            image = warp_window(Source(plane), compared.placed, region.grid, region.window)
        if compared.warp is None and unmoved:
            mask = np.ones(region.shape, bool)
        else:
            warp = compared.warp or compared.placed
            moving = Grid(warp.moving_shape)
            mask = onto_levels(warp, region.grid, moving, region.window).mask()
        return cls(image, mask, compared.colormap, plane.name)

    @cached_property
    def _stretched(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        mask = self.mask
        if not mask.all():
            mask = mask & ~self._empty_border()
            mask = mask if mask.any() else self.mask
        return stretch(self.image, f"layer {self.name!r}", mask=mask, find_border=True)

    def _empty_border(self) -> NDArray[np.bool_]:
        """Find zeros beside the mask, where the moving image itself has an empty border."""
        empty = self.image == 0 if self.image.ndim == 2 else (self.image[..., :3] == 0).all(-1)
        outside = ~self.mask
        seeds = empty.copy()
        seeds[1:-1, 1:-1] = False
        border: NDArray[np.bool_] = ndimage.binary_dilation(
            seeds | outside, iterations=_BORDER, mask=empty | outside
        )
        return border

    @property
    def grey(self) -> NDArray[np.float32]:
        """Grey values that fill [0, 1], float32 (H, W)."""
        return self._stretched[0]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Pixels that hold content, (H, W)."""
        return self._stretched[1]

    @cached_property
    def coloured(self) -> NDArray[np.uint8]:
        """The picture as the viewer draws the layer, uint8 (H, W, 3)."""
        valid = self.mask
        if self.image.dtype.kind == "f":
            finite = np.isfinite(self.image)
            valid = valid & (finite if self.image.ndim == 2 else finite.all(-1))
        return self.colormap.picture(self.image, valid)

    @cached_property
    def uncoloured(self) -> NDArray[np.uint8]:
        """The picture in grey, uint8 (H, W, 3)."""
        return grey_picture(self.grey)


def choose_region(
    plane: Plane, window: tuple[slice, slice] | None = None, pixels: int = PIXEL_BUDGET
) -> Region:
    """Choose the level and step at which to read a plane, or a window of it.

    Parameters
    ----------
    plane : Plane
        The fixed plane.
    window : tuple of slice, optional
        Rows and columns at full resolution. The whole plane by default.
    pixels : int
        Most pixels to read of a level. A plane with fewer is read whole.

    Returns
    -------
    Region
    """
    full = math.prod(plane.shape)
    if window is None or full <= pixels:
        window = slice(0, plane.shape[0]), slice(0, plane.shape[1])
    area = math.prod(lines.stop - lines.start for lines in window)
    for level in range(len(plane.levels)):
        if area * math.prod(level_grid(plane, level).shape) <= pixels * full:
            return _region(plane, level, 1, window)
    last = len(plane.levels) - 1
    shape = level_grid(plane, last).shape
    step = math.ceil(math.sqrt(area * math.prod(shape) / full / pixels))
    return _region(plane, last, min(step, *shape), window)


def layer_on_region(
    picture: NDArray[np.uint8], plane: Plane, region: Region
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return data and keyword arguments of an RGB layer that covers a region of a plane.

    Parameters
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        The data are a view of it.
    plane : Plane
        The fixed plane.
    region : Region
    """
    spatial = plane.spatial
    linear = linear_of(spatial)
    first, step = np.zeros(plane.ndim), np.ones(plane.ndim)
    corner = np.array([region.window[0].start, region.window[1].start, 1.0])
    first[list(plane.axes)] = (region.grid.matrix @ corner)[:2]
    step[list(plane.axes)] = region.grid.step
    spatial["translate"] = spatial["translate"] + linear @ first
    spatial["scale"] = spatial["scale"] * step
    return expand(picture, plane), spatial


def _level_grid(plane: Plane, level: int, step: int) -> Grid:
    """The grid of a level in which one pixel averages `step` x `step` of the level."""
    whole = level_grid(plane, level)
    shape = (whole.shape[0] // step, whole.shape[1] // step)
    return Grid(shape, (whole.step[0] * step, whole.step[1] * step))


def _region(plane: Plane, level: int, step: int, window: tuple[slice, slice]) -> Region:
    """Convert a window at full resolution to a region."""
    grid = _level_grid(plane, level, step)
    reduced = []
    for lines, size, pace in zip(window, grid.shape, grid.step, strict=True):
        start = min(int(lines.start / pace), size - 1)
        reduced.append(slice(start, max(start + 1, min(math.ceil(lines.stop / pace), size))))
    return Region(level, step, grid, (reduced[0], reduced[1]))


def _colour_bytes(colours: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert colours to uint8 as napari does: floats over [0, 1], integers over their range."""
    if colours.dtype == np.uint8:
        return np.ascontiguousarray(colours)
    if colours.dtype.kind == "f":
        return np.rint(255 * np.clip(colours, 0, 1)).astype(np.uint8)
    top = 1 if colours.dtype.kind == "b" else np.iinfo(colours.dtype).max
    return np.rint(np.clip(colours / top, 0, 1) * 255).astype(np.uint8)
