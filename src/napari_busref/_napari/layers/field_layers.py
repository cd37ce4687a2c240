"""Draw a displacement field: as arrows, as a deformed grid, as an image of lengths.

The displacement is measured from the initial transform. Needs `napari.layers` but neither Qt nor
a viewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from napari.layers import Image, Shapes, Vectors
from numpy.typing import NDArray

from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

__all__ = ["Mapping2D", "displacement_layer", "grid_layer", "magnitude", "magnitude_layer"]

_ARROWS_ALONG_LONG_SIDE = 24
_CELLS_ALONG_LONG_SIDE = 20
_CELLS_PER_PATH = 2
_POINTS_PER_CELL = 4
_MANY_PLANES = 64  # from here on a plane gets half as many arrows along each side
_MAX_MAGNITUDE_PIXELS = 512 * 512  # the field is smooth
_COLORMAP = "turbo"
_MIN_COLOUR_RANGE = 1e-3  # px; the two contrast limits must differ


class Mapping2D(Protocol):
    """A drawable map: a `Transform` or a `Transform`."""

    @property
    def fixed_shape(self) -> tuple[int, int]:
        """``(H, W)`` of the fixed image."""

    @property
    def moving_shape(self) -> tuple[int, int]:
        """``(h, w)`` of the moving image."""

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map fixed pixels to moving pixels."""


def displacement_layer(
    transform: Mapping2D,
    initial: Transform | None = None,
    mask: NDArray[np.bool_] | None = None,
    *,
    axes: tuple[int, int] = (0, 1),
    position: Sequence[int] = (),
    others: Sequence[tuple[Sequence[int], Mapping2D, NDArray[np.bool_]]] = (),
    **kwargs: Any,
) -> Vectors:
    """Draw a transform as arrows on a coarse grid of the fixed image, coloured by length.

    Parameters
    ----------
    transform : Transform
        From fixed to moving pixels.
    initial : Transform, optional
        Where the run started. An arrow points from a fixed pixel to the fixed pixel whose content
        `initial` put there. By default an equal field of view.
    mask : ndarray of bool, optional
        Over the fixed image, of any size. Arrows start only inside; everywhere if it is empty.
    axes : tuple of int
        Layer axes of rows and columns.
    position : sequence of int, optional
        Coordinates along the other axes; 0 by default.
    others : sequence of (position, transform, mask), optional
        Other planes of a stack, drawn in the same layer.
    **kwargs
        For `napari.layers.Vectors`; the length of ``scale`` is the number of dimensions.

    Returns
    -------
    Vectors
        Data (N, 2, ndim); feature ``magnitude`` in fixed pixels. The dense field is
        ``transform.flow()``.
    """
    ndim = len(kwargs.get("scale", (1, 1)))
    along = _ARROWS_ALONG_LONG_SIDE if len(others) < _MANY_PLANES else _ARROWS_ALONG_LONG_SIDE // 2
    arrows, lengths = [], []
    for where, each, inside in [(position, transform, mask), *others]:
        start = _arrow_starts(each.fixed_shape, along, inside)
        arrow = _displacement(each, initial, start)
        ends = _in_layer(start, axes, where, ndim), _in_layer(arrow, axes, (), ndim)
        arrows.append(np.stack(ends, axis=1))
        lengths.append(np.hypot(*arrow.T))
    length = np.concatenate(lengths)
    return Vectors(
        np.concatenate(arrows).astype(np.float32),
        features={"magnitude": length},
        edge_color="magnitude",
        edge_colormap=_COLORMAP,
        edge_contrast_limits=_limits(length),
        edge_width=_width(transform.fixed_shape),
        vector_style="arrow",
        opacity=0.9,
        **kwargs,
    )


def grid_layer(
    transform: Mapping2D,
    initial: Transform | None = None,
    *,
    axes: tuple[int, int] = (0, 1),
    position: Sequence[int] = (),
    **kwargs: Any,
) -> Shapes:
    """Draw a transform as the grid into which it deforms a straight one.

    Parameters
    ----------
    transform, initial, axes, position
        As for `displacement_layer`. A grid line runs through the ends of the arrows on it.
    **kwargs
        For `napari.layers.Shapes`; the length of ``scale`` is the number of dimensions.

    Returns
    -------
    Shapes
        Paths of at most two cells, coloured by the mean displacement along them; feature
        ``magnitude`` in fixed pixels.
    """
    ndim = len(kwargs.get("scale", (1, 1)))
    paths, lengths = [], []
    for path in _grid_lines(transform.fixed_shape):
        moved = _displacement(transform, initial, path)
        paths.append(_in_layer(path + moved, axes, position, ndim))
        lengths.append(float(np.hypot(*moved.T).mean()))
    return Shapes(
        paths,
        shape_type="path",
        features={"magnitude": lengths},
        edge_color="magnitude",
        edge_colormap=_COLORMAP,
        edge_contrast_limits=_limits(np.array(lengths)),
        edge_width=0.75 * _width(transform.fixed_shape),
        opacity=0.9,
        **kwargs,
    )


def magnitude(
    transform: Mapping2D, initial: Transform | None = None
) -> tuple[NDArray[np.float32], Grid]:
    """Compute the length of the displacement as an image.

    Parameters
    ----------
    transform, initial
        As for `displacement_layer`.

    Returns
    -------
    lengths : ndarray of float32
        In fixed pixels.
    grid : Grid
        Its pixels over the fixed image, at most 512 x 512.
    """
    grid = Grid(transform.fixed_shape).coarser(_MAX_MAGNITUDE_PIXELS)
    pixels = np.indices(grid.shape).reshape(2, -1).T
    start = pixels * grid.step + grid.matrix[:2, 2]
    length = np.hypot(*_displacement(transform, initial, start).T)
    return length.reshape(grid.shape).astype(np.float32), grid


def magnitude_layer(lengths: Any, longest: float, **kwargs: Any) -> Image:
    """Show lengths of the displacement in colours, with a colour bar.

    Parameters
    ----------
    lengths : array_like
        From `magnitude`, of one or several planes.
    longest : float
        The upper end of the colour bar.
    **kwargs
        For `napari.layers.Image`.
    """
    layer = Image(
        lengths,
        colormap=_COLORMAP,
        contrast_limits=(0.0, max(longest, _MIN_COLOUR_RANGE)),
        blending="translucent",
        opacity=0.7,
        **kwargs,
    )
    layer.colorbar.visible = True
    return layer


def _displacement(
    transform: Mapping2D, initial: Transform | None, start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Displacement from `initial` at (N, 2) fixed pixels, in fixed pixels."""
    if initial is None:
        initial = Transform.equal_field_of_view(transform.fixed_shape, transform.moving_shape)
    return initial.points(transform.points(start), inverse=True) - start


def _arrow_starts(
    shape: tuple[int, int], along: int, mask: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Centres of equal cells, rounded to pixels, (N, 2)."""
    step = max(4.0, max(shape) / along)
    counts = [max(1, round(size / step)) for size in shape]
    ticks = [
        ((np.arange(count) + 0.5) * (size / count) - 0.5).round()
        for count, size in zip(counts, shape, strict=True)
    ]
    start = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 2)
    if mask is None:
        return start
    pixel = ((start + 0.5) * np.divide(mask.shape, shape)).astype(int)
    inside = mask[tuple(np.minimum(pixel, np.array(mask.shape) - 1).T)]
    return start[inside] if inside.any() else start


def _grid_lines(shape: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Pieces of the lines of a straight grid over the image, each (N, 2)."""
    cell = max(4.0, max(shape) / _CELLS_ALONG_LONG_SIDE)
    counts = [max(1, round(size / cell)) for size in shape]
    ticks = [
        np.linspace(0, size - 1, count + 1) for count, size in zip(counts, shape, strict=True)
    ]
    paths = []
    for axis, other in ((0, 1), (1, 0)):
        for first in range(0, counts[axis], _CELLS_PER_PATH):
            last = min(first + _CELLS_PER_PATH, counts[axis])
            points = _POINTS_PER_CELL * (last - first) + 1
            along = np.linspace(ticks[axis][first], ticks[axis][last], points)
            for across in ticks[other]:
                path = np.empty((points, 2))
                path[:, axis], path[:, other] = along, across
                paths.append(path)
    return paths


def _in_layer(
    points: NDArray[np.float64], axes: tuple[int, int], position: Sequence[int], ndim: int
) -> NDArray[np.float64]:
    """Give (N, 2) points all dimensions of the layer."""
    full = np.zeros((len(points), ndim))
    hidden = [axis for axis in range(ndim) if axis not in axes]
    for axis, number in zip(hidden, position, strict=False):
        full[:, axis] = number
    full[:, list(axes)] = points
    return full


def _width(shape: tuple[int, int]) -> float:
    return max(1.5, max(shape) / 250)


def _limits(lengths: NDArray[Any]) -> tuple[float, float]:
    return 0.0, max(float(lengths.max(initial=0.0)), _MIN_COLOUR_RANGE)
