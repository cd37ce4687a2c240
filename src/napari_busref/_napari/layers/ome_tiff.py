"""Save images from napari with pixel size and unit, as OME-TIFF. Needs no Qt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_busref._napari.layers.image_grids import grid_of_layer
from napari_busref.runtime.atomic_write import replacing
from napari_busref.transforms.formats.grid import METRES, unit_name

__all__ = ["write_ome_channels", "write_ome_pages", "write_ome_tiff"]

_UNITS = {
    "angstrom": "Å",
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "decimeter": "dm",
    "meter": "m",
    "kilometer": "km",
    "inch": "in",
    "foot": "ft",
    "yard": "yd",
    "mile": "mi",
}
_EXTENSIONS = (".ome.tif", ".ome.tiff")


def write_ome_tiff(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save an image or labels layer with pixel size and unit.

    Parameters
    ----------
    path : str
        Ends in ``.ome.tif`` or ``.ome.tiff``.
    data : array_like
        ``(H, W)``, ``(H, W, 3 or 4)`` of an RGB layer, or a stack of them along up to three
        axes. Labels t, z and c of the axes name them; otherwise they are T, Z and C in this
        order, and one axis with a length is Z. The finest level of a multiscale layer is saved.
    meta : dict
        As from `Layer.as_layer_data_tuple`.

    Returns
    -------
    list of str
        The file. Values stay; 64-bit integers, which OME-TIFF lacks, become 32-bit integers.

    Raises
    ------
    ValueError
        For another extension, more than three stack dimensions, or integers above 32 bits.
    """
    file = _checked(path)
    image, axes, metadata = _with_axes(data, meta)
    known = metadata | {"Name": meta.get("name", "")}
    return _write(file, _as_ome_dtype(image), axes, known)


def write_ome_channels(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Save image layers of one size and place as the channels of one file.

    Parameters
    ----------
    path : str
        As of `write_ome_tiff`.
    layers : list of (data, meta, type)
        Two or more, as from `Layer.as_layer_data_tuple`. Their names name the channels.

    Returns
    -------
    list of str
        The file. Its type holds the values of all layers.

    Raises
    ------
    ValueError
        As `write_ome_tiff`, and when the layers are no channels of one image.
    """
    file = _checked(path)
    names = [str(meta.get("name", "")) for _, meta, _ in layers]
    images, axes, metadata = zip(
        *(_with_axes(data, meta) for data, meta, _ in layers), strict=True
    )
    if "S" in axes[0] or "C" in axes[0]:
        raise ValueError(f"layers: {names[0]!r} has channels already, save it alone")
    grids = [
        grid_of_layer(image.shape[-2:], meta, (-2, -1))
        for image, (_, meta, _) in zip(images, layers, strict=True)
    ]
    for name, *found in zip(names, (i.shape for i in images), axes, metadata, grids, strict=True):
        if found != [images[0].shape, axes[0], metadata[0], grids[0]]:
            raise ValueError(
                f"layers: {name!r} and {names[0]!r} differ in shape, axes, pixel size or place, "
                "need channels of one image; save them one by one"
            )
    known = metadata[0] | {"Channel": {"Name": names}}
    stacked = _as_ome_dtype(np.stack(images, -3))
    return _write(file, stacked, axes[0][:-2] + "CYX", known)


def write_ome_pages(
    path: str,
    pages: Iterable[NDArray[Any]],
    shape: Sequence[int],
    dtype: np.dtype[Any],
    meta: dict[str, Any],
) -> list[str]:
    """Save a stack plane by plane.

    Parameters
    ----------
    path : str
        As of `write_ome_tiff`.
    pages : iterable of ndarray
        The planes, (H, W) or (H, W, C), in the order of their positions.
    shape : sequence of int
        Of the stack, with rows and columns last, and C after them.
    dtype : dtype
        Of the planes. 64-bit integers become 32-bit integers.
    meta : dict
        As of `write_ome_tiff`.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        As `write_ome_tiff`.
    """
    file = _checked(path)
    kept, axes, metadata = _described(tuple(shape), meta)
    target = _ome_dtype(dtype)
    converted = (_as_ome_dtype(page, target) for page in pages)
    known = metadata | {"Name": meta.get("name", "")}
    return _write(file, converted, axes, known, shape=kept, dtype=target)


def _checked(path: str) -> Path:
    file = Path(path)
    if not file.name.lower().endswith(_EXTENSIONS):
        raise ValueError(f"path: got {file.name!r}, need a name that ends in .ome.tif")
    return file


def _with_axes(data: Any, meta: dict[str, Any]) -> tuple[NDArray[Any], str, dict[str, Any]]:
    """The image without axes of length 1, the letters of its axes, and OME's pixel size."""
    image = np.asarray(data[0] if meta.get("multiscale") else data)
    shape, axes, metadata = _described(image.shape, meta)
    return image.reshape(shape), axes, metadata


def _described(
    shape: tuple[int, ...], meta: dict[str, Any]
) -> tuple[tuple[int, ...], str, dict[str, Any]]:
    """A shape without axes of length 1, the letters of its axes, and OME's pixel size."""
    rgb = bool(meta.get("rgb"))
    ndim = len(shape) - rgb
    units = [unit_name(unit) for unit in meta.get("units") or (None,) * ndim]
    kept = [axis for axis in range(ndim) if shape[axis] > 1 or axis >= ndim - 2]
    if len(kept) > 5:
        raise ValueError(
            f"layer {meta.get('name', '')!r} has shape {shape}, need a plane, or a stack "
            "along T, Z and C"
        )
    left = (*(shape[axis] for axis in kept), *shape[ndim:])
    stack = _letters(meta, kept[:-2], units)
    metadata: dict[str, Any] = {}
    grid = grid_of_layer((left[-2 - rgb], left[-1 - rgb]), meta, (-2, -1))
    if grid.has_length:
        for letter, size in zip("YX", grid.spacing, strict=True):
            metadata[f"PhysicalSize{letter}"] = size
            metadata[f"PhysicalSize{letter}Unit"] = _UNITS[grid.unit]
    depth = kept[stack.index("Z")] if "Z" in stack else None
    if depth is not None and units[depth] in METRES:
        metadata["PhysicalSizeZ"] = float(abs(np.asarray(meta["scale"])[depth]))
        metadata["PhysicalSizeZUnit"] = _UNITS[units[depth]]
    return left, "".join(stack) + "YX" + "S" * rgb, metadata


def _write(
    file: Path, image: Any, axes: str, metadata: dict[str, Any], **declared: Any
) -> list[str]:
    with replacing(file) as temporary:
        tifffile.imwrite(
            temporary,
            image,
            **declared,
            ome=True,
            photometric="rgb" if axes.endswith("S") else "minisblack",
            metadata=metadata | {"axes": axes},
        )
    return [str(file)]


def _letters(meta: dict[str, Any], axes: list[int], units: list[str]) -> list[str]:
    """OME's letters for the axes of a stack, by their labels, else by their number and units."""
    labels = [str(label).upper() for label in meta.get("axis_labels") or ()]
    named = [labels[axis] for axis in axes] if len(labels) > max(axes, default=0) else []
    if set(named) <= set("TZC") and len(set(named)) == len(axes):
        return named
    if len(axes) == 1 and units[axes[0]] in METRES:
        return ["Z"]
    return list("TZC"[: len(axes)])


def _ome_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in OME-TIFF, which lacks half and extended floats and 64-bit integers."""
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    if dtype.kind in "iu" and dtype.itemsize == 8:
        return np.dtype(f"{dtype.kind}4")
    return dtype


def _as_ome_dtype(image: NDArray[Any], dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """Convert to a type of OME-TIFF; without one, integers to any that holds them."""
    target = dtype or _ome_dtype(image.dtype)
    if target == image.dtype or image.dtype.kind == "f":
        return image.astype(target, copy=False)
    low, high = (int(image.min()), int(image.max())) if image.size else (0, 0)
    for one in (target,) if dtype else (np.dtype(np.uint32), np.dtype(np.int32)):
        if np.iinfo(one).min <= low and high <= np.iinfo(one).max:
            return image.astype(one)
    raise ValueError(
        f"layer: its values go from {low} to {high}, OME-TIFF holds integers of 32 bits"
    )
