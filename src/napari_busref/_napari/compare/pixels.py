"""Pixels of layers on the grid of a reference, for "Compare".

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

from napari_busref._napari.layers.grids import Grid, Rescaled
from napari_busref._napari.layers.lazy import Source, warp_window
from napari_busref._napari.layers.pair import expand
from napari_busref._napari.layers.planes import Plane, linear_of
from napari_busref._napari.layers.reading import PIXEL_BUDGET, level_grid, read_window
from napari_busref.images.comparison import grey_picture, stretch
from napari_busref.transforms.transform import Transform

__all__ = ["Look", "Part", "Pixels", "Side", "choose_part", "place_on", "view_window"]

_SHADES = 256
_STRIP = 4  # pixels


@dataclass(frozen=True, eq=False)
class Look:
    """How a viewer colours the values of a layer."""

    colours: NDArray[np.uint8] | None
    """``(256, 3)`` over the contrast limits; None for a colour image."""
    limits: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, layer: Image) -> Look:
        """Copy it, so that a worker need not touch the layer."""
        if layer.rgb:
            return cls(None)
        shades = np.linspace(0, 1, _SHADES) ** layer.gamma
        colours = np.asarray(layer.colormap.map(shades))[:, :3]
        low, high = layer.contrast_limits
        return cls(np.rint(255 * colours).astype(np.uint8), (float(low), float(high)))

    def picture(self, image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The image in its colours, uint8 (H, W, 3), black where there is no content."""
        kept = np.where(valid if image.ndim == 2 else valid[..., None], image, 0)
        if self.colours is None:
            picture = _colour_bytes(kept[..., :3])
        else:
            low, high = self.limits
            work = np.dtype(np.float32 if kept.dtype.itemsize <= 2 else np.float64)
            shade = kept.astype(work) - work.type(low)
            shade *= work.type((_SHADES - 1) / max(high - low, 1e-30))
            picture = self.colours[np.clip(np.rint(shade), 0, _SHADES - 1).astype(np.uint8)]
        picture[~valid] = 0
        return picture


@dataclass(frozen=True, eq=False)
class Side:
    """One of the images to compare, not read yet.

    Parameters
    ----------
    plane : Plane
    look : Look
    placed : Rescaled
        From the pixels of the reference plane to those of `plane`.
    content : Rescaled or None
        From the reference to the image that `plane` was resampled from: there is content where
        that has a source.
    """

    plane: Plane
    look: Look
    placed: Rescaled
    content: Rescaled | None = None


@dataclass(frozen=True)
class Part:
    """The part of the reference plane that is compared, and how finely.

    Parameters
    ----------
    level, step : int
        Level of the reference, and its pixels that become one.
    grid : Grid
        Those pixels over the whole plane.
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
        """Whether it is the whole plane with all its pixels."""
        return self.grid.full and self.shape == self.grid.shape


@dataclass(frozen=True, eq=False)
class Pixels:
    """One side's pixels on a part of the reference.

    Attributes
    ----------
    image : ndarray, shape (H, W) or (H, W, C)
        The values themselves.
    covered : ndarray of bool, shape (H, W)
        Where there may be content.
    """

    image: NDArray[Any]
    covered: NDArray[np.bool_]
    look: Look
    name: str

    @classmethod
    def read(cls, side: Side, part: Part, cancel: threading.Event | None = None) -> Pixels:
        """Read and resample; for a worker.

        Raises
        ------
        Cancelled
            When `cancel` was set.
        """
        plane = side.plane
        unmoved = side.placed.transform == Transform.identity(plane.shape)
        same = part.level < len(plane.levels) and part.grid == _grid(plane, part.level, part.step)
        if unmoved and same:
            image = read_window(plane, part.level, part.window, part.step, cancel=cancel)
        else:
            image = warp_window(Source(plane), side.placed, part.grid, part.window)
        known = side.content or side.placed
        if known is side.placed and unmoved:
            covered = np.ones(part.shape, bool)
        else:
            covered = known.onto(part.grid, known.moving, part.window).mask()
        return cls(image, covered, side.look, plane.name)

    @cached_property
    def _stretched(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        covered = self.covered
        if not covered.all():
            covered = covered & ~self._empty_strip()
            covered = covered if covered.any() else self.covered
        return stretch(self.image, f"layer {self.name!r}", mask=covered, find_border=True)

    def _empty_strip(self) -> NDArray[np.bool_]:
        """Zeros beside the covered area: the moving image has an empty border of its own there."""
        nothing = self.image == 0 if self.image.ndim == 2 else (self.image[..., :3] == 0).all(-1)
        outside = ~self.covered
        seeds = nothing.copy()
        seeds[1:-1, 1:-1] = False
        strip: NDArray[np.bool_] = ndimage.binary_dilation(
            seeds | outside, iterations=_STRIP, mask=nothing | outside
        )
        return strip

    @property
    def grey(self) -> NDArray[np.float32]:
        """Grey values that fill [0, 1], float32 (H, W)."""
        return self._stretched[0]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where there is content, (H, W)."""
        return self._stretched[1]

    @cached_property
    def coloured(self) -> NDArray[np.uint8]:
        """As the viewer shows it, uint8 (H, W, 3)."""
        finite = self.covered
        if self.image.dtype.kind == "f":
            usable = np.isfinite(self.image)
            finite = finite & (usable if self.image.ndim == 2 else usable.all(-1))
        return self.look.picture(self.image, finite)

    @cached_property
    def uncoloured(self) -> NDArray[np.uint8]:
        """In grey, uint8 (H, W, 3)."""
        return grey_picture(self.grey)


def choose_part(
    plane: Plane, window: tuple[slice, slice] | None = None, pixels: int = PIXEL_BUDGET
) -> Part:
    """Choose how finely to read a plane, or a part of it.

    Parameters
    ----------
    plane : Plane
        Of the reference.
    window : tuple of slice, optional
        Rows and columns at full resolution. The whole plane when left out.
    pixels : int
        At most so many are read of a level; a plane of fewer is read whole.

    Returns
    -------
    Part
    """
    if window is None or math.prod(plane.shape) <= pixels:
        window = slice(0, plane.shape[0]), slice(0, plane.shape[1])
    wanted = math.prod(part.stop - part.start for part in window)
    full = math.prod(plane.shape)
    for level in range(len(plane.levels)):
        if wanted * math.prod(level_grid(plane, level).shape) <= pixels * full:
            return _at_full(plane, level, 1, window)
    last = len(plane.levels) - 1
    step = math.ceil(math.sqrt(wanted * math.prod(level_grid(plane, last).shape) / full / pixels))
    return _at_full(plane, last, min(step, *level_grid(plane, last).shape), window)


def view_window(layer: Image, plane: Plane) -> tuple[slice, slice] | None:
    """Return the part of a plane that is in view, with a margin, as napari last drew it.

    Parameters
    ----------
    layer : Image
        Whose `plane` it is; it may be hidden.
    plane : Plane

    Returns
    -------
    tuple of slice or None
        Rows and columns at full resolution; None when nothing was drawn yet.
    """
    corners = np.asarray(layer.corner_pixels, dtype=float)[:, list(plane.axes)]
    factors = np.ones(2)
    if layer.multiscale:
        factors = np.asarray(layer.downsample_factors, float)[layer.data_level][list(plane.axes)]
    first, last = corners[0] * factors, (corners[1] + 1) * factors
    if (last - first < 2).any():
        return None
    margin = (last - first) / 8
    shape = np.array(plane.shape)
    first = np.clip(np.floor(first - margin), 0, shape - 1).astype(int)
    last = np.clip(np.ceil(last + margin), first + 1, shape).astype(int)
    return slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))


def place_on(
    picture: NDArray[np.uint8], plane: Plane, part: Part
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return data and keyword arguments of an RGB layer that lies on a part of a plane.

    Parameters
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        A view of it is returned.
    plane : Plane
        Of the reference.
    part : Part
    """
    spatial = plane.spatial
    linear = linear_of(spatial)
    first, step = np.zeros(plane.ndim), np.ones(plane.ndim)
    corner = np.array([part.window[0].start, part.window[1].start, 1.0])
    first[list(plane.axes)] = (part.grid.matrix @ corner)[:2]
    step[list(plane.axes)] = part.grid.step
    spatial["translate"] = spatial["translate"] + linear @ first
    spatial["scale"] = spatial["scale"] * step
    return expand(picture, plane), spatial


def _grid(plane: Plane, level: int, step: int) -> Grid:
    """The pixels of a level, `step` x `step` of them in one."""
    whole = level_grid(plane, level)
    shape = (whole.shape[0] // step, whole.shape[1] // step)
    return Grid(shape, (whole.step[0] * step, whole.step[1] * step))


def _at_full(plane: Plane, level: int, step: int, window: tuple[slice, slice]) -> Part:
    """A part whose window is given at full resolution."""
    grid = _grid(plane, level, step)
    reduced = []
    for lines, size, pace in zip(window, grid.shape, grid.step, strict=True):
        start = min(int(lines.start / pace), size - 1)
        reduced.append(slice(start, max(start + 1, min(math.ceil(lines.stop / pace), size))))
    return Part(level, step, grid, (reduced[0], reduced[1]))


def _colour_bytes(colours: NDArray[Any]) -> NDArray[np.uint8]:
    """Colours as napari takes them: floats in [0, 1], integers over their whole range."""
    if colours.dtype == np.uint8:
        return np.ascontiguousarray(colours)
    if colours.dtype.kind == "f":
        return np.rint(255 * np.clip(colours, 0, 1)).astype(np.uint8)
    top = 1 if colours.dtype.kind == "b" else np.iinfo(colours.dtype).max
    return np.rint(np.clip(colours / top, 0, 1) * 255).astype(np.uint8)
