"""Read and write images: TIFF, PNG, JPEG, NPY, and what cameras and microscopes write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from napari_busref.images.declared import check_array
from napari_busref.images.dtypes import native
from napari_busref.images.nodata import NoData, check_nodata, mark_missing
from napari_busref.images.pictures import JPEG, Unsupported, read_picture
from napari_busref.images.selection import (
    Choice,
    NoSuchPlane,
    Stored,
    choose,
    guess_axes,
    page_of,
)
from napari_busref.images.tiff import read_tiff, write_tiff
from napari_busref.images.uri import is_ome_zarr, is_url
from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.file_safety import Refused, check_file, memory_limited

if TYPE_CHECKING:
    from napari_busref.images.map_position import MapPosition

__all__ = [
    "READABLE",
    "WRITABLE",
    "ImageFile",
    "read_image",
    "read_plane",
    "readable_files",
    "write_image",
]

_TIFF = (".tif", ".tiff", ".btf")
_JPEG_2000 = (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc")
_PICTURES = (".png", *JPEG, ".bmp", ".dib", ".webp", ".gif", ".tga", *_JPEG_2000)
_NETPBM = (".pgm", ".ppm", ".pbm", ".pnm")
_DICOM = (".dcm", ".dicom")
_CZI = (".czi",)
_TABLE = ".csv"
#: Extensions that can be written.
WRITABLE = (".tif", ".tiff", ".png", *JPEG, ".npy")
#: Extensions that can be read.
READABLE = (*_TIFF, *_PICTURES, *_NETPBM, ".npy", *_DICOM, *_CZI, _TABLE)


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image and the metadata of its file.

    Attributes
    ----------
    data : numpy.ndarray
        The pixels, ``(H, W)`` or ``(H, W, 3 or 4)``, where the fourth channel is alpha. Stacks
        and bands keep all their axes, rows and columns last. Missing pixels are NaN in floats and
        masked in a `numpy.ma.MaskedArray` of integers.
    metadata : dict
        ``spacing`` ((row, col) size of a pixel) and ``unit`` (its length unit) when both are
        known; ``resolution`` and ``resolution_unit`` (the TIFF tags, pixels per unit along x and
        y as fractions); ``imagej_unit``; ``geotiff`` (tags by their number); ``nodata`` (value
        of missing pixels); ``value_unit`` (``"°C"``) and ``thermal`` (the parameters behind it).
        Empty without any. `write_image` writes resolution, unit, geotags and nodata.
    taken : str
        What was taken of a file with several planes, such as ``"band 1 of 5"``.
    note : str
        What else the file holds.
    axes : str
        A letter for each axis of `data`: Y, X; S for colour or bands, C for channels, T, Z …
    """

    data: NDArray[Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    taken: str = ""
    note: str = ""
    axes: str = ""

    @property
    def map_position(self) -> MapPosition | None:
        """Where the pixels lie on the Earth, from the geotags; None without a place there.

        Raises
        ------
        ValueError
            When PROJ does not know the coordinate reference system.
        ModuleNotFoundError
            When there are geotags, and rasterio is not installed (``napari-busref[geo]``).
        """
        from napari_busref.images.map_position import MapPosition

        return MapPosition.from_metadata(self.metadata)

    def __repr__(self) -> str:
        size = self.metadata.get("spacing")
        words = [f"{self.data.shape} {self.data.dtype}"]
        if size is not None:
            words.append(f"{size[0]:.4g} x {size[1]:.4g} {self.metadata.get('unit')} a pixel")
        words += [text for text in (self.metadata.get("value_unit"), self.taken) if text]
        return f"<ImageFile: {', '.join(words)}>"


def read_image(
    path: str | os.PathLike[str],
    *,
    band: int | None = None,
    page: int | None = None,
    channel: int | None = None,
    level: int = 0,
    nodata: NoData = "auto",
    memory_limit: float | None = None,
) -> ImageFile:
    """Read an image.

    Parameters
    ----------
    path : path-like
        A file that ends in one of `READABLE`: TIFF, PNG, JPEG, BMP, WebP, GIF, TGA, JPEG 2000,
        PGM, NPY, DICOM (needs pydicom), CZI (needs czifile) or CSV (a table of temperatures).
        Also the folder of an OME-Zarr image,
        or the URL of one or of a TIFF, as for `napari_busref.open_image`: of these one plane.
    band, channel : int, optional
        One band of a picture, or one channel of a microscope's file, counted from 1.
    page : int, optional
        One page, frame or plane (of T, Z …), counted from 1. Page 2 of a thermal JPEG is the
        embedded visible picture, page 3 the picture as displayed.
    level : int
        Level of a pyramid in TIFF or OME-Zarr, of which then one plane is read. 0 is the full
        resolution.
    nodata : float, "auto" or None
        Value of missing pixels. ``"auto"`` takes the one that the file names (GDAL's tag 42113,
        DICOM's pixel padding value), None takes every number as content.
    memory_limit : float, optional
        Largest size in GiB that the file may declare for its pixels. By default 2, or the
        environment variable NAPARI_BUSREF_MEMORY.

    Returns
    -------
    ImageFile
        TIFF: the first series, colour axis last, axes of length one removed. Only extra samples
        that the file calls alpha are alpha; others are bands, and a colour picture is read
        without them. Everything is turned upright by its orientation tag. PNG: 8 and 16 bits, 1
        bit as bool; palettes become RGB. Thermal JPEG of FLIR: °C as float32. NPY: the array,
        never a pickle. CSV: float32, in °C where the lines above the table name °C, °F or K.

    Raises
    ------
    TypeError, ValueError
        If the extension is not accepted, the content does not match it, or there is no such
        band, page or level. Also when the file has its pixels elsewhere, or declares more than
        `memory_limit`.
    OSError
        If there is no such file or it is not readable.
    """
    choice = Choice(band, channel, page)
    if level or _is_large(path):
        return _read_level(path, choice, level, nodata, memory_limit)
    return _read(path, choice, check_nodata(nodata), memory_limit, single=False)


def read_plane(
    path: str | os.PathLike[str],
    *,
    band: int | None = None,
    page: int | None = None,
    channel: int | None = None,
    level: int = 0,
    nodata: NoData = "auto",
    memory_limit: float | None = None,
) -> ImageFile:
    """Read one grey or colour plane; parameters as of `read_image`.

    Of several planes, the first is taken where none is chosen; `ImageFile.taken` says which.
    """
    choice = Choice(band, channel, page)
    if level or _is_large(path):
        return _read_level(path, choice, level, nodata, memory_limit)
    return _read(path, choice, check_nodata(nodata), memory_limit, single=True)


def _is_large(path: str | os.PathLike[str]) -> bool:
    """Whether only windows can be read."""
    return is_url(path) or is_ome_zarr(path)


def _read_level(
    path: str | os.PathLike[str],
    choice: Choice,
    level: int,
    nodata: NoData,
    memory_limit: float | None,
) -> ImageFile:
    """Read one plane of a level."""
    from napari_busref.images.large import open_image

    with memory_limited(memory_limit):
        image = open_image(path, **vars(choice), nodata=nodata)
        data = image.read(level=level)
    return ImageFile(data, image.metadata_of(level), image.taken, axes="YXS"[: data.ndim])


def _read(
    path: str | os.PathLike[str],
    choice: Choice,
    nodata: NoData,
    memory_limit: float | None,
    *,
    single: bool,
) -> ImageFile:
    file = Path(path)
    suffix = _suffix(file, READABLE)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder, need an image file ({_accepted()})")
    if not file.exists():
        raise FileNotFoundError(f"no such file: {file}")
    choice.check()
    with memory_limited(memory_limit):
        check_file(file)
        # a file without permission is an OSError, and not a corrupt file
        with file.open("rb"):
            pass
        with _damage(file, suffix):
            stored = _stored(file, suffix)
        if stored.data.dtype.kind not in "biufc" or stored.data.ndim < 2 or not stored.data.size:
            raise ValueError(
                f"{file} holds {stored.data.dtype} of shape {stored.data.shape}, need an image "
                "of numbers"
            )
        try:
            with _damage(file, suffix):
                stored, choice, words = page_of(stored, choice, single=single)
                data, axes, more = choose(stored, choice, single=single)
        except NoSuchPlane as error:
            raise ValueError(f"{error}: {file}") from None
    words = ", ".join(filter(None, (words, _without_page(more) if words else more)))
    return _marked(stored, data, axes, words, nodata)


def _without_page(words: str) -> str:
    """What was taken beside the page, whose number among all pages is already said."""
    return ", ".join(part for part in words.split(", ") if not part.startswith("page "))


@contextmanager
def _damage(file: Path, suffix: str) -> Iterator[None]:
    """Report any error of a decoder as a damaged file, by its name."""
    try:
        yield
    except (Refused, NoSuchPlane):
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{file}: {error}; use TIFF for an image this large") from None
    except Unsupported as error:
        raise ValueError(f"{file}: {error}") from None
    except Exception as error:
        # the readers raise anything from struct.error to KeyError for damaged files
        kind = suffix[1:].upper()
        raise ValueError(
            f"{file} cannot be read as {kind} ({type(error).__name__}: {error}); "
            f"accepted are complete files of the formats {_accepted()}"
        ) from error


def _stored(file: Path, suffix: str) -> Stored:
    if suffix in _TIFF:
        return read_tiff(file)
    if suffix == ".npy":
        # a map compares the declared shape with the size of the file
        array = np.lib.format.open_memmap(file, mode="r")
        check_array(array.shape, array.dtype, file)
        return Stored(np.array(array), guess_axes(array.shape))
    if suffix in _DICOM:
        from napari_busref.images.dicom import read_dicom

        return read_dicom(file)
    if suffix in _CZI:
        from napari_busref.images.czi import read_czi

        return read_czi(file)
    if suffix == _TABLE:
        from napari_busref.images.temperatures import read_temperatures

        return read_temperatures(file)
    return read_picture(file)


def readable_files(folder: Path) -> list[Path]:
    """Return the files of a folder that `read_image` accepts, by name, without hidden ones.

    macOS writes a hidden file beside each image, ``._a.png``. CSV files count only where all are
    such: beside images, they hold something else.
    """
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in READABLE and not path.name.startswith(".") and path.is_file()
    )
    pictures = [path for path in files if path.suffix.lower() != _TABLE]
    return pictures or files


def _marked(
    stored: Stored, data: NDArray[Any], axes: str, words: str, nodata: NoData
) -> ImageFile:
    """Mark the missing pixels of what was chosen."""
    data, metadata = native(data), dict(stored.metadata)
    value = metadata.get("nodata") if nodata == "auto" else nodata
    if nodata != "auto":
        metadata.pop("nodata", None)
        metadata |= {} if value is None else {"nodata": value}
    data = mark_missing(data, axes, value, stored.valid)
    return ImageFile(data, metadata, words, stored.note, axes)


def write_image(
    path: str | os.PathLike[str],
    data: ArrayLike,
    metadata: Mapping[str, Any] | None = None,
    *,
    cloud: bool = False,
) -> Path:
    """Write an image, and replace an existing file once the new one is complete.

    Parameters
    ----------
    path : path-like
        TIFF, NPY and OME-Zarr (``.ome.zarr``) hold any real type. PNG: uint8 grey, RGB or RGBA,
        uint16 grey, bool. JPEG (lossy, quality 95): uint8 grey or RGB. Values are never rescaled.
    data : array_like
        Image ``(H, W[, C])``; TIFF and NPY also take stacks. Masked pixels of a numpy masked
        array are written as its fill value, or 0, which TIFF names as the value of missing
        pixels.
    metadata : mapping, optional
        As in `ImageFile.metadata`. TIFF keeps resolution tags, spacing, ImageJ's unit, geotags
        and the value of missing pixels (NaN in floats); the other formats drop them.
    cloud : bool
        Write a TIFF as a cloud-optimised GeoTIFF (COG): compressed tiles with overviews, of a
        half, a quarter … of the size. Needs rasterio (``napari-busref[geo]``).

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
    suffix = ".ome.zarr" if is_ome_zarr(file) else _suffix(file, WRITABLE)
    tags = dict(metadata or {})
    image, tags = _filled(data, tags)
    if image.dtype.kind not in "biuf" or image.size == 0:
        raise ValueError(
            f"data: got shape {image.shape}, dtype {image.dtype}, need pixels that are real "
            "numbers or bool"
        )
    image = native(image)
    if suffix == ".png":
        _check_png(image, file)
    elif suffix in JPEG:
        _check_jpeg(image, file)
    elif suffix in _TIFF and image.dtype == np.bool_ and image.ndim == 3 and image.shape[2] < 5:
        raise ValueError(f"{file}: TIFF holds no colours of bool, use uint8 or .npy")
    if cloud and suffix not in _TIFF:
        raise ValueError(f"{file}: a cloud-optimised GeoTIFF ends in .tif")
    if is_ome_zarr(file):
        from napari_busref.images.pyramid import write_array

        return write_array(file, image, tags)
    with replacing(file) as temporary:
        if cloud:
            from napari_busref.images.cog import write_cog

            write_cog(temporary, image, tags)
        elif suffix in _TIFF:
            write_tiff(temporary, image, tags)
        elif suffix == ".npy":
            with temporary.open("wb") as stream:  # np.save would append .npy to a.NPY
                np.save(stream, image, allow_pickle=False)
        elif suffix == ".png":
            Image.fromarray(image).save(temporary, format="PNG")
        else:
            Image.fromarray(image).save(temporary, format="JPEG", quality=95, subsampling=0)
    return file


def _filled(data: ArrayLike, metadata: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Fill the missing pixels; adapt the value that the metadata names for them."""
    nodata = metadata.pop("nodata", None)
    if isinstance(data, np.ma.MaskedArray):
        if data.dtype.kind == "f":
            fill: Any = np.nan
        else:
            fill = 0 if getattr(data, "_fill_value", None) is None else data.fill_value
        return data.filled(fill), {**metadata, "nodata": float(fill)}
    image = np.asarray(data)
    if nodata is not None and image.dtype.kind == "f":
        nodata = float("nan")  # as `read_image` marks them
    elif nodata is not None and image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        nodata = nodata if limits.min <= nodata <= limits.max else None
    else:
        nodata = None
    return image, metadata if nodata is None else {**metadata, "nodata": nodata}


def _accepted() -> str:
    return ", ".join(READABLE)


def _suffix(file: Path, accepted: tuple[str, ...]) -> str:
    suffix = file.suffix.lower()
    if suffix not in accepted:
        raise ValueError(
            f"{file}: extension {file.suffix!r} is not accepted, need {', '.join(accepted)}"
        )
    return suffix


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
