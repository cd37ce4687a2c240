"""Read and write images: TIFF, PNG, JPEG and NPY."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from napari_busref.images.dtypes import native
from napari_busref.runtime.atomic_write import replacing

__all__ = ["READABLE", "ImageFile", "read_image", "write_image"]

_TIFF = (".tif", ".tiff")
_JPEG = (".jpg", ".jpeg")
#: Extensions that can be read and written.
READABLE = (*_TIFF, ".png", *_JPEG, ".npy")

# types that ImageJ opens; only these keep its "unit"
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
_LENGTHS_IN_CM = {
    "nm": 1e-7,
    "um": 1e-4,
    "µm": 1e-4,
    "μm": 1e-4,
    "micron": 1e-4,
    "mm": 0.1,
    "cm": 1.0,
    "inch": 2.54,
    "m": 100.0,
}


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image and the metadata of its file.

    Attributes
    ----------
    data : numpy.ndarray
        The pixels, ``(H, W)`` or ``(H, W, 3 or 4)``; stacks keep all their axes.
    metadata : dict
        ``spacing`` ((row, col) size of a pixel) and ``unit`` (its length unit) when both are
        known; ``resolution`` and ``resolution_unit`` (the TIFF tags, pixels per unit along x and
        y as fractions); ``imagej_unit``. Empty without any. `write_image` writes them.
    """

    data: NDArray[Any]
    metadata: dict[str, Any] = field(default_factory=dict)


def read_image(path: str | os.PathLike[str]) -> ImageFile:
    """Read an image.

    Parameters
    ----------
    path : path-like
        A file that ends in ``.tif``, ``.tiff``, ``.png``, ``.jpg``, ``.jpeg`` or ``.npy``.

    Returns
    -------
    ImageFile
        TIFF: the first series, colour axis last, axes of length one removed. PNG: 8 bits grey
        or colour, 16 bits grey, 1 bit as bool; palettes become RGB. JPEG: turned upright by its
        EXIF orientation. NPY: the array, never a pickle.

    Raises
    ------
    ValueError
        If the extension is not accepted, or the content does not match it.
    OSError
        If there is no such file or it is not readable.
    """
    file = Path(path)
    suffix = _suffix(file)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder, need an image file ({_accepted()})")
    if not file.exists():
        raise FileNotFoundError(f"no such file: {file}")
    # a file without permission is an OSError, and not a corrupt file
    with file.open("rb"):
        pass
    try:
        if suffix in _TIFF:
            return _read_tiff(file)
        if suffix == ".npy":
            return ImageFile(np.load(file, allow_pickle=False))
        return _read_picture(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{file}: {error}; use TIFF for an image this large") from None
    except _Unsupported as error:
        raise ValueError(f"{file}: {error}") from None
    except Exception as error:
        # the readers raise anything from struct.error to KeyError for damaged files
        kind = suffix[1:].upper()
        raise ValueError(
            f"{file} cannot be read as {kind} ({type(error).__name__}: {error}); "
            f"accepted are complete files of the formats {_accepted()}"
        ) from error


def write_image(
    path: str | os.PathLike[str], data: ArrayLike, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write an image, and replace an existing file once the new one is complete.

    Parameters
    ----------
    path : path-like
        TIFF and NPY hold any real type. PNG: uint8 grey, RGB or RGBA, uint16 grey, bool.
        JPEG (lossy, quality 95): uint8 grey or RGB. Values are never rescaled.
    data : array_like
        Image ``(H, W[, C])``; TIFF and NPY also take stacks.
    metadata : mapping, optional
        As in `ImageFile.metadata`. TIFF keeps resolution tags, spacing and ImageJ's unit; the
        other formats drop them.

    Returns
    -------
    pathlib.Path
        The path written to.

    Raises
    ------
    ValueError
        If the extension is not accepted or the format cannot hold this type or shape.
    OSError
        If the folder does not exist or cannot be written.
    """
    file = Path(path)
    suffix = _suffix(file)
    image = np.asarray(data)
    if image.dtype.kind not in "biuf" or image.size == 0:
        raise ValueError(
            f"data: got shape {image.shape}, dtype {image.dtype}, need pixels that are real "
            "numbers or bool"
        )
    image = native(image)
    if suffix == ".png":
        _check_png(image, file)
    elif suffix in _JPEG:
        _check_jpeg(image, file)
    with replacing(file) as temporary:
        if suffix in _TIFF:
            _write_tiff(temporary, image, dict(metadata or {}))
        elif suffix == ".npy":
            with temporary.open("wb") as stream:  # np.save would append .npy to a.NPY
                np.save(stream, image, allow_pickle=False)
        elif suffix == ".png":
            Image.fromarray(image).save(temporary, format="PNG")
        else:
            Image.fromarray(image).save(temporary, format="JPEG", quality=95, subsampling=0)
    return file


class _Unsupported(Exception):
    """A sound file whose content cannot be read without loss."""


def _accepted() -> str:
    return ", ".join(READABLE)


def _suffix(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix not in READABLE:
        raise ValueError(f"{file}: extension {file.suffix!r} is not accepted, need {_accepted()}")
    return suffix


# -- TIFF ---------------------------------------------------------------------------------------


def _read_tiff(file: Path) -> ImageFile:
    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        data = series.asarray()
        axes = series.axes
        page = tiff.pages.first
        metadata = _tiff_metadata(tiff, page)
    keep = tuple(i for i, n in enumerate(data.shape) if n > 1 or axes[i] in "YX")
    data = data.reshape([data.shape[i] for i in keep])
    axes = "".join(axes[i] for i in keep)
    if "S" in axes:
        data = np.moveaxis(data, axes.index("S"), -1)
    return ImageFile(native(data), metadata)


def _tiff_metadata(tiff: tifffile.TiffFile, page: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    tags = {name: page.tags.get(name) for name in ("XResolution", "YResolution")}
    values = [tuple(map(int, tag.value)) for tag in tags.values() if tag is not None]
    if len(values) == 2 and all(n > 0 and d > 0 for n, d in values):
        unit = page.tags.get("ResolutionUnit")
        # TIFF 6: inch where the tag is absent
        code = int(unit.value) if unit is not None else 2
        metadata["resolution"] = tuple(values)
        metadata["resolution_unit"] = {1: "none", 2: "inch", 3: "cm"}.get(code, "none")
    imagej = tiff.imagej_metadata or {}
    if imagej.get("unit"):
        # files written by others may hold an escaped micro sign
        metadata["imagej_unit"] = str(imagej["unit"]).replace("\\u00B5", "µ")
    spacing = _ome_spacing(tiff) or _tag_spacing(metadata)
    if spacing is not None:
        metadata["spacing"], metadata["unit"] = spacing
    return metadata


def _ome_spacing(tiff: tifffile.TiffFile) -> tuple[tuple[float, float], str] | None:
    if not tiff.is_ome or not tiff.ome_metadata:
        return None
    try:
        image = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
        pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
        size = (float(pixels["PhysicalSizeY"]), float(pixels["PhysicalSizeX"]))
        # µm is OME's default
        return size, str(pixels.get("PhysicalSizeXUnit", "µm"))
    except (KeyError, TypeError, ValueError):
        return None


def _tag_spacing(metadata: Mapping[str, Any]) -> tuple[tuple[float, float], str] | None:
    unit = metadata.get("imagej_unit", metadata.get("resolution_unit", "none"))
    if "resolution" not in metadata or unit in ("none", "pixel", "pixels"):
        return None
    (nx, dx), (ny, dy) = metadata["resolution"]
    return (dy / ny, dx / nx), unit


def _write_tiff(file: Path, image: NDArray[Any], metadata: dict[str, Any]) -> None:
    options: dict[str, Any] = {}
    colour = image.ndim == 3 and image.shape[-1] in (3, 4)
    options["photometric"] = "rgb" if colour else "minisblack"
    if colour and image.shape[-1] == 4:
        options["extrasamples"] = ["unassalpha"]
    unit = metadata.get("imagej_unit")
    resolution, code = metadata.get("resolution"), metadata.get("resolution_unit", "none")
    if resolution is None and "spacing" in metadata and "unit" in metadata:
        resolution, code = _resolution_of(metadata["spacing"], str(metadata["unit"]))
    if resolution is not None:
        options["resolution"] = tuple(resolution)
        options["resolutionunit"] = {"none": 1, "inch": 2, "cm": 3}[code]
    in_imagej = image.dtype.name in _IMAGEJ_TYPES and (
        image.ndim == 2 or (colour and image.dtype == np.uint8 and image.shape[-1] == 3)
    )
    if unit and in_imagej:
        options["imagej"] = True
        options["metadata"] = {"unit": unit, "axes": "YXS" if colour else "YX"}
    elif unit and resolution is not None and unit in _LENGTHS_IN_CM:
        # ImageJ cannot open this type: plain tags hold the same size
        spacing = _tag_spacing(metadata)
        if spacing is not None:
            options["resolution"], code = _resolution_of(*spacing)
            options["resolutionunit"] = {"none": 1, "inch": 2, "cm": 3}[code]
    tifffile.imwrite(file, image, **options)


def _resolution_of(spacing: Any, unit: str) -> tuple[tuple[float, float] | None, str]:
    """Pixels per unit (x, y) and the TIFF unit, from a pixel size in any length unit."""
    length = _LENGTHS_IN_CM.get(unit)
    rows, cols = (float(value) for value in spacing)
    if length is None or rows <= 0 or cols <= 0:
        return None, "none"
    return (1 / (cols * length), 1 / (rows * length)), "cm"


# -- PNG and JPEG -------------------------------------------------------------------------------


def _read_picture(file: Path) -> ImageFile:
    with Image.open(file) as opened:
        if opened.format == "PNG":
            _refuse_deep_colour(file)
        picture: Image.Image = ImageOps.exif_transpose(opened)
        if picture.mode in ("P", "PA"):
            alpha = picture.mode == "PA" or "transparency" in picture.info
            picture = picture.convert("RGBA" if alpha else "RGB")
        elif picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            picture = picture.convert("RGB")
        elif picture.mode == "LA":
            picture = picture.convert("RGBA")
        data = np.array(picture)
    if data.dtype == np.int32:  # some Pillow versions open 16-bit grey as mode I
        data = data.astype(np.uint16)
    return ImageFile(native(data))


def _refuse_deep_colour(file: Path) -> None:
    with file.open("rb") as stream:
        header = stream.read(26)
    # the IHDR chunk comes first: bit depth at byte 24, colour type (2: RGB, 4, 6: alpha) at 25
    depth, colour = header[24], header[25]
    if depth == 16 and colour != 0:
        raise _Unsupported(
            "16-bit colour PNG would lose its lower 8 bits here; accepted are 8-bit colour and "
            "16-bit grey PNG, or convert it to TIFF"
        )


def _check_png(image: NDArray[Any], file: Path) -> None:
    colour = image.ndim == 3 and image.shape[-1] in (3, 4)
    good = (image.dtype == np.uint8 and (image.ndim == 2 or colour)) or (
        image.dtype in (np.uint16, np.bool_) and image.ndim == 2
    )
    if not good:
        raise ValueError(
            f"{file}: PNG holds uint8 (H, W), (H, W, 3) or (H, W, 4), uint16 (H, W) and bool "
            f"(H, W), got {image.dtype} of shape {image.shape}; use .tif or .npy"
        )


def _check_jpeg(image: NDArray[Any], file: Path) -> None:
    if image.dtype != np.uint8 or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)
    ):
        raise ValueError(
            f"{file}: JPEG holds uint8 (H, W) or (H, W, 3), got {image.dtype} of shape "
            f"{image.shape}; use .png, .tif or .npy"
        )
