"""Convert between a layer with a transform and the content of a transform file.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from napari.layers import Vectors

from napari_busref._napari.layers.field_layers import displacement_layer
from napari_busref._napari.layers.grids import Grid, Rescaled
from napari_busref._napari.layers.image_grids import grid_of_layer, spatial_of_grid
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.planes import SPATIAL_KEYS
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.transforms.formats import ImageGrid, TransformFile, files
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
    rescaled = record.get("rescaled")
    whole = rescaled if isinstance(rescaled, Rescaled) else Rescaled.of(transform)
    # `transform` is already at full resolution where its shape is that of the image
    coarse = whole if transform.fixed_shape != whole.fixed_shape else Rescaled.of(transform)
    full = _full_grids(record, whole, spatial, axes)
    planes = record.get("planes") or {}
    if spatial and _has_pixels(data, record, axes, whole.fixed_shape):
        stored["napari"] = spatial | {"axes": axes, "position": next(iter(planes), ())}
    if coarse.transform.fixed_shape != coarse.fixed_shape:
        stored |= {
            key: grid.as_dict() for key, grid in zip(files.FULL.values(), full, strict=True)
        }
    several = {
        position: TransformFile(
            plane.transform.transform,
            *_own_grids(plane.transform, full),
            _plain({"quality": plane.quality}),
        )
        for position, plane in (planes if record.get("mode") == "each" else {}).items()
    }
    return TransformFile(transform, *_own_grids(coarse, full), _plain(stored), several)


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
    full = _stored_full(file)
    whole = _rescaled(file, full)
    initial = None
    if "initial" in stored:
        initial = Transform(
            np.asarray(stored["initial"], float),
            fixed_shape=whole.fixed_shape,
            moving_shape=whole.moving_shape,
        )
    spatial = kwargs or dict(stored.get("napari", {})) or spatial_of_grid(full[0])
    axes = tuple(spatial.pop("axes", (0, 1)))
    position = tuple(spatial.pop("position", ()))
    if "units" in spatial:
        spatial["units"] = spatial["units"] or None
    planes = {
        where: PlaneResult(
            _rescaled(one, full), _quality(one.metadata.get("quality")), one.transform.mask()
        )
        for where, one in file.planes.items()
    }
    record |= {
        "transform": transform,
        "quality": _quality(stored.get("quality")),
        "initial": initial,
        "axes": axes,
        "fixed_grid": full[0].as_dict(),
        "moving_grid": full[1].as_dict(),
    }
    if transform.fixed_shape != whole.fixed_shape:
        record["rescaled"] = whole
    if planes:
        record |= {"mode": "each", "planes": planes}
    return displacement_layer(
        whole,
        initial,
        transform.mask(),
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
    record: Mapping[str, Any], whole: Rescaled, spatial: Mapping[str, Any], axes: Any
) -> _Grids:
    """Grids of both images at full resolution, from a layer's metadata."""
    fixed = _stored_grid(record.get("fixed_grid"), whole.fixed_shape)
    if fixed is None:
        fixed = grid_of_layer(whole.fixed_shape, spatial, axes)
    moving = _stored_grid(record.get("moving_grid"), whole.moving_shape)
    return fixed, moving or ImageGrid(whole.moving_shape)


def _own_grids(transform: Rescaled, full: _Grids) -> _Grids:
    """Grids of both images at the resolution of a transform."""
    fixed, moving = (
        image
        if grid.full and grid.shape == image.shape
        else ImageGrid.from_matrix(grid.shape, image.matrix @ grid.matrix, image.unit)
        for image, grid in zip(full, (transform.fixed, transform.moving), strict=True)
    )
    return fixed, moving


def _stored_full(file: TransformFile) -> _Grids:
    """Grids of both images at full resolution, from a file."""
    fixed, moving = (
        ImageGrid.from_dict(file.metadata[key]) if key in file.metadata else own
        for key, own in zip(files.FULL.values(), (file.fixed, file.moving), strict=True)
    )
    return fixed, moving


def _rescaled(file: TransformFile, full: _Grids) -> Rescaled:
    """Wrap the transform of a file for images on the `full` grids."""
    grids: list[Grid] = []
    for name, own, image in zip(("fixed", "moving"), (file.fixed, file.moving), full, strict=True):
        matrix = np.linalg.solve(image.matrix, own.matrix)
        grid = Grid(own.shape, (round(matrix[0, 0], 9), round(matrix[1, 1], 9)))
        if not np.allclose(grid.matrix, matrix, atol=1e-6):
            raise ValueError(f"{name}: the grid of the transform does not cover its image")
        grids.append(grid)
    fixed, moving = grids
    return Rescaled(file.transform, fixed, moving, full[0].shape, full[1].shape)


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
