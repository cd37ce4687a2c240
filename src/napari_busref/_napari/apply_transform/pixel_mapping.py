"""From the pixels of one image to those of the other, for layers that lie anywhere.

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

from napari_busref._napari.layers.grids import FIELD_BUDGET, Grid, Rescaled
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.planes import factor, is_positioned, linear_of, spatial_of
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.transforms.transform import Transform

__all__ = [
    "PLACED_KEY",
    "Array",
    "Place",
    "Route",
    "affine_part",
    "inverted",
    "placed_before",
    "plane_shape",
]

Array = NDArray[np.float64]
Push = Callable[..., Array]

#: Where `place_on` remembers the affine it has replaced: ``layer.metadata[PLACED_KEY]``.
PLACED_KEY = "napari-busref-placed"


@dataclass(frozen=True, eq=False)
class Place:
    """Where the pixels of an image are, along the two dimensions of the images."""

    name: str
    matrix: Array  # (3, 3), (row, col, 1) to world
    units: tuple[Any, Any]
    spatial: dict[str, Any]

    @classmethod
    def of(cls, layer: Layer, axes: tuple[int, int]) -> Place:
        return cls(
            layer.name,
            world_of(layer, axes),
            (layer.units[axes[0]], layer.units[axes[1]]),
            spatial_of(layer),
        )


@dataclass(frozen=True, eq=False)
class Route:
    """From the pixels of the source image (moving, unless inverse) to those of the target.

    Parameters
    ----------
    transform : Rescaled
        From fixed to moving pixels.
    source : Place or None
        Where the source image is; None when nothing says so.
    target : Place
    inverse : bool
        Whether the source is the fixed image.
    axes : tuple of int
        Dimensions of rows and columns, counted from the last one.
    names : dict
        Of the ``fixed`` and the ``moving`` image, and ``inverse``.
    source_layer : Layer or None
    planes : mapping
        Of a stack that was registered plane by plane; else empty.
    """

    transform: Rescaled
    source: Place | None
    target: Place
    inverse: bool
    axes: tuple[int, int]
    names: dict[str, Any]
    source_layer: Layer | None
    planes: Mapping[tuple[int, ...], PlaneResult]

    @classmethod
    def between(
        cls,
        transform: Transform | Rescaled,
        fixed: Layer,
        moving: Layer | None,
        inverse: bool,
        axes: tuple[int, int],
        planes: Mapping[tuple[int, ...], PlaneResult] | None = None,
    ) -> Route:
        """The route for these layers; parameters and errors are those of `apply_transform`."""
        if isinstance(transform, Transform):
            transform = Rescaled.of(transform)
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
            check_dimensions(layer, axes)
            if isinstance(layer, Image | Labels) and plane_shape(layer, axes) != shape:
                raise ValueError(
                    f"{image}: layer {layer.name!r} has {_pixels(plane_shape(layer, axes))}, but "
                    f"the transform is for a {image} image of {_pixels(shape)}"
                )
        if inverse and moving is None:
            raise ValueError(
                "moving: needed to bring layers to the moving image; choose its layer"
            )
        fixed_place = Place.of(fixed, axes)
        moving_place = None if moving is None else Place.of(moving, axes)
        source, target = (fixed_place, moving_place) if inverse else (moving_place, fixed_place)
        known = fixed.metadata.get(METADATA_KEY)
        known = known if isinstance(known, dict) else {}
        names = {
            "fixed": known.get("fixed") or fixed.name,
            "moving": known.get("moving") or "" if moving is None else moving.name,
            "inverse": inverse,
        }
        source_layer = fixed if inverse else moving
        return cls(
            transform,
            source,
            cast(Place, target),
            inverse,
            axes,
            names,
            source_layer,
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
    def straight(self) -> bool:
        """Whether the same affine holds everywhere."""
        return self.transform.transform.displacement is None and not self.planes

    @property
    def fits(self) -> bool:
        """Whether the dense field may be made for all pixels of the target."""
        return self.straight or int(np.prod(self.target_shape)) <= FIELD_BUDGET

    def at(self, position: tuple[int, ...]) -> Rescaled:
        """From fixed to moving pixels of one plane of a stack."""
        found = self.planes.get(position)
        return self.transform if found is None else found.transform

    def _back(self, found: Rescaled) -> Rescaled:
        """The inverse, found once for all layers that take the same transform."""
        for given, inverse in self._latest_inverse:
            if given is found:
                return inverse
        inverse = Rescaled(
            found.transform.inverse(),
            found.moving,
            found.fixed,
            found.moving_shape,
            found.fixed_shape,
        )
        self._latest_inverse[:] = [(found, inverse)]  # at once: dask asks from several threads
        return inverse

    @cached_property
    def _latest_inverse(self) -> list[tuple[Rescaled, Rescaled]]:
        return []

    def to_source(self, layer: Layer) -> Array:
        """The pixels of a layer to those of the source image, (3, 3)."""
        check_dimensions(layer, self.axes)
        raster = isinstance(layer, Image | Labels)
        shape = plane_shape(layer, self.axes) if raster else None
        before = placed_before(layer)
        spatial = spatial_of(layer)
        placed = is_positioned(spatial if before is None else spatial | {"affine": before})
        if self.source is None or self.source_layer is None:
            if shape == self.source_shape or not (raster or placed):
                return np.eye(3)
            what = f"has {_pixels(shape)}" if shape else "was placed in the world"
            raise ValueError(
                f"layer {layer.name!r} {what}, and nothing says where it lies on the moving image "
                f"of {_pixels(self.source_shape)}; choose the moving layer"
            )
        if shape == self.source_shape and not placed:
            return np.eye(3)
        own = world_of(layer, self.axes, before)
        source = self.source.matrix
        if before is not None:  # it belongs to where both were before they were placed
            source = world_of(self.source_layer, self.axes, placed_before(self.source_layer))
        given = (layer.units[self.axes[0]], layer.units[self.axes[1]])
        units = np.diag([*map(factor, given, self.source.units), 1.0])
        matrix = inverted(source) @ units @ own
        return np.eye(3) if np.allclose(matrix, np.eye(3), rtol=0, atol=1e-9) else matrix

    def pull(self, layer: Layer, position: tuple[int, ...] = ()) -> Rescaled:
        """From target pixels to those of a plane of an image or labels layer."""
        found = self.at(position)
        if self.inverse:
            found = self._back(found)
        shape = plane_shape(layer, self.axes)
        onward = inverted(self.to_source(layer)) @ found.moving.matrix
        return replace(
            found,
            transform=replace(
                found.transform, affine=onward @ found.transform.affine, moving_shape=shape
            ),
            moving=Grid(shape),
            moving_shape=shape,
        )

    def push(self, layer: Layer) -> Push:
        """From positions (N, ndim) in a layer to positions on the target."""
        matrix = self.to_source(layer)
        columns = list(self.axes)
        others = [axis for axis in range(-layer.ndim, 0) if axis not in columns]

        def push(points: Array, on: Array | None = None) -> Array:
            moved = np.array(points, dtype=float)
            source = moved[:, columns] @ matrix[:2, :2].T + matrix[:2, 2]
            planes = np.floor((moved if on is None else on)[:, others] + 0.5).astype(int)
            if not self.planes:
                planes = planes[:, :0]  # one transform for all
            for position in np.unique(planes, axis=0) if len(moved) else ():
                here = (planes == position).all(1)
                transform = self.at(tuple(int(number) for number in position))
                moved[np.ix_(here, columns)] = transform.points(
                    source[here], inverse=not self.inverse
                )
            return moved

        return push

    def magnification(self, layer: Layer) -> float:
        """Target pixels for one pixel of a layer."""
        linear = affine_part(self.transform)[:2, :2]
        area = abs(np.linalg.det(linear))
        area = area if self.inverse else 1 / area
        return float(np.sqrt(area * abs(np.linalg.det(self.to_source(layer)[:2, :2]))))

    def spatial(self, layer: Layer) -> dict[str, Any]:
        """Keyword arguments that put a layer on the target along the dimensions of the images."""
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
            # of a diagonal matrix napari says as many zeros as dimensions, and does not take them
            "shear": composite.shear if np.any(composite.shear) else np.eye(layer.ndim),
            "affine": affine,
            "units": tuple(units),
            "axis_labels": tuple(labels),
        }


def placed_before(layer: Layer) -> Array | None:
    """The affine that `place_on` has replaced, if the layer has not been moved since."""
    placed = layer.metadata.get(PLACED_KEY)
    if isinstance(placed, dict) and np.array_equal(placed["affine"], layer.affine.affine_matrix):
        return cast(Array, placed["before"])
    return None


def world_of(layer: Layer, axes: tuple[int, int], affine: Array | None = None) -> Array:
    """The pixels of a layer to world coordinates, both along `axes` only, (3, 3)."""
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
                "shear or affine; it cannot be carried plane by plane"
            )
    matrix = np.eye(3)
    matrix[:2] = world[np.ix_(plane, [*plane, -1])]
    if abs(np.linalg.det(matrix)) < 1e-12 * size**2:
        raise ValueError(f"layer {layer.name!r} is seen edge-on: its affine flattens it")
    return matrix


def inverted(matrix: Array) -> Array:
    inverse = np.eye(3)
    inverse[:2] = np.linalg.inv(matrix)[:2]  # the last row exactly
    return inverse


def plane_shape(layer: Layer, axes: tuple[int, int]) -> tuple[int, int]:
    data = layer.data[0] if layer.multiscale else layer.data
    rows, cols = (int(data.shape[axis + layer.ndim]) for axis in axes)
    return rows, cols


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def check_dimensions(layer: Layer, axes: tuple[int, int]) -> None:
    if layer.ndim < -axes[0]:
        raise ValueError(
            f"layer {layer.name!r} has {layer.ndim} dimensions and does not extend along the rows "
            "and columns of the images"
        )


def affine_part(found: Rescaled) -> Array:
    """The affine of a transform between pixels at full resolution, (3, 3)."""
    affine: Array = (
        found.moving.matrix @ found.transform.affine @ np.linalg.inv(found.fixed.matrix)
    )
    return affine
