"""Transforms in napari's open and save: readers, writers, and how a transform becomes a layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Vectors
from napari.utils.notifications import show_warning

from napari_busref._napari.image_grids import grid_of_layer, grid_of_plane, placement
from napari_busref._napari.layers import METADATA_KEY, Plane
from napari_busref._napari.results import displacement_layer
from napari_busref.interchange import ImageGrid, TransformFile, files
from napari_busref.transform import EXTENSION, Transform

__all__ = [
    "get_reader",
    "import_transform",
    "read_transform",
    "transform_layer",
    "write_transform",
]

_SPATIAL = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
_KEPT = ("parameters", "timings", "versions", "fixed", "moving")


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[tuple[Any, dict[str, Any], str]]] | None:
    """Return `read_transform` if every path is named like a transform file.

    Parameters
    ----------
    path : str or sequence of str

    Returns
    -------
    callable or None
    """
    if all(str(one).lower().endswith(EXTENSION) for one in _paths(path)):
        return read_transform
    return None


def read_transform(path: str | Sequence[str]) -> list[tuple[Any, dict[str, Any], str]]:
    """Read transform files, each as a Vectors layer that knows its transform.

    Parameters
    ----------
    path : str or sequence of str
        Files of the extension ``.busref.h5``.

    Returns
    -------
    list of LayerData
        Arrows of the displacement, where the fixed layer was when the file was saved from napari,
        else where the file says that the fixed image lies.
        ``metadata["napari-busref"]["transform"]`` is the `Transform`; what else was known is there
        too (``quality``, ``parameters``, ``timings``, ``initial``, ``fixed``, ``moving``,
        ``fixed_grid``, ``moving_grid``).

    Raises
    ------
    ValueError, OSError
        When a file is missing, damaged or of another program.
    """
    return [
        transform_layer(
            files.read_transform(one), Path(one).name[: -len(EXTENSION)]
        ).as_layer_data_tuple()
        for one in _paths(path)
    ]


def write_transform(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save the transform that a layer of this plugin carries.

    Parameters
    ----------
    path : str
        Its extension chooses the format, see `napari_busref.write_transform`.
    data : array_like
        Not used: the dense field is in the layer's metadata.
    meta : dict
        As from `Layer.as_layer_data_tuple`.

    Returns
    -------
    list of str
        The file.

    Raises
    ------
    ValueError
        When the layer carries no transform, or the name has none of the extensions.

    Notes
    -----
    A table (``.csv``) holds the affine part only; napari warns when a displacement is left out.
    """
    known = meta.get("metadata", {}).get(METADATA_KEY, {})
    transform = known.get("transform") if isinstance(known, Mapping) else None
    if not isinstance(transform, Transform):
        raise ValueError(
            f"layer {meta.get('name', '')!r} carries no transform; save a displacement, warped or "
            "fused layer that 'Register and fuse' has made"
        )
    stored = {key: known[key] for key in ("quality", *_KEPT) if known.get(key) is not None}
    if isinstance(initial := known.get("initial"), Transform):
        stored["initial"] = initial.affine
    spatial = {key: meta[key] for key in _SPATIAL if meta.get(key) is not None}
    axes = known.get("axes", (0, 1))
    if spatial:
        spatial["units"] = [str(unit) for unit in spatial.get("units", ())]
    fixed, moving = _grids(known, transform, spatial, axes)
    if spatial and fixed.shape == _full_shape(known, transform):
        stored["napari"] = spatial | {"axes": axes}
    affine_only = path.lower().endswith(".csv") and transform.displacement is not None
    written = files.write_transform(
        path,
        transform,
        fixed=fixed,
        moving=moving,
        metadata=_plain(stored),
        affine_only=affine_only,
    )
    if affine_only:
        show_warning(
            f"{written.name} holds the affine part; the displacement field is left out. Save as "
            f"{EXTENSION}, .tfm or .nrrd to keep it."
        )
    if len(known.get("planes") or ()) > 1:
        show_warning(
            f"{written.name} holds the transform of the plane that was shown; the layers of the "
            f"stack were made by {len(known['planes'])} transforms, one a plane"
        )
    return [str(written)]


def import_transform(path: str | os.PathLike[str], fixed: Plane, moving: Plane) -> Vectors:
    """Read a transform of any format as the transform between two planes.

    Parameters
    ----------
    path : path-like
        See `napari_busref.read_transform`.
    fixed, moving : Plane
        What it maps; physical coordinates in the file are those of the viewer's world.

    Returns
    -------
    Vectors
        Arrows on the fixed plane that know the transform, in no viewer yet.

    Raises
    ------
    ValueError, OSError, ModuleNotFoundError
        As `napari_busref.read_transform`.
    """
    found = files.read_transform(path, fixed=grid_of_plane(fixed), moving=grid_of_plane(moving))
    metadata = found.metadata | {"fixed": fixed.name, "moving": moving.name}
    layer = transform_layer(
        replace(found, metadata=metadata),
        f"{moving.name} displacement",
        axes=fixed.axes,
        **fixed.spatial,
    )
    layer.metadata[METADATA_KEY] |= {"role": "displacement", "name": layer.name}
    return layer


def transform_layer(file: TransformFile, name: str, **kwargs: Any) -> Vectors:
    """A transform as arrows that know it, in no viewer yet.

    Parameters
    ----------
    file : TransformFile
        The transform and what is known of it.
    name : str
        Of the layer.
    **kwargs
        Where it lies and what its metadata says, instead of what the file says: ``scale``,
        ``translate``, ``rotate``, ``shear``, ``affine``, ``units``, ``axis_labels``, and ``axes``
        (the layer's axes that are the rows and the columns).

    Returns
    -------
    Vectors
        As `read_transform` says.
    """
    transform, stored = file.transform, file.metadata
    known: dict[str, Any] = {key: stored[key] for key in _KEPT if key in stored}
    initial = None
    if "initial" in stored:
        initial = Transform(
            np.asarray(stored["initial"], float),
            fixed_shape=transform.fixed_shape,
            moving_shape=transform.moving_shape,
        )
    spatial = kwargs or dict(stored.get("napari", {})) or placement(file.fixed)
    axes = tuple(spatial.pop("axes", (0, 1)))
    if "units" in spatial:
        spatial["units"] = spatial["units"] or None
    known |= {
        "transform": transform,
        "quality": _quality(stored.get("quality")),
        "initial": initial,
        "axes": axes,
        "fixed_grid": file.fixed.as_dict(),
        "moving_grid": file.moving.as_dict(),
    }
    return displacement_layer(
        transform,
        initial,
        transform.mask(),
        axes=axes,
        name=name,
        metadata={METADATA_KEY: known},
        **spatial,
    )


def _full_shape(known: Mapping[str, Any], transform: Transform) -> tuple[int, int]:
    """The shape of the fixed image at full resolution."""
    rescaled: Any = known.get("rescaled")
    return transform.fixed_shape if rescaled is None else rescaled.fixed_shape


def _grids(
    known: Mapping[str, Any], transform: Transform, spatial: Mapping[str, Any], axes: Any
) -> tuple[ImageGrid, ImageGrid]:
    """The grids of both images; coarser ones for a transform kept as it was found on them."""
    rescaled: Any = known.get("rescaled")
    shapes = transform.fixed_shape, transform.moving_shape
    coarse = rescaled is not None and transform.fixed_shape != rescaled.fixed_shape
    if coarse:
        shapes = rescaled.fixed_shape, rescaled.moving_shape
    fixed = _stored_grid(known.get("fixed_grid"), shapes[0])
    if fixed is None:
        fixed = grid_of_layer(shapes[0], spatial, axes)
    moving = _stored_grid(known.get("moving_grid"), shapes[1]) or ImageGrid(shapes[1])
    if not coarse:
        return fixed, moving
    return (
        ImageGrid.from_matrix(
            transform.fixed_shape, fixed.matrix @ rescaled.fixed.matrix, fixed.unit
        ),
        ImageGrid.from_matrix(
            transform.moving_shape, moving.matrix @ rescaled.moving.matrix, moving.unit
        ),
    )


def _stored_grid(stored: Any, shape: tuple[int, int]) -> ImageGrid | None:
    """The grid in a layer's metadata, if it is of the transform's image."""
    if not isinstance(stored, Mapping):
        return None
    grid = ImageGrid.from_dict(stored)
    return grid if grid.shape == shape else None


def _quality(stored: Any) -> Any:
    """Return a `Quality` if that is what was stored, else what was stored."""
    from napari_busref.quality import Quality

    if not isinstance(stored, Mapping):
        return stored
    try:
        return Quality.from_dict(stored)
    except TypeError:  # of another version
        return dict(stored)


def _plain(value: Any) -> Any:
    """What JSON can hold; NaN and infinity become null."""
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


def _paths(path: str | Sequence[str]) -> list[str]:
    return [os.fspath(path)] if isinstance(path, str | os.PathLike) else [str(p) for p in path]
