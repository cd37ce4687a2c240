"""One 2-D plane of a layer: its pixels and their position in the world.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.transforms import Affine
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = [
    "SPATIAL_KEYS",
    "Plane",
    "comparable",
    "is_positioned",
    "linear_of",
    "shown_plane",
    "spatial_of",
    "unit_factor",
]

#: Attributes and keyword arguments of a layer that position it in the world.
SPATIAL_KEYS = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


@dataclass(frozen=True, eq=False)
class Plane:
    """One 2-D plane of an image or labels layer, unread.

    Parameters
    ----------
    name : str
        The layer's name.
    levels : tuple of array_like
        The layer's data at every resolution, finest first, of any array type; one array when the
        layer is not multiscale.
    index : tuple of int and slice
        Selects the plane at full resolution: a slice for each of `axes`, a number for every other
        axis.
    axes : tuple of int
        Layer axes of rows and columns, ascending.
    rgb : bool
        Whether colour channels follow.
    world : ndarray of float64, shape (ndim, ndim + 1)
        Matrix from pixel coordinates of the layer, with a final 1, to world coordinates.
    world_units : tuple
        Units (pint) of the world coordinates.
    positioned : bool
        Whether the layer's position differs from napari's default.
    layer_spatial : dict
        `SPATIAL_KEYS` of the layer.
    display : dict
        Keyword arguments that display an image layer like this one.
    """

    name: str
    levels: tuple[Any, ...] = field(repr=False)
    index: tuple[int | slice, ...]
    axes: tuple[int, int]
    rgb: bool
    world: NDArray[np.float64] = field(repr=False)
    world_units: tuple[Any, ...]
    positioned: bool
    layer_spatial: dict[str, Any] = field(repr=False)
    display: dict[str, Any] = field(repr=False)

    @property
    def source(self) -> Any:
        """The layer's data at full resolution."""
        return self.levels[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions of the layer, without colour channels."""
        return len(self.index)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Length of the layer along every dimension at full resolution."""
        return tuple(int(size) for size in self.source.shape[: self.ndim])

    @property
    def shape(self) -> tuple[int, int]:
        """``(H, W)`` of the plane."""
        rows, cols = self.axes
        return self.sizes[rows], self.sizes[cols]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Layer axes other than rows and columns, ascending."""
        return tuple(axis for axis in range(self.ndim) if axis not in self.axes)

    @property
    def position(self) -> tuple[int, ...]:
        """Indices of the plane along the `hidden` axes."""
        return tuple(int(self.start[axis]) for axis in self.hidden)

    @property
    def start(self) -> NDArray[np.float64]:
        """Pixel coordinates in the layer of the plane's pixel (0, 0)."""
        return np.array([0.0 if isinstance(part, slice) else part for part in self.index])

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Matrix (2, 3) from ``(row, col, 1)`` to world along the two shown dimensions."""
        shown = self.world[list(self.axes)]
        offset = shown[:, :-1] @ self.start + shown[:, -1]
        return np.column_stack([shown[:, list(self.axes)], offset])

    @property
    def units(self) -> tuple[Any, Any]:
        """Units (pint) of the two shown world coordinates."""
        rows, cols = self.axes
        return self.world_units[rows], self.world_units[cols]

    @property
    def spatial(self) -> dict[str, Any]:
        """Keyword arguments that position a layer on this plane, in all dimensions."""
        own = self.layer_spatial
        return own | {"translate": own["translate"] + linear_of(own) @ self.start}

    def at(self, position: Sequence[int]) -> Plane:
        """Return another plane of the same layer.

        Parameters
        ----------
        position : sequence of int
            Indices along the `hidden` axes.

        Raises
        ------
        ValueError
            When the layer has no such plane.
        """
        given = tuple(int(number) for number in position)
        sizes = tuple(self.sizes[axis] for axis in self.hidden)
        if len(given) != len(sizes) or not all(
            0 <= number < size for number, size in zip(given, sizes, strict=True)
        ):
            raise ValueError(
                f"position: got {given}, need {len(sizes)} numbers below {sizes} for the planes "
                f"of layer {self.name!r}"
            )
        index = list(self.index)
        for axis, number in zip(self.hidden, given, strict=True):
            index[axis] = number
        return replace(self, index=tuple(index))

    def centre(self) -> NDArray[np.float64]:
        """World coordinates of the plane's centre, one for each dimension of the layer."""
        middle = self.start
        middle[list(self.axes)] = (np.array(self.shape) - 1) / 2
        world: NDArray[np.float64] = self.world[:, :-1] @ middle + self.world[:, -1]
        return world

    def nearest(self, point: NDArray[np.float64], units: Sequence[Any]) -> Plane | None:
        """Return the plane of this layer at a point of the world.

        Parameters
        ----------
        point : ndarray, shape (N,)
            World coordinates; as in napari, the last ones belong to the layer. NaN stands for
            the coordinate of this plane.
        units : sequence
            Units of the coordinates.

        Returns
        -------
        Plane or None
            None when the layer has no plane there. A single plane along a dimension extends
            everywhere.
        """
        factors = [1.0] * self.ndim
        own = np.full(self.ndim, np.nan)
        common = min(self.ndim, len(point))
        own[self.ndim - common :] = point[len(point) - common :]
        for axis in range(self.ndim - common, self.ndim):
            factors[axis] = unit_factor(units[axis - self.ndim], self.world_units[axis])
        own = np.where(np.isnan(own), self.centre(), own * factors)
        pixel = np.linalg.solve(self.world[:, :-1], own - self.world[:, -1])
        numbers = []
        for axis in self.hidden:
            size = self.sizes[axis]
            number = 0 if size == 1 else int(np.floor(pixel[axis] + 0.5))
            if not 0 <= number < size:
                return None
            numbers.append(number)
        return self.at(numbers)

    def read(self) -> NDArray[Any]:
        """Read the plane at full resolution, ``(H, W)`` or ``(H, W, 3 or 4)``.

        Slow for large planes: call it in a worker, or use `choose_reading`.
        """
        return np.asarray(self.source[self.index])


def shown_plane(layer: Image | Labels, viewer: ViewerModel) -> Plane:
    """Return the plane of a layer that a viewer shows.

    Parameters
    ----------
    layer : napari.layers.Image or napari.layers.Labels
        Of two or more dimensions, grey or RGB(A), multiscale or not.
    viewer : napari.Viewer or napari.components.ViewerModel
        Its ``dims`` select the plane.

    Returns
    -------
    Plane
        No data is read.

    Raises
    ------
    ValueError
        When the viewer shows a volume, the layer lacks a shown dimension, is empty, or has no
        plane at the viewer's position.
    """
    dims = viewer.dims
    missing = dims.ndim - layer.ndim
    if dims.ndisplay == 3 and layer.ndim > 2:
        raise ValueError(
            f"layer {layer.name!r}: the viewer shows a volume; switch it to 2D and move to the "
            "plane to register"
        )
    rows, cols = (axis - missing for axis in sorted(dims.order[-2:]))
    if rows < 0:
        raise ValueError(
            f"layer {layer.name!r} has {layer.ndim} dimensions and lacks one that the viewer "
            "shows; change the order of the dimensions"
        )
    levels = tuple(layer.data) if layer.multiscale else (layer.data,)
    shape = tuple(int(size) for size in levels[0].shape[: layer.ndim])
    if min(shape) < 1:
        raise ValueError(f"layer {layer.name!r} is empty: it has shape {shape}")
    world = np.asarray(dims.point, dtype=float)[missing:]
    if (shown_units := viewer.layers.units) is not None:  # for None napari ignores units
        world = world * [
            unit_factor(shown, own)
            for shown, own in zip(shown_units[-layer.ndim :], layer.units, strict=True)
        ]
    point = np.asarray(layer.world_to_data(world), dtype=float)
    index: list[int | slice] = []
    for axis, size in enumerate(shape):
        if axis in (rows, cols):
            index.append(slice(None))
            continue
        number = int(np.floor(point[axis] + 0.5))
        if not 0 <= number < size:
            raise ValueError(
                f"layer {layer.name!r} has no plane at the viewer's position "
                f"({number} along {layer.axis_labels[axis]}, which has {size}); move the slider"
            )
        index.append(number)
    spatial = spatial_of(layer)
    plane = Plane(
        name=layer.name,
        levels=levels,
        index=tuple(index),
        axes=(rows, cols),
        rgb=bool(getattr(layer, "rgb", False)),
        world=_to_world(layer),
        world_units=tuple(layer.units),
        positioned=is_positioned(spatial),
        layer_spatial=spatial,
        display=_display(layer) if isinstance(layer, Image) else {},
    )
    linear = plane.matrix[:, :2]
    if abs(np.linalg.det(linear)) < 1e-12 * max(np.abs(linear).max(), 1e-30) ** 2:
        raise ValueError(
            f"layer {layer.name!r} is seen edge-on: its rotation, shear or affine turns it out "
            "of the shown plane"
        )
    return plane


def comparable(one: Any, other: Any) -> bool:
    """Whether two units can be converted into each other."""
    return bool(one == other or one.is_compatible_with(other))


def unit_factor(unit: Any, target: Any) -> float:
    """Return the length of one `unit` in `target` units; 1 for units that cannot be compared."""
    if unit == target or not comparable(unit, target):
        return 1.0
    return float((1 * unit).to(target).magnitude)


def _to_world(layer: Image | Labels) -> NDArray[np.float64]:
    """Probe the layer's data-to-world map; napari has no public attribute for its matrix."""
    probes = np.vstack([np.eye(layer.ndim), np.zeros(layer.ndim)])
    images = np.array([layer.data_to_world(probe) for probe in probes], dtype=float)
    images[:-1] -= images[-1]
    return np.ascontiguousarray(images.T)


def spatial_of(layer: Layer) -> dict[str, Any]:
    """Keyword arguments that give another layer, of any type, the position of this one."""
    return {
        "scale": np.array(layer.scale),
        "translate": np.array(layer.translate),
        "rotate": np.array(layer.rotate),
        "shear": np.array(layer.shear),
        "affine": np.array(layer.affine.affine_matrix),
        "units": tuple(layer.units),
        "axis_labels": tuple(layer.axis_labels),
    }


def linear_of(spatial: Mapping[str, Any]) -> NDArray[np.float64]:
    """Scale, rotation and shear from `spatial_of`, as one matrix."""
    linear = Affine(
        scale=spatial["scale"], rotate=spatial["rotate"], shear=spatial["shear"]
    ).linear_matrix
    return np.array(linear, dtype=float)


def is_positioned(spatial: Mapping[str, Any]) -> bool:
    """Whether a position from `spatial_of` differs from napari's default."""
    linear, affine = linear_of(spatial), spatial["affine"]
    return not (
        np.allclose(linear, np.eye(len(linear)))
        and np.allclose(spatial["translate"], 0)
        and np.allclose(affine, np.eye(len(affine)))
    )


def _display(layer: Image) -> dict[str, Any]:
    display = {"gamma": layer.gamma, "interpolation2d": str(layer.interpolation2d)}
    if layer.rgb:
        return display
    return display | {
        "colormap": layer.colormap,
        "contrast_limits": tuple(float(limit) for limit in layer.contrast_limits),
    }
