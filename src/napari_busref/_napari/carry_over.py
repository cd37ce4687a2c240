"""Carrying layers of any type along a transform, and placing layers by it without resampling.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from napari.layers import Image, Labels, Layer, Points, Shapes, Tracks, Vectors
from napari.utils.transforms import Affine
from numpy.typing import NDArray
from skimage.measure import approximate_polygon

from napari_busref._napari.grids import Grid, Rescaled
from napari_busref._napari.layers import METADATA_KEY
from napari_busref._napari.lazy import Source, lazy_array, warp_window
from napari_busref._napari.planes import Plane, comparable, factor, spatial_of
from napari_busref._napari.stacks import PlaneResult
from napari_busref.progress import Progress, Reporter
from napari_busref.transform import Transform

__all__ = [
    "CARRIED_TYPES",
    "KnownTransform",
    "carry_over",
    "known_transforms",
    "place_on",
    "put_layers",
]

Array = NDArray[np.float64]
_Push = Callable[..., Array]

#: Layers that can be carried over.
CARRIED_TYPES = (Image, Labels, Points, Shapes, Vectors, Tracks)

#: Where `place_on` remembers the affine it has replaced: ``layer.metadata[PLACED_KEY]``.
PLACED_KEY = "napari-busref-placed"

_CHORD = 2.0  # target pixels between two vertices of an outline before it is simplified
_TOLERANCE = 0.05  # target pixels that the simplified outline may be off


def carry_over(
    layers: Sequence[Layer],
    transform: Transform,
    fixed: Layer,
    moving: Layer | None = None,
    *,
    inverse: bool = False,
    axes: tuple[int, int] = (-2, -1),
    planes: Mapping[tuple[int, ...], PlaneResult] | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Layer]:
    """Carry layers from the moving to the fixed image, or back.

    Images are resampled (linear), labels too (nearest, their type is kept), stacks plane by plane;
    positions are moved: points, shapes, vectors and tracks. What is not a numpy array (dask, zarr,
    pyramids) is computed when it is looked at.

    Parameters
    ----------
    layers : sequence of Layer
        Image, Labels, Points, Shapes, Vectors or Tracks; not changed.
    transform : Transform
        From fixed to moving pixels.
    fixed : Layer
        The fixed layer, or any layer that lies on it, such as a result of the registration.
    moving : Layer, optional
        The moving layer. Needed to go back, and for layers whose pixels are not those of the
        moving image: those are found by their place in the world.
    inverse : bool
        False: what belongs to the moving image is brought to the fixed one. True: what belongs to
        the fixed image is brought to the moving one.
    axes : tuple of int
        The two dimensions that the images extend along, counted from the last one.
    planes : mapping, optional
        ``metadata["napari-busref"]["planes"]`` of a stack that was registered plane by plane: from
        the position along the other dimensions to what was found there. Stacks, and positions in
        them, take the transform of their plane; all else takes `transform`.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop after the current plane.

    Returns
    -------
    list of Layer
        New layers, in no viewer yet, named ``"<layer> on <target>"``. Along `axes` they have the
        scale, translate, rotate, shear, affine, units and axis labels of the layer that they are
        brought to, along other dimensions their own. All else is kept: colours, features, symbols,
        text, ids and graph of tracks. Where the transform is not affine, rectangles and ellipses
        become polygons, lines become paths, and outlines get vertices so that they are off by
        no more than 0.05 px. Widths and sizes of points, shapes and vectors are scaled like the
        image.

    Raises
    ------
    ValueError
        When a layer is of another type, has too few dimensions, is turned out of the plane of the
        images, or nothing says where it lies; when the transform is for other images or cannot be
        inverted.
    Cancelled
        When `cancel` was set.

    Notes
    -----
    Images and labels that have as many pixels as the image they belong to, and that nobody has
    placed anywhere, are taken pixel by pixel. All other layers are taken where they are seen.

    Examples
    --------
    >>> labels = Labels(np.eye(4, dtype=int), name="cells")
    >>> shape = (4, 4)
    >>> down = [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    >>> transform = Transform(down, fixed_shape=shape, moving_shape=shape)
    >>> (on_fixed,) = carry_over([labels], transform, Image(np.zeros(shape), name="vis"))
    >>> on_fixed.name, on_fixed.data[0].tolist()
    ('cells on vis', [0, 1, 0, 0])
    """
    route = _Route.between(transform, fixed, moving, inverse, axes, planes)
    reporter = Reporter(progress, cancel)
    carried = []
    for number, layer in enumerate(layers):
        part = reporter.part(number / len(layers), (number + 1) / len(layers))
        carried.append(_carry(layer, route, part))
    return carried


def place_on(
    layers: Sequence[Layer],
    transform: Transform,
    fixed: Layer,
    moving: Layer | None = None,
    *,
    inverse: bool = False,
    axes: tuple[int, int] = (-2, -1),
) -> float:
    """Set the ``affine`` of layers so that they lie on the other image, without resampling.

    Parameters
    ----------
    layers : sequence of Layer
        Of any type; their ``affine`` is set, and where their units cannot be compared to those of
        the target, their ``units`` too. Data, scale, translate, rotate and shear stay.
    transform, fixed, moving, inverse, axes
        As for `carry_over`.

    Returns
    -------
    float
        The largest distance, in fixed pixels, between where the transform and where its nearest
        affine puts a pixel; 0 when the transform is affine.

    Raises
    ------
    ValueError
        As `carry_over`. Then no layer is changed.
    """
    route = _Route.between(transform, fixed, moving, inverse, axes)
    affine, left = _nearest_affine(transform)
    onward = affine if inverse else _inverse(affine)
    changes = [_placement(layer, route, onward) for layer in layers]
    for layer, (matrix, units) in zip(layers, changes, strict=True):
        before = np.array(layer.affine.affine_matrix)
        if (earlier := _placed_before(layer)) is not None:
            before = earlier
        layer.affine = matrix
        layer.units = units
        layer.metadata[PLACED_KEY] = {
            "affine": np.array(layer.affine.affine_matrix),
            "before": before,
        }
    return left


@dataclass(frozen=True, eq=False)
class KnownTransform:
    """A transform that a layer carries in its metadata.

    Attributes
    ----------
    transform : Transform
    layer : Layer
        Which lies on the fixed image.
    fixed, moving : str
        Names of the layers that were registered; empty when not known.
    axes : tuple of int
        Dimensions of rows and columns, counted from the last one.
    planes : mapping or None
        What was found for each plane of a stack, when it was registered plane by plane.
    """

    transform: Transform = field(repr=False)
    layer: Layer
    fixed: str
    moving: str
    axes: tuple[int, int]
    planes: Mapping[tuple[int, ...], PlaneResult] | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The transform in a few words."""
        if self.fixed and self.moving:
            return f"{self.moving} → {self.fixed}"
        return str(self.layer.name)


def known_transforms(layers: Sequence[Layer]) -> list[KnownTransform]:
    """Return the different transforms that layers carry, latest layer first.

    Parameters
    ----------
    layers : sequence of Layer
        ``viewer.layers``.
    """
    known: list[KnownTransform] = []
    for layer in reversed(list(layers)):
        found = layer.metadata.get(METADATA_KEY)
        transform = found.get("transform") if isinstance(found, dict) else None
        if not isinstance(transform, Transform) or any(
            transform is one.transform or transform == one.transform for one in known
        ):
            continue
        rows, cols = found.get("axes", (layer.ndim - 2, layer.ndim - 1))
        known.append(
            KnownTransform(
                transform,
                layer,
                found.get("fixed") or "",
                found.get("moving") or "",
                (rows - layer.ndim, cols - layer.ndim),
                found.get("planes") if found.get("mode") == "each" else None,
            )
        )
    return known


def put_layers(layers: MutableSequence[Layer], carried: Sequence[Layer]) -> None:
    """Add carried layers to a viewer, each in place of what the same layer gave before.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``. A layer that was renamed since stays.
    carried : sequence of Layer
        From `carry_over`.
    """
    for layer in carried:
        known = layer.metadata[METADATA_KEY]
        old = next(
            (
                other
                for other in layers
                if other.metadata.get(METADATA_KEY) == known | {"name": other.name}
            ),
            None,
        )
        if old is None:
            layers.append(layer)
        else:
            position = layers.index(old)
            layers.remove(old)
            layers.insert(position, layer)
        known["name"] = layer.name  # napari may have appended a number


# -- where things are -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the pixels of an image are, along the two dimensions of the images."""

    name: str
    matrix: Array  # (3, 3), (row, col, 1) to world
    units: tuple[Any, Any]
    spatial: dict[str, Any]

    @classmethod
    def of(cls, layer: Layer, axes: tuple[int, int]) -> _Place:
        return cls(
            layer.name,
            _world(layer, axes),
            (layer.units[axes[0]], layer.units[axes[1]]),
            spatial_of(layer),
        )


@dataclass(frozen=True, eq=False)
class _Route:
    """From the pixels of the source image (moving, unless inverse) to those of the target."""

    transform: Transform  # fixed to moving
    source: _Place | None
    target: _Place
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
    ) -> _Route:
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
            if isinstance(layer, Image | Labels) and _plane_shape(layer, axes) != shape:
                raise ValueError(
                    f"{image}: layer {layer.name!r} has {_pixels(_plane_shape(layer, axes))}, but "
                    f"the transform is for a {image} image of {_pixels(shape)}"
                )
        if inverse and moving is None:
            raise ValueError(
                "moving: needed to bring layers to the moving image; choose its layer"
            )
        fixed_place = _Place.of(fixed, axes)
        moving_place = None if moving is None else _Place.of(moving, axes)
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
            cast(_Place, target),
            inverse,
            axes,
            names,
            source_layer,
            planes or {},
        )

    @property
    def source_shape(self) -> tuple[int, int]:
        return self.transform.fixed_shape if self.inverse else self.transform.moving_shape

    @property
    def target_shape(self) -> tuple[int, int]:
        return self.transform.moving_shape if self.inverse else self.transform.fixed_shape

    @property
    def target_name(self) -> str:
        return str(self.names["moving" if self.inverse else "fixed"])

    def at(self, position: tuple[int, ...]) -> Transform:
        """From fixed to moving pixels of one plane of a stack."""
        found = self.planes.get(position)
        if found is None:
            return self.transform
        latest = self._latest.get(position)
        if latest is None:  # dask may ask from several threads
            latest = found.transform.full()
            self._latest.clear()  # a field at full resolution is large
            self._latest[position] = latest
        return latest

    @cached_property
    def _latest(self) -> dict[tuple[int, ...], Transform]:
        return {}

    @cached_property
    def _inverse(self) -> Transform:
        return self.transform.inverse()

    def to_source(self, layer: Layer) -> Array:
        """The pixels of a layer to those of the source image, (3, 3)."""
        _check_dimensions(layer, self.axes)
        raster = isinstance(layer, Image | Labels)
        shape = _plane_shape(layer, self.axes) if raster else None
        placed = _is_placed(layer)
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
        before = _placed_before(layer)
        own = _world(layer, self.axes, before)
        source = self.source.matrix
        if before is not None:  # it belongs to where both were before they were placed
            source = _world(self.source_layer, self.axes, _placed_before(self.source_layer))
        given = (layer.units[self.axes[0]], layer.units[self.axes[1]])
        units = np.diag([*map(factor, given, self.source.units), 1.0])
        matrix = _inverse(source) @ units @ own
        return np.eye(3) if np.allclose(matrix, np.eye(3), rtol=0, atol=1e-9) else matrix

    def pull(self, layer: Layer, position: tuple[int, ...] = ()) -> Transform:
        """From target pixels to those of a plane of an image or labels layer."""
        matrix = _inverse(self.to_source(layer))
        shape = _plane_shape(layer, self.axes)
        transform = self.at(position)
        if self.inverse:
            transform = self._inverse if transform is self.transform else transform.inverse()
        return transform.compose(
            Transform(matrix, fixed_shape=self.source_shape, moving_shape=shape)
        )

    def push(self, layer: Layer) -> _Push:
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
        linear = self.transform.affine[:2, :2]
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
        linear = _linear(own)
        linear[np.ix_(plane, plane)] = _linear(target)[np.ix_(there, there)]
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


def _placement(layer: Layer, route: _Route, onward: Array) -> tuple[Array, tuple[Any, ...]]:
    """The affine and the units that put a layer on the target; `onward` is source to target."""
    plane = [axis + layer.ndim for axis in route.axes]
    units = list(layer.units)
    wanted = route.target.units
    if not all(comparable(units[axis], unit) for axis, unit in zip(plane, wanted, strict=True)):
        for axis, unit in zip(plane, wanted, strict=True):
            units[axis] = unit
    scale = np.diag([*(factor(wanted[i], units[plane[i]]) for i in (0, 1)), 1.0])
    world = scale @ route.target.matrix @ onward @ route.to_source(layer)
    spatial = spatial_of(layer)
    local = np.eye(3)
    local[:2, :2] = _linear(spatial)[np.ix_(plane, plane)]
    local[:2, 2] = spatial["translate"][plane]
    block = world @ _inverse(local)
    matrix = np.array(spatial["affine"])
    matrix[np.ix_(plane, [*plane, -1])] = block[:2]
    return matrix, tuple(units)


def _nearest_affine(transform: Transform) -> tuple[Array, float]:
    """The affine nearest to a transform where the images overlap, and how far it is off."""
    if transform.displacement is None:
        return np.array(transform.affine), 0.0
    ticks = [np.linspace(0, size - 1, min(size, 64)) for size in transform.fixed_shape]
    grid = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 2)
    there = transform.points(grid)
    inside = ((there >= -0.5) & (there <= np.array(transform.moving_shape) - 0.5)).all(1)
    shapes = {"fixed_shape": transform.fixed_shape, "moving_shape": transform.moving_shape}
    for chosen in (inside, np.ones(len(grid), bool)):
        try:
            nearest = Transform.from_points(grid[chosen], there[chosen], **shapes)
        except ValueError:  # hardly any overlap
            continue
        error = nearest.points(there[chosen], inverse=True) - grid[chosen]
        return np.array(nearest.affine), float(np.hypot(*error.T).max())
    raise ValueError("transform: the fixed image is too small to tell an affine")


def _placed_before(layer: Layer) -> Array | None:
    """The affine that `place_on` has replaced, if the layer has not been moved since."""
    placed = layer.metadata.get(PLACED_KEY)
    if isinstance(placed, dict) and np.array_equal(placed["affine"], layer.affine.affine_matrix):
        return cast(Array, placed["before"])
    return None


def _world(layer: Layer, axes: tuple[int, int], affine: Array | None = None) -> Array:
    """The pixels of a layer to world coordinates, both along `axes` only, (3, 3)."""
    spatial = spatial_of(layer)
    local = np.eye(layer.ndim + 1)
    local[:-1, :-1] = _linear(spatial)
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


def _inverse(matrix: Array) -> Array:
    inverse = np.eye(3)
    inverse[:2] = np.linalg.inv(matrix)[:2]  # the last row exactly
    return inverse


def _linear(spatial: dict[str, Any]) -> Array:
    linear = Affine(
        scale=spatial["scale"], rotate=spatial["rotate"], shear=spatial["shear"]
    ).linear_matrix
    return np.array(linear, dtype=float)


def _is_placed(layer: Layer) -> bool:
    affine = _placed_before(layer)
    affine = np.array(layer.affine.affine_matrix) if affine is None else affine
    spatial = spatial_of(layer)
    return not (
        np.allclose(_linear(spatial), np.eye(layer.ndim))
        and np.allclose(spatial["translate"], 0)
        and np.allclose(affine, np.eye(len(affine)))
    )


def _plane_shape(layer: Layer, axes: tuple[int, int]) -> tuple[int, int]:
    data = layer.data[0] if layer.multiscale else layer.data
    rows, cols = (int(data.shape[axis + layer.ndim]) for axis in axes)
    return rows, cols


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def _check_dimensions(layer: Layer, axes: tuple[int, int]) -> None:
    if layer.ndim < -axes[0]:
        raise ValueError(
            f"layer {layer.name!r} has {layer.ndim} dimensions and does not extend along the rows "
            "and columns of the images"
        )


# -- one layer --------------------------------------------------------------------------------


def _carry(layer: Layer, route: _Route, reporter: Reporter) -> Layer:
    carry = next((way for kind, way in _WAYS.items() if isinstance(layer, kind)), None)
    if carry is None:
        accepted = ", ".join(kind.__name__ for kind in CARRIED_TYPES)
        raise ValueError(
            f"layer {layer.name!r} is a {layer.__class__.__name__} layer; accepted are {accepted}"
        )
    reporter.step(f"carrying over {layer.name}", 0.0)
    _, state, kind = layer.as_layer_data_tuple()
    metadata = {
        key: value
        for key, value in state.pop("metadata").items()
        if not str(key).startswith(METADATA_KEY)
    }
    state.pop("experimental_clipping_planes", None)  # they were in the layer's pixels
    state = deepcopy(state) | route.spatial(layer)
    name = f"{layer.name} on {route.target_name}"
    state["name"] = name
    known = route.names | {"role": "carried", "name": name, "source": layer.name}
    state["metadata"] = metadata | {METADATA_KEY: known}
    data = carry(layer, route, state, reporter)
    reporter.step(f"carried over {layer.name}", 1.0)
    return Layer.create(data, state, kind)


def _carry_raster(
    layer: Image | Labels, route: _Route, state: dict[str, Any], reporter: Reporter
) -> Any:
    state["multiscale"] = False
    order = 0 if isinstance(layer, Labels) else 1
    levels = tuple(layer.data) if layer.multiscale else (layer.data,)
    axes = (route.axes[0] + layer.ndim, route.axes[1] + layer.ndim)
    sizes = [int(size) for size in levels[0].shape[: layer.ndim]]
    channels = tuple(levels[0].shape[layer.ndim :])
    hidden = [1 if axis in axes else size for axis, size in enumerate(sizes)]
    sizes[axes[0]], sizes[axes[1]] = route.target_shape
    common = None if route.planes else route.pull(layer)
    if len(levels) > 1 or type(levels[0]) is not np.ndarray:
        return _lazily(layer, levels, axes, sizes, channels, route, common, order)
    data = levels[0]
    carried = np.empty((*sizes, *channels), data.dtype.newbyteorder("="))
    count = int(np.prod(hidden))
    for number, position in enumerate(np.ndindex(*hidden)):
        reporter.step(f"carrying over {layer.name}", number / count)
        index = tuple(
            slice(None) if axis in axes else number for axis, number in enumerate(position)
        )
        place = tuple(number for axis, number in enumerate(position) if axis not in axes)
        pull = common or route.pull(layer, place)
        plane = data[index]
        lost = plane.dtype.kind == "f" and not np.isfinite(plane).all()
        carried[index] = pull.apply(plane, order=order, cval=np.nan if lost else 0.0)
    return carried


def _lazily(
    layer: Image | Labels,
    levels: tuple[Any, ...],
    axes: tuple[int, int],
    sizes: Sequence[int],
    channels: tuple[int, ...],
    route: _Route,
    common: Transform | None,
    order: int,
) -> Any:
    """Blocks that are computed when they are looked at, from the level that suits them."""
    plane = Plane(
        name=layer.name,
        levels=levels,
        index=tuple(slice(None) if axis in axes else 0 for axis in range(layer.ndim)),
        axes=axes,
        rgb=bool(channels),
        world=np.eye(layer.ndim, layer.ndim + 1),
        world_units=tuple(layer.units),
        placed=False,
        layer_spatial={},
        display={},
    )
    grid = Grid(route.target_shape)

    def compute(position: tuple[int, ...], window: tuple[slice, slice]) -> NDArray[Any]:
        source = Source(plane.at(position))
        whole = Rescaled.of(common or route.pull(layer, position))
        return warp_window(source, whole, grid, window, order=order, nested=True)

    dtype = np.dtype(levels[0].dtype).newbyteorder("=")
    return lazy_array(sizes, axes, compute, dtype, channels)


def _carry_points(
    layer: Points, route: _Route, state: dict[str, Any], reporter: Reporter
) -> Array:
    factor = route.magnification(layer)
    state["size"] = np.asarray(state["size"]) * factor
    if not state["border_width_is_relative"]:
        state["border_width"] = np.asarray(state["border_width"]) * factor
    return route.push(layer)(layer.data)


def _carry_vectors(
    layer: Vectors, route: _Route, state: dict[str, Any], reporter: Reporter
) -> Array:
    state["edge_width"] *= route.magnification(layer)
    push = route.push(layer)
    start, step = np.asarray(layer.data, dtype=float).transpose(1, 0, 2)
    carried = push(start)
    return np.stack([carried, push(start + step, start) - carried], axis=1)


def _carry_tracks(
    layer: Tracks, route: _Route, state: dict[str, Any], reporter: Reporter
) -> Array:
    return route.push(layer)(layer.data)  # the id is the first column, before all dimensions


def _carry_shapes(
    layer: Shapes, route: _Route, state: dict[str, Any], reporter: Reporter
) -> list[Array]:
    factor = route.magnification(layer)
    state["edge_width"] = [width * factor for width in state["edge_width"]]
    push = route.push(layer)
    if (
        route.transform.displacement is None and not route.planes
    ):  # straight stays straight, an ellipse an ellipse
        return [push(vertices) for vertices in layer.data]
    columns = list(route.axes)
    carried, kinds = [], []
    for number, (vertices, kind) in enumerate(zip(layer.data, layer.shape_type, strict=True)):
        reporter.step(f"carrying over {layer.name}", number / len(layer.data))
        outline, kind = _outline(np.asarray(vertices, float), kind, columns, _CHORD / factor)
        carried.append(_simplified(push(outline), kind == "polygon", columns))
        kinds.append(kind)
    state["shape_type"] = kinds
    return carried


def _outline(vertices: Array, kind: str, columns: list[int], step: float) -> tuple[Array, str]:
    """The outline of a shape as a polygon or path whose vertices are at most `step` apart."""
    if kind == "ellipse":
        middle = vertices.mean(0)
        first, second = (vertices[1] - vertices[0]) / 2, (vertices[2] - vertices[1]) / 2
        length = 2 * np.pi * max(np.linalg.norm(first), np.linalg.norm(second))
        count = max(32, int(np.ceil(length / step)))
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
        return middle + np.cos(angle) * first + np.sin(angle) * second, "polygon"
    closed = kind in ("rectangle", "polygon")
    ends = np.roll(vertices, -1, axis=0)
    edges = list(zip(vertices, ends, strict=True))[: None if closed else -1]
    pieces = []
    for start, end in edges:
        count = max(1, int(np.ceil(np.linalg.norm((end - start)[columns]) / step)))
        pieces.append(start + np.linspace(0, 1, count, endpoint=False)[:, None] * (end - start))
    if not closed:
        pieces.append(vertices[-1:])
    return np.concatenate(pieces), "polygon" if closed else "path"


def _simplified(outline: Array, closed: bool, columns: list[int]) -> Array:
    """The outline without the vertices that are not needed."""
    others = [axis for axis in range(outline.shape[1]) if axis - outline.shape[1] not in columns]
    if np.ptp(outline[:, others], axis=0).max(initial=0) > 0:  # a path through several planes
        return outline
    flat = outline[:, columns]
    flat = approximate_polygon(np.vstack([flat, flat[:1]]) if closed else flat, _TOLERANCE)
    flat = flat[:-1] if closed else flat
    if len(flat) < (3 if closed else 2):  # smaller than the tolerance
        return outline
    simplified = np.repeat(outline[:1], len(flat), axis=0)
    simplified[:, columns] = flat
    return simplified


_WAYS: dict[type, Callable[[Any, _Route, dict[str, Any], Reporter], Any]] = {
    Image: _carry_raster,
    Labels: _carry_raster,
    Points: _carry_points,
    Shapes: _carry_shapes,
    Vectors: _carry_vectors,
    Tracks: _carry_tracks,
}
