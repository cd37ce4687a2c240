"""Open image files as napari layers where napari's reader differs. Needs no Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.io import READABLE, ImageFile, read_image
from napari_busref.transforms.formats.grid import METRES, unit_name

__all__ = ["get_image_reader", "read_images"]

LayerData = tuple[Any, dict[str, Any], str]


def get_image_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return `read_images` if every path has an extension that `read_image` accepts."""
    accepted = all(Path(one).suffix.lower() in READABLE for one in _paths(path))
    return read_images if accepted else None


def read_images(path: str | Sequence[str]) -> list[LayerData]:
    """Read images upright, with missing pixels as NaN, pixel size and unit.

    A thermal JPEG of FLIR becomes two layers: temperatures in °C, and its visible picture.
    Channels become one layer each.

    Parameters
    ----------
    path : str or sequence of str

    Raises
    ------
    ValueError, OSError
        As `napari_busref.read_image`.
    """
    layers = []
    for one in _paths(path):
        found, name = read_image(one), Path(one).stem
        layers.append(_layer(found, name))
        if "thermal" in found.metadata and "page 3" in found.note:
            layers.append(_layer(read_image(one, page=2), f"{name} visible"))
    return layers


def _layer(found: ImageFile, name: str) -> LayerData:
    data, axes = _with_nan(found.data), found.axes
    options: dict[str, Any] = {"name": name, "metadata": {"image_file": found.metadata}}
    spatial = axes
    if axes.endswith("YXS"):
        options["rgb"], spatial = True, axes[:-1]
    elif "C" in axes:
        options["channel_axis"], spatial = axes.index("C"), axes.replace("C", "")
        options["name"] = [f"{name} {i + 1}" for i in range(data.shape[axes.index("C")])]
    if found.metadata.get("value_unit"):
        options["colormap"] = "inferno"
    spacing, unit = found.metadata.get("spacing"), found.metadata.get("unit")
    if spacing is not None and spatial.endswith("YX"):
        depth, depth_unit = found.metadata.get("z_spacing"), found.metadata.get("z_unit")
        steep = [letter == "Z" and depth is not None for letter in spatial[:-2]]
        options["scale"] = (*(depth if one else 1.0 for one in steep), *spacing)
        if unit_name(unit) in METRES:
            along = (unit_name(depth_unit) if one else "pixel" for one in steep)
            options["units"] = (*along, *(unit_name(unit),) * 2)
    return data, options, "image"


def _with_nan(data: NDArray[Any]) -> NDArray[Any]:
    """Masked integers as float, because layers hold no mask."""
    if not isinstance(data, np.ma.MaskedArray):
        return data
    if data.ndim == 3 and data.shape[-1] in (3, 4) and data.dtype == np.uint8:
        alpha = np.where(np.ma.getmaskarray(data)[..., :3].any(-1), 0, 255).astype(np.uint8)
        return np.dstack([np.ma.getdata(data)[..., :3], alpha])
    kind = np.float32 if data.dtype.itemsize <= 2 else np.float64
    return np.ma.filled(data.astype(kind), np.nan)


def _paths(path: str | Sequence[str]) -> list[str]:
    return [path] if isinstance(path, str) else list(path)
