"""Layers on the map: where their files place them, and moving one there. Needs no Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_busref._napari.layers.image_grids import spatial_of_grid
from napari_busref._napari.layers.pair import shown_plane, world_affine
from napari_busref.images.io import ImageFile
from napari_busref.images.tiff import read_geotags
from napari_busref.transforms.formats import ImageGrid
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

__all__ = ["MapPlace", "geotags", "map_place"]

_SUFFIXES = (".tif", ".tiff", ".btf")
_NEAR = 0.5  # pixels; nearer, a layer lies where the map says


@dataclass(frozen=True)
class MapPlace:
    """Where two layers lie on the map.

    Attributes
    ----------
    crs, words : str
        The names of both CRS; and with the sizes of their pixels.
    move : callable
        Moves the moving layer to its place on the fixed one.
    """

    crs: str
    words: str
    move: Callable[[], None]


def map_place(viewer: ViewerModel, fixed: Image, moving: Image) -> MapPlace | None:
    """Find where two layers lie on the map.

    Parameters
    ----------
    viewer : ViewerModel
    fixed, moving : Image

    Returns
    -------
    MapPlace or None
        None where a layer is no flat picture or its file has no position, where they lie apart or
        already as the map says, and without rasterio.
    """
    from napari_busref.transforms.map_transform import map_transform

    one, other = _file(fixed), _file(moving)
    if one is None or other is None:
        return None
    try:
        transform = map_transform(one, other)
        planes = [shown_plane(layer, viewer) for layer in (fixed, moving)]
        found = Transform(
            world_affine(*planes), fixed_shape=planes[0].shape, moving_shape=planes[1].shape
        )
    except (ValueError, ModuleNotFoundError):
        return None
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * planes[0].shape
    if transform is None or np.allclose(
        transform.points(corners), found.points(corners), rtol=0, atol=_NEAR
    ):
        return None

    def move() -> None:
        world = np.vstack([planes[0].matrix, [0, 0, 1]]) @ np.linalg.inv(transform.affine)
        place = spatial_of_grid(ImageGrid.from_matrix(planes[1].shape, world))
        moving.units = fixed.units
        moving.affine = place.pop("affine", np.eye(3))
        moving.rotate, moving.shear, moving.translate = np.eye(2), (0,), (0, 0)
        for name, value in place.items():
            setattr(moving, name, value)

    here, there = one.map_position, other.map_position
    assert here is not None and there is not None  # else there is no transform
    crs = here.name if here.name == there.name else f"{there.name} on {here.name}"
    return MapPlace(crs, f"{moving.name}: {there}; {fixed.name}: {here}", move)


def geotags(layer: Any) -> dict[str, Any]:
    """Return the geotags of a layer's file, as of `ImageFile`; empty without a map position."""
    metadata = layer.metadata.get("image_file")
    path = Path(layer.source.path or "")
    if metadata is None and path.suffix.lower() in _SUFFIXES:
        try:
            metadata = {"geotiff": read_geotags(path)}
        except Exception:  # the layer is there, whatever became of its file
            return {}
    return dict((metadata or {}).get("geotiff") or {})


def _file(layer: Any) -> ImageFile | None:
    """The tags of a layer's file with the layer's pixels; None without a map position."""
    if layer.multiscale or layer.ndim != 2:
        return None
    tags = geotags(layer)
    if not tags:
        return None
    metadata = layer.metadata.get("image_file") or {"geotiff": tags}
    return ImageFile(layer.data, metadata, axes="YXS"[: layer.ndim + bool(layer.rgb)])
