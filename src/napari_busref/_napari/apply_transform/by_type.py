"""Apply a transform to a layer of each type: resample its pixels, or map its positions.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer, Points, Shapes, Tracks, Vectors
from numpy.typing import NDArray
from skimage.measure import approximate_polygon

from napari_busref._napari.apply_transform.pixel_mapping import Array, PixelMapping
from napari_busref._napari.layers.lazy import Source, lazy_array, warp_window
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.planes import Plane
from napari_busref.images.dtypes import checked_fill
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

__all__ = ["LAYER_TYPES", "apply_to_layer"]

#: Types of layers to which a transform applies.
LAYER_TYPES = (Image, Labels, Points, Shapes, Vectors, Tracks)

_VERTEX_SPACING = 2.0  # target pixels between vertices of an outline before simplification
_OUTLINE_TOLERANCE = 0.05  # target pixels between a simplified outline and the exact one


def apply_to_layer(
    layer: Layer, mapping: PixelMapping, reporter: Reporter, fill_value: float | None = None
) -> Layer:
    """Return a layer on the target image, in no viewer yet.

    Raises
    ------
    ValueError
        As `napari_busref.apply_transform`.
    """
    apply = next((one for kind, one in _BY_TYPE.items() if isinstance(layer, kind)), None)
    if apply is None:
        accepted = ", ".join(kind.__name__ for kind in LAYER_TYPES)
        raise ValueError(
            f"layer {layer.name!r} is a {layer.__class__.__name__} layer; accepted are {accepted}"
        )
    reporter.step(_stage(layer), 0.0)
    _, state, kind = layer.as_layer_data_tuple()
    metadata = {
        key: value
        for key, value in state.pop("metadata").items()
        if not str(key).startswith(METADATA_KEY)
    }
    state.pop("experimental_clipping_planes", None)  # they are in pixels of the source
    state = deepcopy(state) | mapping.spatial(layer)
    name = f"{layer.name} on {mapping.target_name}"
    state["name"] = name
    record = mapping.names | {"role": "transformed", "name": name, "source": layer.name}
    state["metadata"] = metadata | {METADATA_KEY: record}
    if isinstance(layer, Image):
        data = _resample(layer, mapping, state, reporter, fill_value)
    else:
        data = apply(layer, mapping, state, reporter)
    reporter.step(_stage(layer), 1.0)
    return Layer.create(data, state, kind)


def _stage(layer: Layer) -> str:
    return f"applying the transform to {layer.name}"


def _resample(
    layer: Image | Labels,
    mapping: PixelMapping,
    state: dict[str, Any],
    reporter: Reporter,
    fill_value: float | None = None,
) -> Any:
    state["multiscale"] = False
    order = 0 if isinstance(layer, Labels) else 1
    levels = tuple(layer.data) if layer.multiscale else (layer.data,)
    axes = (mapping.axes[0] + layer.ndim, mapping.axes[1] + layer.ndim)
    sizes = [int(size) for size in levels[0].shape[: layer.ndim]]
    channels = tuple(levels[0].shape[layer.ndim :])
    hidden = [1 if axis in axes else size for axis, size in enumerate(sizes)]
    sizes[axes[0]], sizes[axes[1]] = mapping.target_shape
    common = None if mapping.planes else mapping.pull(layer)
    fill = checked_fill(fill_value, np.dtype(levels[0].dtype), "fill_value")
    if len(levels) > 1 or type(levels[0]) is not np.ndarray or not mapping.fits:
        return _resample_lazily(layer, levels, axes, sizes, channels, mapping, common, order, fill)
    data = levels[0]
    result = np.empty((*sizes, *channels), data.dtype.newbyteorder("="))
    count = int(np.prod(hidden))
    for number, position in enumerate(np.ndindex(*hidden)):
        reporter.step(_stage(layer), number / count)
        index = tuple(
            slice(None) if axis in axes else number for axis, number in enumerate(position)
        )
        at = tuple(number for axis, number in enumerate(position) if axis not in axes)
        pull = common or mapping.pull(layer, at)
        result[index] = pull.apply(data[index], order=order, cval=fill)
    return result


def _resample_lazily(
    layer: Image | Labels,
    levels: tuple[Any, ...],
    axes: tuple[int, int],
    sizes: Sequence[int],
    channels: tuple[int, ...],
    mapping: PixelMapping,
    common: Transform | None,
    order: int,
    fill: float,
) -> Any:
    """Resample block by block, when a viewer needs a block."""
    plane = Plane(
        name=layer.name,
        levels=levels,
        index=tuple(slice(None) if axis in axes else 0 for axis in range(layer.ndim)),
        axes=axes,
        rgb=bool(channels),
        world=np.eye(layer.ndim, layer.ndim + 1),
        world_units=tuple(layer.units),
        positioned=False,
        layer_spatial={},
        display={},
    )
    grid = Grid(mapping.target_shape)

    def compute(position: tuple[int, ...], window: tuple[slice, slice]) -> NDArray[Any]:
        source = Source(plane.at(position))
        pull = common or mapping.pull(layer, position)
        return warp_window(source, pull, grid, window, order=order, cval=fill, nested=True)

    dtype = np.dtype(levels[0].dtype).newbyteorder("=")
    return lazy_array(sizes, axes, compute, dtype, channels)


def _map_points(
    layer: Points, mapping: PixelMapping, state: dict[str, Any], reporter: Reporter
) -> Array:
    factor = mapping.magnification(layer)
    state["size"] = np.asarray(state["size"]) * factor
    if not state["border_width_is_relative"]:
        state["border_width"] = np.asarray(state["border_width"]) * factor
    return mapping.push(layer)(layer.data)


def _map_vectors(
    layer: Vectors, mapping: PixelMapping, state: dict[str, Any], reporter: Reporter
) -> Array:
    state["edge_width"] *= mapping.magnification(layer)
    push = mapping.push(layer)
    start, step = np.asarray(layer.data, dtype=float).transpose(1, 0, 2)
    begin = push(start)
    return np.stack([begin, push(start + step, start) - begin], axis=1)


def _map_tracks(
    layer: Tracks, mapping: PixelMapping, state: dict[str, Any], reporter: Reporter
) -> Array:
    return mapping.push(layer)(layer.data)  # the first column, before all dimensions, is the id


def _map_shapes(
    layer: Shapes, mapping: PixelMapping, state: dict[str, Any], reporter: Reporter
) -> list[Array]:
    factor = mapping.magnification(layer)
    state["edge_width"] = [width * factor for width in state["edge_width"]]
    push = mapping.push(layer)
    if mapping.is_affine:  # an ellipse stays an ellipse
        return [push(vertices) for vertices in layer.data]
    columns = list(mapping.axes)
    outlines, kinds = [], []
    for number, (vertices, kind) in enumerate(zip(layer.data, layer.shape_type, strict=True)):
        reporter.step(_stage(layer), number / len(layer.data))
        outline, kind = _outline(
            np.asarray(vertices, float), kind, columns, _VERTEX_SPACING / factor
        )
        outlines.append(_simplified(push(outline), kind == "polygon", columns))
        kinds.append(kind)
    state["shape_type"] = kinds
    return outlines


def _outline(vertices: Array, kind: str, columns: list[int], step: float) -> tuple[Array, str]:
    """Outline of a shape as a polygon or path with vertices at most `step` apart."""
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
    """Remove the vertices of an outline that lie within the tolerance."""
    others = [axis for axis in range(outline.shape[1]) if axis - outline.shape[1] not in columns]
    if np.ptp(outline[:, others], axis=0).max(initial=0) > 0:  # a path through several planes
        return outline
    flat = outline[:, columns]
    flat = approximate_polygon(np.vstack([flat, flat[:1]]) if closed else flat, _OUTLINE_TOLERANCE)
    flat = flat[:-1] if closed else flat
    if len(flat) < (3 if closed else 2):  # smaller than the tolerance
        return outline
    simplified = np.repeat(outline[:1], len(flat), axis=0)
    simplified[:, columns] = flat
    return simplified


_BY_TYPE: dict[type, Callable[[Any, PixelMapping, dict[str, Any], Reporter], Any]] = {
    Image: _resample,
    Labels: _resample,
    Points: _map_points,
    Shapes: _map_shapes,
    Vectors: _map_vectors,
    Tracks: _map_tracks,
}
