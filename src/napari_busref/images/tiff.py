"""Read and write TIFF: compression, orientation, bands, alpha, no-data and tags."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_busref.images.arrays import picture_array
from napari_busref.images.declared import (
    check_array,
    check_picture,
    check_tiff_files,
    check_tiff_page,
)
from napari_busref.images.dtypes import native
from napari_busref.images.nodata import parse_nodata
from napari_busref.images.selection import Stored
from napari_busref.images.stored_levels import StoredLevels
from napari_busref.images.uri import local_path, open_url
from napari_busref.runtime.file_safety import Refused

__all__ = [
    "coarser_tags",
    "geo_tags",
    "open_tiff",
    "read_geotags",
    "read_tiff",
    "upright",
    "write_tiff",
    "write_tiff_pyramid",
]

# tifffile prints what it cannot parse, such as "nan" as the missing value of integers
logging.getLogger("tifffile").addHandler(logging.NullHandler())

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
_UNIT_CODES = {"none": 1, "inch": 2, "cm": 3}
_ALPHA = (1, 2)  # TIFF 6, ExtraSamples: associated and unassociated alpha
_NODATA_TAG = 42113  # GDAL_NODATA
_GDAL_TAG = 42112  # GDAL_METADATA: XML with the scale, offset and unit of each band
#: GeoTIFF: ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams,
#: GeoAsciiParams; with the TIFF type that each is written in.
_GEO_TAGS = {33550: 12, 33922: 12, 34264: 12, 34735: 3, 34736: 12, 34737: 2}
_MAX_MASK_PAGES = 16
_REDUCED, _MASK = 1, 4  # TIFF 6, NewSubfileType
_ROOM = "YXSC"  # axes within a page
_MINISWHITE, _RGB, _PALETTE, _SEPARATED, _YCBCR, _CIELAB = 0, 2, 3, 5, 6, 8


def read_tiff(file: Path, series: int = 0) -> Stored:
    """Read one series of a TIFF: pages of one size and type.

    `Stored.pages` of the first reads the others, without thumbnails and masks. Grey where white
    is 0 becomes normal grey, 2 and 4 bits are spread to 8, palettes and CMYK become RGB. GDAL's
    scale and offset of counts are applied.
    """
    with _open(file) as tiff:
        read = tiff.series[series]
        page = read.keyframe if series else tiff.pages.first
        further = () if series else _further_series(tiff, file)
        check_array(read.shape, page.dtype or read.dtype, file)
        check_tiff_page(page, tiff, file)
        metadata = _metadata(tiff, page)
        photometric = int(page.photometric)
        converted = photometric in (_SEPARATED, _CIELAB) or (
            photometric == _YCBCR and int(page.compression) not in (6, 7)
        )
        if converted:
            with Image.open(file) as picture:
                picture.seek(page.index if series else 0)
                check_picture(picture, file)
                colours = picture_array(picture)  # also turns it upright
                return Stored(colours, "YXS", metadata, pages=further)
        hidden = None if series else _mask_page(tiff, read)
        decoded = _decoded(read.asarray(), read.axes, page, metadata)
        orientation = _orientation(page)
    data, axes, alpha, left_out = decoded
    if hidden is not None and hidden.shape == data.shape[:2]:
        alpha = hidden if alpha is None else alpha & hidden
    rows = axes.index("Y")
    data = upright(data, orientation, rows)
    if alpha is not None:
        alpha = upright(alpha, orientation, alpha.ndim - 2)
    if orientation > 4 and "resolution" in metadata:
        metadata["resolution"] = metadata["resolution"][::-1]
        metadata |= {"spacing": metadata["spacing"][::-1]} if "spacing" in metadata else {}
    if orientation > 1:
        metadata.pop("geotiff", None)  # it places the pixels as they are stored
    return Stored(data, axes, metadata, alpha, extra_bands=left_out, pages=further)


def _further_series(tiff: tifffile.TiffFile, file: Path) -> list[Callable[[], Stored]]:
    """Readers of the series after the first that are pictures of their own."""
    numbers = [
        number
        for number, one in enumerate(tiff.series)
        if number and not int(one.keyframe.subfiletype) & (_REDUCED | _MASK)
    ]
    return [
        partial(_read_page, file, number, page)
        for number in numbers
        for page in range(_page_count(tiff.series[number]))
    ]


def _page_count(series: Any) -> int:
    sizes = (n for n, letter in zip(series.shape, series.axes, strict=True) if letter not in _ROOM)
    return math.prod(sizes)


def _read_page(file: Path, series: int, page: int) -> Stored:
    """One page of a further series."""
    stored = read_tiff(file, series)
    leading = [i for i, letter in enumerate(stored.axes) if letter not in _ROOM]
    index = np.unravel_index(page, [stored.data.shape[i] for i in leading])
    data, axes = stored.data, stored.axes
    for axis, at in sorted(zip(leading, index, strict=True), reverse=True):
        data, axes = np.take(data, int(at), axis), axes[:axis] + axes[axis + 1 :]
    return replace(stored, data=data, axes=axes)


def open_tiff(uri: str) -> StoredLevels:
    """Open a TIFF to read windows of the levels of its first series.

    Raises
    ------
    ValueError
        When a window of it needs the whole picture, or it is no TIFF.
    ModuleNotFoundError
        Without zarr, or without the package of fsspec for such a URL.
    """
    path = local_path(uri)
    stream = open_url(uri) if path is None else path.open("rb")
    try:
        with tifffile.TiffFile(stream) as tiff:
            name = check_tiff_files(tiff, Path(uri))
        stream.seek(0)
        tiff = tifffile.TiffFile(stream, name=name)
        series, page = tiff.series[0], tiff.pages.first
        metadata, photometric = _metadata(tiff, page), int(page.photometric)
        ycbcr = photometric == _YCBCR and int(page.compression) not in (6, 7)
        first = [one for one in tiff.pages[:_MAX_MASK_PAGES] if isinstance(one, tifffile.TiffPage)]
        whole = {
            "an orientation tag": _orientation(page) > 1,
            "a transparency mask": any(int(one.subfiletype) & _MASK for one in first),
            "colours of another kind than RGB": photometric in (_SEPARATED, _CIELAB) or ycbcr,
        }
        for what, found in whole.items():
            if found:
                raise Refused(f"path: {uri} has {what}; convert it to plain tiles")
        arrays = tuple(_level_array(series, i, tiff, path) for i in range(len(series.levels)))
    except (Refused, ModuleNotFoundError):
        stream.close()
        raise
    except Exception as error:  # tifffile raises anything for damaged files
        stream.close()
        raise ValueError(
            f"{uri} cannot be read as TIFF ({type(error).__name__}: {error})"
        ) from error

    def meant(block: NDArray[Any], axes: str) -> Stored:
        found = dict(metadata)
        data, letters, alpha, bands = _decoded(block, axes, page, found)
        return Stored(data, letters, found, alpha, extra_bands=bands)

    stored = StoredLevels(arrays, series.axes, meant)
    weakref.finalize(stored, stream.close)
    return stored


class _Plain:
    """Pixels without compression in one piece of a file, mapped for each read alone.

    A map that stays would count in the memory of the process what was read so far.
    """

    def __init__(
        self, path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]
    ) -> None:
        self._path, self._offset, self.shape, self.dtype = path, offset, shape, dtype
        self[(slice(0, 0),) * len(shape)]  # refuses a file that is too short

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.array(np.memmap(self._path, self.dtype, "r", self._offset, self.shape)[index])


def _level_array(series: Any, level: int, tiff: Any, path: Path | None) -> Any:
    """A level as an array that reads windows."""
    from napari_busref.images.zarr_store import open_array

    pages = series.levels[level]
    if path is not None and pages.dataoffset is not None:
        # pixels without compression may be a single strip, which zarr would read whole
        dtype = np.dtype(pages.dtype).newbyteorder(tiff.byteorder)
        return _Plain(path, dtype, pages.dataoffset, tuple(pages.shape))
    if path is not None:
        check_tiff_page(pages.keyframe, tiff, path)
    return open_array(series.aszarr(level=level, read_only=True))


def _decoded(
    data: NDArray[Any], axes: str, page: Any, metadata: dict[str, Any]
) -> tuple[NDArray[Any], str, NDArray[np.bool_] | None, NDArray[Any] | None]:
    """Values and colours of stored pixels, pixel by pixel; see `_split_samples`."""
    photometric = int(page.photometric)
    beside = None  # what stands beside the indices of a palette
    if photometric == _PALETTE and "S" in axes:
        samples = np.moveaxis(data, axes.index("S"), -1)
        data, beside = samples[..., 0], samples[..., 1:]
        axes = axes.replace("S", "")
    data = _as_meant(data, page, photometric)
    if photometric == _PALETTE and page.colormap is not None and data.ndim > len(axes):
        axes += "S"
        if beside is not None:
            data = np.concatenate([data, beside.astype(data.dtype)], axis=-1)
    extra = tuple(int(kind) for kind in page.extrasamples or ())
    data = native(data)
    keep = tuple(i for i, n in enumerate(data.shape) if n > 1 or axes[i] in "YX")
    data = data.reshape([data.shape[i] for i in keep])
    axes = "".join(axes[i] for i in keep)
    data = _scaled(data, axes, metadata)
    return _split_samples(data, axes, photometric, extra)


def _scaled(data: NDArray[Any], axes: str, metadata: dict[str, Any]) -> NDArray[Any]:
    """Apply the scale and offset of GDAL, which turn stored counts into values with a unit.

    Missing pixels become NaN, because the tag for them names a stored count.
    """
    factors = metadata.pop("scale_offset", None)
    if factors is None or data.dtype.kind not in "iuf":
        return data
    bands = data.shape[axes.index("S")] if "S" in axes else 1
    scales, offsets = (
        np.array([factors.get(band, (1.0, 0.0))[i] for band in range(bands)]) for i in (0, 1)
    )
    shape = [bands if letter == "S" else 1 for letter in axes]
    values = data * scales.reshape(shape) + offsets.reshape(shape)
    nodata = metadata.pop("nodata", None)
    if nodata is not None:
        values[data == nodata] = np.nan
        metadata["nodata"] = float("nan")
    return values.astype(np.float32)


@contextmanager
def _open(file: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF as a stream, which has no neighbours for tifffile to open."""
    with file.open("rb") as stream:
        with tifffile.TiffFile(stream) as tiff:
            name = check_tiff_files(tiff, file)
        stream.seek(0)
        with tifffile.TiffFile(stream, name=name) as tiff:
            yield tiff


def upright(image: NDArray[Any], orientation: int, rows: int = 0) -> NDArray[Any]:
    """Turn an image by its orientation tag of TIFF and EXIF (274).

    Parameters
    ----------
    image : ndarray
    orientation : int
        1 to 8; others count as 1.
    rows : int
        The axis of the rows; that of the columns follows.
    """
    columns = rows + 1
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, rows, columns)
    if orientation in (2, 3, 6, 7):
        image = np.flip(image, columns)
    if orientation in (3, 4, 7, 8):
        image = np.flip(image, rows)
    return np.ascontiguousarray(image)


def _as_meant(data: NDArray[Any], page: Any, photometric: int) -> NDArray[Any]:
    """Apply the palette, white-is-zero and fewer than 8 bits."""
    bits = int(page.bitspersample) if isinstance(page.bitspersample, int) else 0
    if photometric == _PALETTE and page.colormap is not None:
        colours = np.asarray(page.colormap)
        if colours.max() > 255:
            colours = colours >> 8
        return np.moveaxis(colours.astype(np.uint8)[:, data], 0, -1)
    if photometric == _MINISWHITE:
        if data.dtype.kind == "b":
            data = ~data
        elif data.dtype.kind == "u":
            data = data.dtype.type(2 ** (bits or 8 * data.dtype.itemsize) - 1) - data
    if data.dtype == np.uint8 and 1 < bits < 8 and photometric < _RGB:
        data = np.rint(data * (255 / (2**bits - 1))).astype(np.uint8)
    return data


def _split_samples(
    data: NDArray[Any], axes: str, photometric: int, extra: tuple[int, ...]
) -> tuple[NDArray[Any], str, NDArray[np.bool_] | None, NDArray[Any] | None]:
    """Colour, alpha and other bands.

    Returns
    -------
    data : ndarray
        Colour (…, Y, X, 3 or 4), where four includes alpha, or bands (S, Y, X).
    axes : str
    valid : ndarray of bool, or None
        Where grey that has alpha is not transparent.
    bands : ndarray or None
        All samples (S, Y, X), where `data` is only the colours.
    """
    if "S" not in axes:
        return data, axes, None, None
    data = np.moveaxis(data, axes.index("S"), -1)
    axes = axes.replace("S", "") + "S"
    count = data.shape[-1]
    colours = 3 if photometric in (_RGB, _YCBCR, _PALETTE) or (count == 3 and not extra) else 1
    if photometric == _RGB and count >= 3 and len(extra) < count - 3:
        extra = (0,) * (count - 3 - len(extra)) + extra
    elif colours == 1 and len(extra) < count - 1:
        extra = (0,) * (count - 1 - len(extra)) + extra
    alphas = [
        colours + i for i, kind in enumerate(extra) if kind in _ALPHA and colours + i < count
    ]
    alpha = data[..., alphas[0]] if alphas else None
    plain = colours + len(alphas)  # without other bands
    if colours == 3:
        bands = np.moveaxis(data, -1, 0) if count > plain and data.ndim == 3 else None
        chosen = [0, 1, 2, *alphas[:1]]
        return (data if count == len(chosen) else data[..., chosen]), axes, None, bands
    kept = [i for i in range(count) if i not in alphas]
    data = np.moveaxis(data[..., kept], -1, data.ndim - 3)
    axes = axes[:-3] + "SYX"
    if len(kept) == 1:
        data, axes = np.squeeze(data, data.ndim - 3), axes[:-3] + "YX"
        if alpha is not None and data.ndim == 2 and data.dtype == np.uint8:
            return np.stack([data, data, data, alpha], -1), "YXS", None, None
    return data, axes, None if alpha is None or alpha.ndim != 2 else alpha > 0, None


def _mask_page(tiff: tifffile.TiffFile, series: Any) -> NDArray[np.bool_] | None:
    """The transparency mask that GDAL and others write as the next page."""
    if len(series.pages) != 1:
        return None
    for number, page in enumerate(tiff.pages):
        if number >= _MAX_MASK_PAGES:
            return None
        if number and isinstance(page, tifffile.TiffPage) and int(page.subfiletype) & _MASK:
            first = tiff.pages.first
            if page.shape[:2] == (first.imagelength, first.imagewidth):
                check_tiff_page(page, tiff, Path(tiff.filename))
                return np.asarray(page.asarray() != 0)
    return None


def _orientation(page: Any) -> int:
    tag = page.tags.get("Orientation")
    try:
        value = int(tag.value) if tag is not None else 1
    except (TypeError, ValueError):
        return 1
    return value if 1 <= value <= 8 else 1


# -- tags ---------------------------------------------------------------------------------------


def _metadata(tiff: tifffile.TiffFile, page: Any) -> dict[str, Any]:
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
    geo = _geotags(page)
    if geo:
        metadata["geotiff"] = geo
    nodata = page.tags.get(_NODATA_TAG)
    if nodata is not None:
        value = parse_nodata(str(nodata.value))
        if value is not None:
            metadata["nodata"] = value
    metadata |= _gdal(page)
    spacing = _ome_spacing(tiff) or _tag_spacing(metadata) or _geo_spacing(geo)
    if spacing is not None:
        metadata["spacing"], metadata["unit"] = spacing
    depth = _ome_depth(tiff) or _imagej_depth(imagej)
    if depth is not None:
        metadata["z_spacing"], metadata["z_unit"] = depth
    return metadata


def _geotags(page: Any) -> dict[str, Any]:
    return {str(code): _values(page.tags[code].value) for code in _GEO_TAGS if code in page.tags}


def _gdal(page: Any) -> dict[str, Any]:
    """``scale_offset`` by band, unless they change nothing, and ``value_unit`` of band 0."""
    tag = page.tags.get(_GDAL_TAG)
    if tag is None:
        return {}
    try:
        items = list(ElementTree.fromstring(str(tag.value)).iter("Item"))
    except ElementTree.ParseError:
        return {}
    factors: dict[int, tuple[float, float]] = {}
    found: dict[str, Any] = {}
    for item in items:
        role, text = item.get("role"), (item.text or "").strip()
        try:
            band = int(item.get("sample", 0))
            scale, offset = factors.get(band, (1.0, 0.0))
            if role == "scale":
                factors[band] = float(text), offset
            elif role == "offset":
                factors[band] = scale, float(text)
            elif role == "unittype" and band == 0 and text:
                found["value_unit"] = text
        except ValueError:
            continue
    if any(one != (1.0, 0.0) and np.isfinite(one).all() for one in factors.values()):
        found["scale_offset"] = factors
    return found


def _values(value: Any) -> Any:
    return value if isinstance(value, str) else list(np.atleast_1d(value).tolist())


def _ome_pixels(tiff: tifffile.TiffFile) -> Mapping[str, Any]:
    """Attributes of the first image of an OME-TIFF; empty in another file."""
    if not tiff.is_ome or not tiff.ome_metadata:
        return {}
    try:
        image = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
        return dict((image[0] if isinstance(image, list) else image)["Pixels"])
    except (KeyError, TypeError, ValueError):
        return {}


def _ome_spacing(tiff: tifffile.TiffFile) -> tuple[tuple[float, float], str] | None:
    pixels = _ome_pixels(tiff)
    try:
        size = (float(pixels["PhysicalSizeY"]), float(pixels["PhysicalSizeX"]))
        # µm is OME's default
        return size, str(pixels.get("PhysicalSizeXUnit", "µm"))
    except (KeyError, TypeError, ValueError):
        return None


def _ome_depth(tiff: tifffile.TiffFile) -> tuple[float, str] | None:
    """Distance of the planes of a Z stack and its unit."""
    pixels = _ome_pixels(tiff)
    try:
        return float(pixels["PhysicalSizeZ"]), str(pixels.get("PhysicalSizeZUnit", "µm"))
    except (KeyError, TypeError, ValueError):
        return None


def _imagej_depth(imagej: Mapping[str, Any]) -> tuple[float, str] | None:
    try:
        depth = float(imagej["spacing"])
    except (KeyError, TypeError, ValueError):
        return None
    unit = str(imagej.get("unit", "")).replace("\\u00B5", "µ")
    return (depth, unit) if depth > 0 and unit in _LENGTHS_IN_CM else None


def _tag_spacing(metadata: Mapping[str, Any]) -> tuple[tuple[float, float], str] | None:
    unit = metadata.get("imagej_unit", metadata.get("resolution_unit", "none"))
    if "resolution" not in metadata or unit in ("none", "pixel", "pixels"):
        return None
    if "geotiff" in metadata:  # there it is that of a print
        return None
    (nx, dx), (ny, dy) = metadata["resolution"]
    return (dy / ny, dx / nx), unit


def _geo_spacing(geo: Mapping[str, Any]) -> tuple[tuple[float, float], str] | None:
    """Pixel size on a map in metres; none in degrees or in a unit that is not named."""
    scale, keys = geo.get("33550"), geo.get("34735", [])
    entries = {keys[i]: keys[i + 3] for i in range(4, len(keys) - 3, 4) if keys[i + 1] == 0}
    projected, metres = entries.get(1024) == 1, entries.get(3076, 9001) == 9001
    if not (projected and metres) or not scale or len(scale) < 2 or min(scale[:2]) <= 0:
        return None
    return (float(scale[1]), float(scale[0])), "m"


def write_tiff(file: Path, image: NDArray[Any], metadata: dict[str, Any]) -> None:
    """Write pixels, resolution, ImageJ's unit, geotags and the value of missing pixels."""
    options = _options(image.shape, image.dtype, metadata)
    unit, colour = metadata.get("imagej_unit"), options["photometric"] == "rgb"
    in_imagej = image.dtype.name in _IMAGEJ_TYPES and (
        image.ndim == 2 or (colour and image.dtype == np.uint8 and image.shape[-1] == 3)
    )
    if unit and in_imagej:
        if "resolution" in metadata:
            options["resolution"] = tuple(metadata["resolution"])
            code = metadata.get("resolution_unit", "none")
            options["resolutionunit"] = _UNIT_CODES[code]
        options["imagej"] = True
        options["metadata"] = {"unit": unit, "axes": "YXS" if colour else "YX"}
    tifffile.imwrite(file, image, **options)


def write_tiff_pyramid(
    file: Path,
    shapes: Sequence[tuple[int, ...]],
    dtype: np.dtype[Any],
    tiles: Callable[[int], Iterable[NDArray[Any]]],
    side: int,
    metadata: dict[str, Any],
) -> None:
    """Write a BigTIFF in compressed tiles, with coarser levels in SubIFDs.

    Parameters
    ----------
    file : Path
    shapes : sequence of tuple
        (H, W) or (H, W, C) of each level.
    dtype : dtype
    tiles : callable
        From a level to its tiles, row by row; those at the ends may be smaller.
    side : int
        Of a tile, in pixels.
    metadata : dict
        As of `write_tiff`.
    """
    options = _options(shapes[0], dtype, metadata)
    options |= {"tile": (side, side), "compression": "zlib", "compressionargs": {"level": 1}}
    options["predictor"] = dtype.kind in "iu"

    def whole(tile: NDArray[Any]) -> NDArray[Any]:
        lacks = [(0, side - n) for n in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
        return np.pad(tile, lacks)

    with tifffile.TiffWriter(file, bigtiff=True) as writer:
        for level, shape in enumerate(shapes):
            rest = {"subfiletype": 1} if level else {"subifds": len(shapes) - 1, "metadata": None}
            if level:
                for name in ("extratags", "resolution", "resolutionunit"):
                    options.pop(name, None)
            made = (whole(tile) for tile in tiles(level))
            writer.write(made, shape=shape, dtype=dtype, **options, **rest)


def _options(
    shape: tuple[int, ...], dtype: np.dtype[Any], metadata: dict[str, Any]
) -> dict[str, Any]:
    """Options of tifffile for colours, pixel size, geotags and the value of missing pixels."""
    options: dict[str, Any] = {}
    colour = len(shape) == 3 and shape[-1] in (3, 4)
    options["photometric"] = "rgb" if colour else "minisblack"
    if colour and shape[-1] == 4:
        options["extrasamples"] = ["unassalpha"]
    unit = metadata.get("imagej_unit")
    geo = metadata.get("geotiff") or {}
    resolution, code = metadata.get("resolution"), metadata.get("resolution_unit", "none")
    # OME's pixel size stands in XML, beside tags of 1 x 1 without a unit
    no_length = resolution is None or (code == "none" and not unit)
    if no_length and "spacing" in metadata and "unit" in metadata and not geo:
        resolution, code = _resolution_of(metadata["spacing"], str(metadata["unit"]))
    elif unit in _LENGTHS_IN_CM and (spacing := _tag_spacing(metadata)) is not None:
        # plain tags hold the size that ImageJ's unit gives
        resolution, code = _resolution_of(*spacing)
    if resolution is not None:
        options["resolution"] = tuple(resolution)
        options["resolutionunit"] = _UNIT_CODES[code]
    extratags = geo_tags(geo)
    if metadata.get("nodata") is not None:
        text = f"{float(metadata['nodata']):.17g}"
        extratags.append((_NODATA_TAG, 2, 0, text, True))
    if extratags:
        options["extratags"] = extratags
    return options


def read_geotags(file: Path) -> dict[str, Any]:
    """Read the geotags of a TIFF, without its pixels: ``ImageFile.metadata["geotiff"]``."""
    with _open(file) as tiff:
        page = tiff.pages.first
        return {} if _orientation(page) > 1 else _geotags(page)


def geo_tags(tags: Mapping[str, Any]) -> list[tuple[int, int, int, Any, bool]]:
    """The geotags of ``ImageFile.metadata["geotiff"]``, as tifffile writes them."""
    return [_geo_tag(int(code), tags[code]) for code in tags if int(code) in _GEO_TAGS]


def coarser_tags(tags: Mapping[str, Any], step: tuple[float, float]) -> dict[str, Any]:
    """The geotags of a level whose pixels cover so many rows and columns.

    Empty where a control point lies beside the first corner, and could not be kept.
    """
    found, (rows, cols) = dict(tags), step
    try:
        if "34264" in found:  # a matrix (4, 4) from columns and rows
            matrix = np.array(found["34264"], float).reshape(4, 4) * [cols, rows, 1, 1]
            found["34264"] = matrix.ravel().tolist()
        elif "33550" in found and list(found["33922"])[:3] == [0, 0, 0]:
            x, y, *rest = found["33550"]
            found["33550"] = [x * cols, y * rows, *rest]
        else:
            return {}
    except (KeyError, TypeError, ValueError):
        return {}
    return found


def _geo_tag(code: int, value: Any) -> tuple[int, int, int, Any, bool]:
    if _GEO_TAGS[code] == 2:
        return code, 2, 0, str(value), True
    kind = int if _GEO_TAGS[code] == 3 else float
    values = tuple(kind(number) for number in value)
    return code, _GEO_TAGS[code], len(values), values, True


def _resolution_of(spacing: Any, unit: str) -> tuple[tuple[float, float] | None, str]:
    """Pixels per unit (x, y) and the TIFF unit, from a pixel size in any length unit."""
    length = _LENGTHS_IN_CM.get(unit)
    rows, cols = (float(value) for value in spacing)
    if length is None or rows <= 0 or cols <= 0:
        return None, "none"
    return (1 / (cols * length), 1 / (rows * length)), "cm"
