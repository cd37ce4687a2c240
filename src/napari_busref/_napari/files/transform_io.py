"""Read transforms into napari layers, and write transforms of layers to files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.layers import Vectors
from napari.utils.notifications import show_error, show_warning

from napari_busref._napari.layers.image_grids import grid_of_plane
from napari_busref._napari.layers.pair import METADATA_KEY, Plane
from napari_busref._napari.layers.transform_layer import transform_file, transform_layer
from napari_busref._napari.widgets.words import error_text
from napari_busref.transforms.formats import files, ngff
from napari_busref.transforms.transform import EXTENSION

__all__ = [
    "get_reader",
    "import_transform",
    "read_transform",
    "write_transform",
]

_ENDING = re.compile(r"(\.busref)?\.(h5|ome\.zarr)$", re.IGNORECASE)


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[tuple[Any, dict[str, Any], str]]] | None:
    """Return `read_transform` if every path is a transform file or an OME-NGFF scene.

    Parameters
    ----------
    path : str or sequence of str

    Returns
    -------
    callable or None
    """
    return read_transform if all(map(_is_ours, _paths(path))) else None


def read_transform(path: str | Sequence[str]) -> list[tuple[Any, dict[str, Any], str]]:
    """Read transform files as Vectors layers with the transform in their metadata.

    Parameters
    ----------
    path : str or sequence of str
        Files ``.busref.h5``, and folders ``.ome.zarr`` that this package wrote.

    Returns
    -------
    list of LayerData
        Arrows of the displacement. They have the position of the fixed layer that napari saved,
        else of the fixed grid in the file. ``metadata["napari-busref"]`` holds the ``transform``
        and, where stored, ``quality``, ``parameters``, ``timings``, ``initial``, ``fixed``,
        ``moving``, ``fixed_grid``, ``moving_grid``, and ``mode`` and ``planes`` of a stack.

    Raises
    ------
    ValueError, OSError
        When a file is missing, damaged or of another program.
    """
    layers = []
    for one in _paths(path):
        try:
            layer = transform_layer(files.read_transform(one), _ENDING.sub("", Path(one).name))
        except (ValueError, OSError, ModuleNotFoundError) as error:
            show_error(error_text(error))  # napari reports only that the plugin failed
            raise
        layers.append(layer.as_layer_data_tuple())
    return layers


def write_transform(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save the transform of a layer.

    Parameters
    ----------
    path : str
        The extension selects the format, see `napari_busref.write_transform`.
    data : array_like
        Data of the layer; the transform is in its metadata.
    meta : dict
        As from `Layer.as_layer_data_tuple`.

    Returns
    -------
    list of str
        The file.

    Raises
    ------
    ValueError
        When the layer has no transform, or the path has none of the extensions.

    Notes
    -----
    A table (``.csv``) holds only the affine part; a warning reports an omitted displacement.
    """
    file = transform_file(meta, data)
    transform = file.transform
    affine_only = path.lower().endswith(".csv") and transform.displacement is not None
    own = path.lower().endswith(EXTENSION)
    written = files.write_transform(
        path,
        transform,
        fixed=file.fixed,
        moving=file.moving,
        metadata=file.metadata,
        affine_only=affine_only,
        planes=file.planes if own else None,
    )
    if affine_only:
        show_warning(
            f"{written.name} holds the affine part; the displacement field is left out. Save as "
            f"{EXTENSION}, .tfm or .nrrd to keep it."
        )
    if len(file.planes) > 1 and not own:
        show_warning(
            f"{written.name} holds the transform of the shown plane; the layers of the stack were "
            f"made by {len(file.planes)} transforms, one a plane. Save as {EXTENSION} to keep all."
        )
    return [str(written)]


def import_transform(path: str | os.PathLike[str], fixed: Plane, moving: Plane) -> Vectors:
    """Read a transform of any format as a layer on the fixed of two planes.

    Parameters
    ----------
    path : path-like
        See `napari_busref.read_transform`.
    fixed, moving : Plane
        The planes that it maps. Physical coordinates in the file are world coordinates.

    Returns
    -------
    Vectors
        Arrows on the fixed plane with the transform in their metadata, in no viewer yet.

    Raises
    ------
    ValueError, OSError, ModuleNotFoundError
        As `napari_busref.read_transform`.
    """
    file = files.read_transform(path, fixed=grid_of_plane(fixed), moving=grid_of_plane(moving))
    metadata = file.metadata | {"fixed": fixed.name, "moving": moving.name}
    layer = transform_layer(
        replace(file, metadata=metadata),
        f"{moving.name} displacement",
        axes=fixed.axes,
        **fixed.spatial,
    )
    layer.metadata[METADATA_KEY] |= {"role": "displacement", "name": layer.name}
    return layer


def _is_ours(path: str) -> bool:
    # a folder .ome.zarr may also hold an image
    name = path.lower().rstrip("/\\")
    return name.endswith(EXTENSION) or (name.endswith(ngff.SUFFIX) and ngff.is_scene(Path(path)))


def _paths(path: str | Sequence[str]) -> list[str]:
    return [os.fspath(path)] if isinstance(path, str | os.PathLike) else [str(p) for p in path]
