"""Pairs on the map: where a registration starts, and files for GIS."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_busref.data.pairing import Pair
    from napari_busref.images.io import ImageFile
    from napari_busref.images.map_position import MapPosition
    from napari_busref.transforms.transform import Transform

__all__ = ["MAP_FILES", "start_on_map", "write_map_files"]

#: What the names of the files for GIS have after the stem; the virtual rasters need a moving file
#: that GDAL reads.
MAP_FILES = ("_tiepoints.csv", "_tiepoints.geojson", "_displacement.tif")

_log = logging.getLogger("napari_busref")


def start_on_map(pair: Pair, fixed: ImageFile, moving: ImageFile) -> Transform | None:
    """Return the transform that the map positions of a pair define.

    Returns
    -------
    Transform or None
        None where an image has no position, where the two lie apart, or without rasterio. The
        last two log a line.

    Raises
    ------
    ValueError
        Naming the file whose coordinate reference system PROJ does not know.
    """
    from napari_busref.images.map_position import has_map_position
    from napari_busref.transforms.map_transform import Apart, map_transform

    if not (has_map_position(fixed.metadata) and has_map_position(moving.metadata)):
        return None
    try:
        for path, image in ((pair.fixed, fixed), (pair.moving, moving)):
            _position(path, image)
        return map_transform(fixed, moving)
    except Apart as error:
        _log.warning(f"{pair.name}: {error}; the map is ignored")
    except ModuleNotFoundError as error:
        _log.info(f"{pair.name}: {error}, to start where the images lie on the map")
    return None


def write_map_files(
    pair: Pair, folder: Path, fixed: ImageFile, moving: ImageFile, transform: Transform
) -> dict[str, Path]:
    """Write tie points, the displacement and virtual rasters; return their paths by name.

    Raises
    ------
    ValueError
        When the fixed image has no map position.
    ModuleNotFoundError
        Without rasterio.
    """
    from napari_busref.transforms.formats import map_files

    here = _position(pair.fixed, fixed)
    if here is None:
        raise ValueError(f"--map-files: {pair.fixed} has no map position, need a GeoTIFF")
    there = _position(pair.moving, moving)
    names = ("tie_points", "tie_points_geojson", "displacement")
    paths = {
        name: folder / f"{pair.name}{end}" for name, end in zip(names, MAP_FILES, strict=True)
    }
    for name in names[:2]:
        map_files.write_tie_points(paths[name], transform, here, there)
    map_files.write_displacement_map(paths["displacement"], transform, here)
    virtual = {"gcps": map_files.write_gcp_vrt, "map": map_files.write_warped_vrt}
    for name, write in virtual.items():
        try:
            path = folder / f"{pair.name}_{name}.vrt"
            paths[f"{name}_vrt"] = write(path, transform, pair.moving, here)
        except ValueError as error:
            _log.warning(f"{pair.name}: no {name} for GIS: {error}")
    return paths


def _position(path: Path, image: ImageFile) -> MapPosition | None:
    try:
        return image.map_position
    except ValueError as error:
        raise ValueError(f"{path}: {error}; --ignore-map leaves the map out") from None
