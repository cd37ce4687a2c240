"""Open image files as napari layers where napari's reader differs. Needs no Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from napari_busref.images.io import READABLE, ImageFile, read_image
from napari_busref.images.large import LargeImage, Level, large_image, open_image
from napari_busref.images.uri import is_ome_zarr, stem
from napari_busref.transforms.formats.grid import METRES, unit_name
from napari_busref.transforms.formats.ngff import is_scene

__all__ = ["get_image_reader", "read_images"]

LayerData = tuple[Any, dict[str, Any], str]


def get_image_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return `read_images` if every path has an extension that `read_image` accepts."""
    accepted = all(
        Path(one).suffix.lower() in READABLE or (is_ome_zarr(one) and not is_scene(Path(one)))
        for one in _paths(path)
    )
    return read_images if accepted else None


def read_images(path: str | Sequence[str]) -> list[LayerData]:
    """Read images upright, with missing pixels as NaN, pixel size and unit.

    A thermal JPEG of FLIR becomes two layers: temperatures in °C, and its visible picture.
    Channels become one layer each. OME-Zarr, and TIFF above 4096 x 4096 px, become one layer with
    their levels, of which napari reads what it shows.

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
        large = open_image(one) if is_ome_zarr(one) else large_image(one)
        if large is not None:
            layers.append(_large_layer(large))
            continue
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


def _large_layer(image: LargeImage) -> LayerData:
    """A layer of all levels; dask arrays read the blocks that napari shows."""
    # a name of its own, because dask would else read the pixels to find one
    levels = [
        da.from_array(_Filled(level), level.chunks, name=f"{uuid4().hex}", meta=_nothing(level))
        for level in image.levels
    ]
    data: Any = levels if len(levels) > 1 else levels[0]
    options: dict[str, Any] = {
        "name": stem(Path(image.uri)),
        "metadata": {"image_file": dict(image.metadata)},
        "multiscale": len(levels) > 1,
        "rgb": bool(image.channels),
    }
    if not image.channels:
        coarse = _with_nan(levels[-1].compute())
        finite = coarse[np.isfinite(coarse)]
        ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        whole = (0.0, 255.0) if image.dtype == np.uint8 else ends
        options["contrast_limits"] = whole if whole[1] > whole[0] else (whole[0], whole[0] + 1)
    spacing, unit = image.metadata.get("spacing"), image.metadata.get("unit")
    if spacing is not None:
        options["scale"] = tuple(spacing)
        if unit_name(unit) in METRES:
            options["units"] = (unit_name(unit),) * 2
    return data, options, "image"


class _Filled:
    """A level whose missing pixels are NaN in floats, and have their own value in integers."""

    def __init__(self, level: Level) -> None:
        self.level, self.shape, self.dtype, self.ndim = level, level.shape, level.dtype, level.ndim

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.ma.getdata(self.level[index])


def _nothing(level: Level) -> NDArray[Any]:
    return np.empty((0,) * level.ndim, level.dtype)


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
