"""Map pixels of any layer from one image of a registered pair to the other.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.planes import is_positioned, linear_of, spatial_of, unit_factor
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.transforms.grids import FIELD_BUDGET
from napari_busref.transforms.transform import Transform

__all__ = [
    "PLACED_KEY",
    "Array",
    "PixelMapping",
    "affine_before",
    "inverted",
    "plane_shape",
]

Array = NDArray[np.float64]
Push = Callable[..., Array]

#: `place_on` stores the affine that it replaces in ``layer.metadata[PLACED_KEY]``.
PLACED_KEY = "napari-busref-placed"


@dataclass(frozen=True, eq=False)
class _Position:
    """Position of an image in the world, along its rows and columns."""

    matrix: Array  # (3, 3), (row, col, 1) to world
    units: tuple[Any, Any]
    spatial: dict[str, Any]

    @classmethod
    def of(cls, layer: Layer, axes: tuple[int, int]) -> _Position:
        units = layer.units[axes[0]], layer.units[axes[1]]
        return cls(_to_world(layer, axes), units, spatial_of(layer))


@dataclass(frozen=True, eq=False)
class PixelMapping:
    """Maps pixels of layers on the source image to pixels of the target image.

    Parameters
    ----------
    transform : Transform
        From fixed to moving pixels.
    source : _Position or None
        Position of the source image, the moving one unless `inverse`; None when unknown.
    target : _Position
    inverse : bool
        Whether the source is the fixed image.
    axes : tuple of int
        Dimensions of rows and columns, counted from the last one.
    names : dict
        Names of the ``fixed`` and the ``moving`` image, and ``inverse``.
    source_layer : Layer or None
    planes : mapping
        Results of a stack that was registered plane by plane; else empty.
    """

    transform: Transform
    source: _Position | None
    target: _Position
    inverse: bool
    axes: tuple[int, int]
    names: dict[str, Any]
    source_layer: Layer | None
    planes: Mapping[tuple[int, ...], PlaneResult]

    @classmethod
    def between(
        cls,
        transform: Transform,
        fixed: Layer,
        moving: Layer | None,
        inverse: bool,
        axes: tuple[int, int],
        planes: Mapping[tuple[int, ...], PlaneResult] | None = None,
    ) -> PixelMapping:
        """Create the mapping; parameters and errors are those of `apply_transform`."""
        if not axes[0] < axes[1] < 0:
            raise ValueError(
                f"axes: got {axes}, need two dimensions counted from the last, (-2, -1)"
            )
        for layer, shape, image in (
            (fixed, transform.fixed_shape, "fixed"),
            (moving, transform.moving_shape, "moving"),
        ):
            if layer is None:
                continue
            _check_dimensions(layer, axes)
            if isinstance(layer, Image | Labels) and plane_shape(layer, axes) != shape:
                raise ValueError(
                    f"{image}: layer {layer.name!r} has {_pixels(plane_shape(layer, axes))}, but "
                    f"the transform is for a {image} image of {_pixels(shape)}"
                )
        if inverse and moving is None:
            raise ValueError(
                "moving: needed to apply the inverse transform; choose the moving layer"
            )
        on_fixed = _Position.of(fixed, axes)
        on_moving = None if moving is None else _Position.of(moving, axes)
        source, target = (on_fixed, on_moving) if inverse else (on_moving, on_fixed)
        record = fixed.metadata.get(METADATA_KEY)
        record = record if isinstance(record, dict) else {}
        names = {
            "fixed": record.get("fixed") or fixed.name,
            "moving": record.get("moving") or "" if moving is None else moving.name,
            "inverse": inverse,
        }
        return cls(
            transform,
            source,
            cast(_Position, target),
            inverse,
            axes,
            names,
            fixed if inverse else moving,
            planes or {},
        )

    @property
    def source_shape(self) -> tuple[int, int]:
        """``(rows, cols)`` of the source image."""
        return self.transform.fixed_shape if self.inverse else self.transform.moving_shape

    @property
    def target_shape(self) -> tuple[int, int]:
        """``(rows, cols)`` of the target image."""
        return self.transform.moving_shape if self.inverse else self.transform.fixed_shape

    @property
    def target_name(self) -> str:
        """Name of the target image."""
        return str(self.names["moving" if self.inverse else "fixed"])

    @property
    def is_affine(self) -> bool:
        """Whether one affine maps all pixels of all planes."""
        return self.transform.displacement is None and not self.planes

    @property
    def fits(self) -> bool:
        """Whether the dense displacement field of the target stays within the budget."""
        return self.is_affine or int(np.prod(self.target_shape)) <= FIELD_BUDGET

    def at(self, position: tuple[int, ...]) -> Transform:
        """Transform from fixed to moving pixels of one plane of a stack."""
        plane = self.planes.get(position)
        return self.transform if plane is None else plane.transform

    def _inverse(self, transform: Transform) -> Transform:
        """Invert a transform, once for successive layers with the same transform."""
        for given, inverse in self._latest_inverse:
            if given is transform:
                return inverse
        inverse = transform.inverse()
        self._latest_inverse[:] = [(transform, inverse)]  # atomic, for the threads of dask
        return inverse

    @cached_property
    def _latest_inverse(self) -> list[tuple[Transform, Transform]]:
        return []

    def to_source(self, layer: Layer) -> Array:
        """Matrix (3, 3) from pixels of a layer to pixels of the source image."""
        _check_dimensions(layer, self.axes)
        raster = isinstance(layer, Image | Labels)
        shape = plane_shape(layer, self.axes) if raster else None
        before = affine_before(layer)
        spatial = spatial_of(layer)
        positioned = is_positioned(spatial if before is None else spatial | {"affine": before})
        if self.source is None or self.source_layer is None:
            if shape == self.source_shape or not (raster or positioned):
                return np.eye(3)
            what = f"has {_pixels(shape)}" if shape else "has a position in the world"
            raise ValueError(
                f"layer {layer.name!r} {what}, but its position on the moving image of "
                f"{_pixels(self.source_shape)} is unknown; choose the moving layer"
            )
        if shape == self.source_shape and not positioned:
            return np.eye(3)
        own = _to_world(layer, self.axes, before)
        source = self.source.matrix
        if before is not None:  # compare both positions from before `place_on`
            source = _to_world(self.source_layer, self.axes, affine_before(self.source_layer))
        given = (layer.units[self.axes[0]], layer.units[self.axes[1]])
        units = np.diag([*map(unit_factor, given, self.source.units), 1.0])
        matrix = inverted(source) @ units @ own
        return np.eye(3) if np.allclose(matrix, np.eye(3), rtol=0, atol=1e-9) else matrix

    def pull(self, layer: Layer, position: tuple[int, ...] = ()) -> Transform:
        """Transform from target pixels to pixels of a plane of an image or labels layer."""
        found = self.at(position)
        if self.inverse:
            found = self._inverse(found)
        affine = inverted(self.to_source(layer)) @ found.affine
        return replace(found, affine=affine, moving_shape=plane_shape(layer, self.axes))

    def push(self, layer: Layer) -> Push:
        """Function from points (N, ndim) of a layer to points on the target."""
        matrix = self.to_source(layer)
        columns = list(self.axes)
        others = [axis for axis in range(-layer.ndim, 0) if axis not in columns]

        def push(points: Array, on: Array | None = None) -> Array:
            moved = np.array(points, dtype=float)
            source = moved[:, columns] @ matrix[:2, :2].T + matrix[:2, 2]
            planes = np.floor((moved if on is None else on)[:, others] + 0.5).astype(int)
            if not self.planes:
                planes = planes[:, :0]  # one transform for all planes
            for position in np.unique(planes, axis=0) if len(moved) else ():
                here = (planes == position).all(1)
                transform = self.at(tuple(int(number) for number in position))
                moved[np.ix_(here, columns)] = transform.points(
                    source[here], inverse=not self.inverse
                )
            return moved

        return push

    def magnification(self, layer: Layer) -> float:
        """Side of a layer's pixel in target pixels."""
        linear = self.transform.affine[:2, :2]
        area = abs(np.linalg.det(linear))
        area = area if self.inverse else 1 / area
        return float(np.sqrt(area * abs(np.linalg.det(self.to_source(layer)[:2, :2]))))

    def spatial(self, layer: Layer) -> dict[str, Any]:
        """Keyword arguments that position a layer on the target, along rows and columns."""
        target = self.target.spatial
        if layer.ndim == 2 and len(target["scale"]) == 2:
            return dict(target)
        own = spatial_of(layer)
        plane = [axis + layer.ndim for axis in self.axes]
        there = [axis + len(target["scale"]) for axis in self.axes]
        linear = linear_of(own)
        linear[np.ix_(plane, plane)] = linear_of(target)[np.ix_(there, there)]
        composite = Affine(linear_matrix=linear)
        translate = np.array(own["translate"])
        translate[plane] = target["translate"][there]
        affine = np.array(own["affine"])
        affine[np.ix_(plane, [*plane, -1])] = target["affine"][np.ix_(there, [*there, -1])]
        units, labels = list(own["units"]), list(own["axis_labels"])
        for mine, other in zip(plane, there, strict=True):
            units[mine], labels[mine] = target["units"][other], target["axis_labels"][other]
        return {
            "scale": composite.scale,
            "translate": translate,
            "rotate": composite.rotate,
            # for a diagonal matrix napari returns ndim zeros, which its constructor rejects
            "shear": composite.shear if np.any(composite.shear) else np.eye(layer.ndim),
            "affine": affine,
            "units": tuple(units),
            "axis_labels": tuple(labels),
        }


def affine_before(layer: Layer) -> Array | None:
    """Return the affine that `place_on` replaced, unless the layer has moved since."""
    placed = layer.metadata.get(PLACED_KEY)
    if isinstance(placed, dict) and np.array_equal(placed["affine"], layer.affine.affine_matrix):
        return cast(Array, placed["before"])
    return None


def _to_world(layer: Layer, axes: tuple[int, int], affine: Array | None = None) -> Array:
    """Matrix (3, 3) from pixels of a layer to world coordinates, both along `axes` only."""
    spatial = spatial_of(layer)
    local = np.eye(layer.ndim + 1)
    local[:-1, :-1] = linear_of(spatial)
    local[:-1, -1] = spatial["translate"]
    world = (spatial["affine"] if affine is None else affine) @ local
    plane = [axis + layer.ndim for axis in axes]
    others = [axis for axis in range(layer.ndim) if axis not in plane]
    size = np.abs(world[np.ix_(plane, plane)]).max()
    for first, second in ((plane, others), (others, plane)):
        if np.abs(world[np.ix_(first, second)]).max(initial=0) > 1e-9 * size:
            raise ValueError(
                f"layer {layer.name!r} is turned out of the plane of the images by its rotation, "
                "shear or affine; planes cannot be mapped to planes"
            )
    matrix = np.eye(3)
    matrix[:2] = world[np.ix_(plane, [*plane, -1])]
    if abs(np.linalg.det(matrix)) < 1e-12 * size**2:
        raise ValueError(f"layer {layer.name!r} is seen edge-on: its affine flattens it")
    return matrix


def inverted(matrix: Array) -> Array:
    """Invert a (3, 3) affine; the last row is exact."""
    inverse = np.eye(3)
    inverse[:2] = np.linalg.inv(matrix)[:2]
    return inverse


def plane_shape(layer: Layer, axes: tuple[int, int]) -> tuple[int, int]:
    """``(rows, cols)`` of an image or labels layer."""
    data = layer.data[0] if layer.multiscale else layer.data
    rows, cols = (int(data.shape[axis + layer.ndim]) for axis in axes)
    return rows, cols


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def _check_dimensions(layer: Layer, axes: tuple[int, int]) -> None:
    if layer.ndim < -axes[0]:
        raise ValueError(
            f"layer {layer.name!r} has {layer.ndim} dimensions and lacks the rows or columns of "
            "the images"
        )
