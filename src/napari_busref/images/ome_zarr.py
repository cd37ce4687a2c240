"""Read the metadata and levels of OME-Zarr images, versions 0.4 and 0.5."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.selection import Stored
from napari_busref.images.stored_levels import StoredLevels
from napari_busref.images.uri import local_path
from napari_busref.runtime.file_safety import Refused, check_inside

__all__ = ["COLOURS", "OWN", "UNITS", "open_ome_zarr"]

#: Attribute of this program beside ``ome``, for what the format has no place for.
OWN = "napari-busref"
#: Length units of the format and of `ImageFile`.
UNITS = {
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "inch": "inch",
}
#: Colours of the channels of a colour image, in ``omero``.
COLOURS = ("FF0000", "00FF00", "0000FF")
_LETTERS = {"time": "T", "channel": "C", "space": ""}


def open_ome_zarr(uri: str) -> StoredLevels:
    """Open the image of an OME-Zarr folder.

    Parameters
    ----------
    uri : str
        Local folder, or a URL.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ValueError
        When it holds no image, or levels that do not belong together.
    ModuleNotFoundError
        Without zarr.
    """
    from napari_busref.images.zarr_store import open_group

    group, store = open_group(uri)
    try:
        attributes = dict(group.attrs)
        if "bioformats2raw.layout" in attributes.get("ome", attributes):
            group = group["0"]
            attributes = dict(group.attrs)
        ome = attributes.get("ome", attributes)
        image = _image(ome, uri)
        arrays = []
        for dataset in image["datasets"]:
            arrays.append(_array(group, str(dataset["path"]), uri))
            store.admit(arrays[-1])
        axes = "".join(_letter(axis) for axis in image["axes"])
        if any(len(array.shape) != len(axes) for array in arrays):
            raise ValueError(f"path: {uri} has axes {axes} and arrays of other dimensions")
        colour = _colour_axis(axes, arrays[0].shape, ome.get("omero"))
        metadata = _spatial(image, axes) | _own(attributes)
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"path: {uri} is damaged ({type(error).__name__}: {error}), need an OME-Zarr image"
        ) from error

    def meant(block: NDArray[Any], letters: str) -> Stored:
        if "S" in letters:
            at = letters.index("S")
            block, letters = np.moveaxis(block, at, -1), letters.replace("S", "") + "S"
        return Stored(block, letters, metadata)

    if colour is not None:
        axes = axes[:colour] + "S" + axes[colour + 1 :]
    return StoredLevels(tuple(arrays), axes, meant)


def _image(ome: Mapping[str, Any], uri: str) -> Mapping[str, Any]:
    if "multiscales" in ome:
        image: Mapping[str, Any] = ome["multiscales"][0]
        return image
    for what, words in (
        ("scene", "a transform, which --initial and read_transform take"),
        ("plate", "a plate of several images; give the folder of one of them"),
    ):
        if what in ome:
            raise ValueError(f"path: {uri} holds {words}")
    raise ValueError(f"path: {uri} holds no OME-Zarr image: it has no multiscales")


def _array(group: Any, part: str, uri: str) -> Any:
    folder = local_path(uri)
    if folder is not None:
        check_inside(folder / group.path if group.path else folder, part, folder)
    elif ".." in part.split("/") or part.startswith("/"):
        raise Refused(f"path: {uri} names {part!r}, which lies outside the folder")
    array = group[part]
    if not hasattr(array, "shape"):
        raise ValueError(f"path: {uri}: {part} is no array")
    return array


def _letter(axis: Any) -> str:
    name, kind = str(axis["name"]), axis.get("type")
    letter = _LETTERS.get(str(kind), "") or name[:1].upper()
    return letter if letter in "TCZYX" else "I"


def _colour_axis(axes: str, shape: tuple[int, ...], omero: Any) -> int | None:
    """The axis of channels that are red, green, blue (and alpha) by their colours."""
    if "C" not in axes or not isinstance(omero, Mapping):
        return None
    channels = omero.get("channels") or []
    count = shape[axes.index("C")]
    named = tuple(str(channel.get("color", "")).upper() for channel in channels)
    opaque = count == 4 and len(channels) == 4 and channels[3].get("label") == "alpha"
    if named[:3] == COLOURS and len(named) == count and (count == 3 or opaque):
        return axes.index("C")
    return None


def _spatial(image: Mapping[str, Any], axes: str) -> dict[str, Any]:
    """Pixel size and unit of the finest level."""
    scale = np.ones(len(axes))
    steps = [*image["datasets"][0].get("coordinateTransformations", ())]
    steps += image.get("coordinateTransformations", ())
    for step in steps:
        if step.get("type") == "scale":
            scale = scale * np.asarray(step["scale"], float)
    units = [UNITS.get(str(axis.get("unit", ""))) for axis in image["axes"]]
    found: dict[str, Any] = {}
    at = axes.index("Y"), axes.index("X")
    if units[at[0]] and units[at[0]] == units[at[1]] and (scale > 0).all():
        found = {"spacing": (float(scale[at[0]]), float(scale[at[1]])), "unit": units[at[0]]}
    if "Z" in axes and units[axes.index("Z")]:
        found |= {"z_spacing": float(scale[axes.index("Z")]), "z_unit": units[axes.index("Z")]}
    return found


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Geotags and the value of missing pixels, as `napari_busref.images.pyramid` stores them."""
    own = attributes.get(OWN)
    found: dict[str, Any] = {}
    if not isinstance(own, Mapping):
        return found
    geo, nodata = own.get("geotiff"), own.get("nodata")
    if isinstance(geo, Mapping) and len(json.dumps(geo)) < 1 << 16:
        found["geotiff"] = dict(geo)
    if isinstance(nodata, int | float) and not isinstance(nodata, bool):
        found["nodata"] = float(nodata)
    elif nodata == "NaN":
        found["nodata"] = float("nan")
    return found
