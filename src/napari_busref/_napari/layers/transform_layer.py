"""Convert between a layer with a transform and the content of a transform file.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from napari.layers import Vectors
from numpy.typing import NDArray

from napari_busref._napari.layers.field_layers import displacement_layer
from napari_busref._napari.layers.image_grids import grid_of_layer, spatial_of_grid
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.planes import SPATIAL_KEYS
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.transforms.formats import ImageGrid, TransformFile
from napari_busref.transforms.grids import FIELD_BUDGET, Grid
from napari_busref.transforms.levels import onto_levels
from napari_busref.transforms.transform import Transform

__all__ = ["transform_file", "transform_layer"]

_KEPT = ("parameters", "timings", "versions", "fixed", "moving")
_Grids = tuple[ImageGrid, ImageGrid]


def transform_file(meta: Mapping[str, Any], data: Any = None) -> TransformFile:
    """Return the content of a file for the transform of a layer.

    Parameters
    ----------
    meta : mapping
        As from `Layer.as_layer_data_tuple`.
    data : array_like, optional
        Data of the layer. The position of a layer is saved only if its pixels are those of the
        fixed image.

    Returns
    -------
    TransformFile
        With all planes of a stack that was registered plane by plane.

    Raises
    ------
    ValueError
        When the layer has no transform.
    """
    record = meta.get("metadata", {}).get(METADATA_KEY, {})
    transform = record.get("transform") if isinstance(record, Mapping) else None
    if not isinstance(transform, Transform):
        raise ValueError(
            f"layer {meta.get('name', '')!r} has no transform; save a displacement, warped or "
            "fused layer from 'Register and fuse'"
        )
    stored = {key: record[key] for key in ("quality", *_KEPT) if record.get(key) is not None}
    if isinstance(initial := record.get("initial"), Transform):
        stored["initial"] = initial.affine
    axes = record.get("axes", (0, 1))
    spatial = {key: meta[key] for key in SPATIAL_KEYS if meta.get(key) is not None}
    if spatial:
        spatial["units"] = [str(unit) for unit in spatial.get("units", ())]
    full = _full_grids(record, transform, spatial, axes)
    planes = record.get("planes") or {}
    if spatial and _has_pixels(data, record, axes, transform.fixed_shape):
        stored["napari"] = spatial | {"axes": axes, "position": next(iter(planes), ())}
    several = {
        position: TransformFile(plane.transform, *full, _plain({"quality": plane.quality}))
        for position, plane in (planes if record.get("mode") == "each" else {}).items()
    }
    return TransformFile(transform, *full, _plain(stored), several)


def transform_layer(file: TransformFile, name: str, **kwargs: Any) -> Vectors:
    """Return arrows with a transform in their metadata, in no viewer yet.

    Parameters
    ----------
    file : TransformFile
    name : str
        Of the layer.
    **kwargs
        Position of the layer instead of the one in the file: ``scale``, ``translate``,
        ``rotate``, ``shear``, ``affine``, ``units``, ``axis_labels``, and ``axes``, the layer's
        axes of rows and columns.

    Returns
    -------
    Vectors
        As from `read_transform`.
    """
    transform, stored = file.transform, file.metadata
    record: dict[str, Any] = {key: stored[key] for key in _KEPT if key in stored}
    initial = None
    if "initial" in stored:
        initial = Transform(
            np.asarray(stored["initial"], float),
            fixed_shape=transform.fixed_shape,
            moving_shape=transform.moving_shape,
        )
    spatial = kwargs or dict(stored.get("napari", {})) or spatial_of_grid(file.fixed)
    axes = tuple(spatial.pop("axes", (0, 1)))
    position = tuple(spatial.pop("position", ()))
    if "units" in spatial:
        spatial["units"] = spatial["units"] or None
    planes = {
        where: PlaneResult(
            one.transform, _quality(one.metadata.get("quality")), _mask(one.transform)
        )
        for where, one in file.planes.items()
    }
    record |= {
        "transform": transform,
        "quality": _quality(stored.get("quality")),
        "initial": initial,
        "axes": axes,
        "fixed_grid": file.fixed.as_dict(),
        "moving_grid": file.moving.as_dict(),
    }
    if planes:
        record |= {"mode": "each", "planes": planes}
    return displacement_layer(
        transform,
        initial,
        _mask(transform),
        axes=axes,
        position=position,
        others=[
            (where, one.transform, one.mask) for where, one in planes.items() if where != position
        ],
        name=name,
        metadata={METADATA_KEY: record},
        **spatial,
    )


def _has_pixels(
    data: Any, record: Mapping[str, Any], axes: Sequence[int], shape: tuple[int, int]
) -> bool:
    """Whether a layer has the pixels of the fixed image; those made of a large image may not."""
    if record.get("role") not in ("fused", "mask", "magnitude") or data is None:
        return True
    sizes = np.shape(data[0] if isinstance(data, list | tuple) else data)
    return tuple(sizes[axis] for axis in axes) == shape


def _full_grids(
    record: Mapping[str, Any], transform: Transform, spatial: Mapping[str, Any], axes: Any
) -> _Grids:
    """Grids of both images at full resolution, from a layer's metadata."""
    fixed = _stored_grid(record.get("fixed_grid"), transform.fixed_shape)
    if fixed is None:
        fixed = grid_of_layer(transform.fixed_shape, spatial, axes)
    moving = _stored_grid(record.get("moving_grid"), transform.moving_shape)
    return fixed, moving or ImageGrid(transform.moving_shape)


def _mask(transform: Transform) -> NDArray[np.bool_]:
    """The reconstructible mask, of a large image on a coarser grid."""
    level = Grid(transform.fixed_shape).coarser(FIELD_BUDGET)
    return onto_levels(transform, level, Grid(transform.moving_shape)).mask()


def _stored_grid(stored: Any, shape: tuple[int, int]) -> ImageGrid | None:
    """Grid in a layer's metadata, if it has the shape of the transform's image."""
    if not isinstance(stored, Mapping):
        return None
    grid = ImageGrid.from_dict(stored)
    return grid if grid.shape == shape else None


def _quality(stored: Any) -> Any:
    """Rebuild a `Quality`; return other content unchanged."""
    from napari_busref.registration.quality import Quality

    if not isinstance(stored, Mapping):
        return stored
    try:
        return Quality.from_dict(stored)
    except TypeError:  # another version stored other fields
        return dict(stored)


def _plain(value: Any) -> Any:
    """Convert to what JSON can hold; NaN and infinity become null."""
    if is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, Transform):
            return {"affine": _plain(value.affine)}
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
