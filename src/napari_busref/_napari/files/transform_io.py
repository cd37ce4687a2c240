"""Transforms in napari's open and save: readers, writers, and how a transform becomes a layer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.layers import Vectors
from napari.utils.notifications import show_error, show_warning

from napari_busref._napari.files.transform_layer import transform_file, transform_layer
from napari_busref._napari.layers.image_grids import grid_of_plane
from napari_busref._napari.layers.pair import METADATA_KEY, Plane
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
    """Return `read_transform` if every path is a transform file, or a scene of OME-NGFF.

    Parameters
    ----------
    path : str or sequence of str

    Returns
    -------
    callable or None
    """
    return read_transform if all(map(_is_ours, _paths(path))) else None


def read_transform(path: str | Sequence[str]) -> list[tuple[Any, dict[str, Any], str]]:
    """Read transform files, each as a Vectors layer that knows its transform.

    Parameters
    ----------
    path : str or sequence of str
        Files of the extension ``.busref.h5``, folders ``.ome.zarr`` that this package wrote.

    Returns
    -------
    list of LayerData
        Arrows of the displacement, where the fixed layer was when the file was saved from napari,
        else where the file says that the fixed image lies.
        ``metadata["napari-busref"]["transform"]`` is the `Transform`; what else was known is there
        too (``quality``, ``parameters``, ``timings``, ``initial``, ``fixed``, ``moving``,
        ``fixed_grid``, ``moving_grid``, and of a stack ``mode`` and ``planes``).

    Raises
    ------
    ValueError, OSError
        When a file is missing, damaged or of another program.
    """
    found = []
    for one in _paths(path):
        try:
            layer = transform_layer(files.read_transform(one), _ENDING.sub("", Path(one).name))
        except (ValueError, OSError, ModuleNotFoundError) as error:
            show_error(error_text(error))  # napari says only that the plugin has failed
            raise
        found.append(layer.as_layer_data_tuple())
    return found


def write_transform(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save the transform that a layer of this plugin carries.

    Parameters
    ----------
    path : str
        Its extension chooses the format, see `napari_busref.write_transform`.
    data : array_like
        Of the layer. The dense field is in its metadata.
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
            f"{written.name} holds the transform of the plane that was shown; the layers of the "
            f"stack were made by {len(file.planes)} transforms, one a plane. Save as {EXTENSION} "
            "to keep them all."
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


def _is_ours(path: str) -> bool:
    # images are in folders of that name, too
    name = path.lower().rstrip("/\\")
    return name.endswith(EXTENSION) or (name.endswith(ngff.SUFFIX) and ngff.is_scene(Path(path)))


def _paths(path: str | Sequence[str]) -> list[str]:
    return [os.fspath(path)] if isinstance(path, str | os.PathLike) else [str(p) for p in path]
