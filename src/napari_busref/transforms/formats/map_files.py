"""Files for GIS: tie points, virtual rasters of GDAL, and the displacement on the map."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.map_position import WGS84, MapPosition, gdal, quiet_gdal
from napari_busref.images.pictures import JPEG
from napari_busref.runtime.atomic_write import replacing
from napari_busref.transforms.transform import Transform

__all__ = [
    "tie_points",
    "write_displacement_map",
    "write_gcp_vrt",
    "write_tie_points",
    "write_warped_vrt",
]

_SIDE = 20  # tie points along each side: 400 in all, as many as a thin plate takes in 0.1 s
#: GDAL's drivers of files that hold their pixels themselves.
_DRIVERS = (
    dict.fromkeys((".tif", ".tiff", ".btf"), "GTiff")
    | dict.fromkeys(JPEG, "JPEG")
    | {
        ".png": "PNG",
        ".jp2": "JP2OpenJPEG",
        ".bmp": "BMP",
    }
)
_ROWS = 512  # of a displacement map that are computed at a time; whole tiles of GDAL
_MAX_ERROR = 0.125  # moving pixels, as gdalwarp
_Points = NDArray[np.float64]


def tie_points(transform: Transform, side: int = _SIDE) -> tuple[_Points, _Points]:
    """Return pairs of points on a regular grid of the fixed image.

    Parameters
    ----------
    transform : Transform
    side : int
        Points along each side, from edge to edge.

    Returns
    -------
    fixed_points, moving_points : ndarray of float64, shape (N, 2)
        (row, col); only those that lie in the moving image.
    """
    sides = (np.linspace(0, size - 1, side) for size in transform.fixed_shape)
    fixed = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
    moving = transform.points(fixed)
    inside = ((moving > -0.5) & (moving < np.array(transform.moving_shape) - 0.5)).all(1)
    return fixed[inside], moving[inside]


def write_tie_points(
    path: Path, transform: Transform, fixed: MapPosition, moving: MapPosition | None = None
) -> Path:
    """Write tie points as CSV or GeoJSON, by the extension.

    Each has pixels of both images, x and y in the CRS of the fixed image, and longitude and
    latitude. Where the moving image has a position, ``map_dx`` and ``map_dy`` say how far it is
    off there: its own position of the point minus that of the fixed image.

    Parameters
    ----------
    path : Path
        Ends in ``.csv`` or ``.geojson``. GeoJSON (RFC 7946) is in longitude and latitude.
    transform : Transform
    fixed : MapPosition
    moving : MapPosition, optional

    Raises
    ------
    ValueError
        For another extension.
    """
    here, there = tie_points(transform)
    xy, lonlat = fixed.to_map(here), fixed.to_map(here, WGS84)
    columns = dict(zip(("fixed_row", "fixed_col"), here.T, strict=True))
    columns |= zip(("moving_row", "moving_col"), there.T, strict=True)
    columns |= zip(("x", "y"), xy.T, strict=True)
    columns |= zip(("longitude", "latitude"), lonlat.T, strict=True)
    if moving is not None:
        columns |= zip(("map_dx", "map_dy"), (moving.to_map(there, fixed.crs) - xy).T, strict=True)
    rows = [
        {name: round(float(value), 9) for name, value in zip(columns, row, strict=True)}
        for row in np.transpose(list(columns.values()))
    ]
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".geojson"):
        raise ValueError(f"path: got {path.name}, need .csv or .geojson")
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        if suffix == ".csv":
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(rows)
        else:
            json.dump(_features(rows), file, allow_nan=False)
    return path


def _features(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [row["longitude"], row["latitude"]]},
            "properties": row,
        }
        for row in rows
    ]
    return {"type": "FeatureCollection", "features": features}


def write_displacement_map(path: Path, transform: Transform, fixed: MapPosition) -> Path:
    """Write the flow as a GeoTIFF of two float32 bands on the fixed grid, in moving pixels.

    Band 1 is the row, band 2 the column of the moving image minus that of the fixed pixel.

    Parameters
    ----------
    path : Path
    transform : Transform
    fixed : MapPosition
    """
    rasterio = gdal()
    rows, cols = transform.fixed_shape
    with (
        replacing(path) as temporary,
        rasterio.open(
            temporary,
            "w",
            driver="GTiff",
            height=rows,
            width=cols,
            count=2,
            dtype="float32",
            crs=fixed.crs,
            transform=rasterio.transform.Affine.from_gdal(*fixed.geotransform),
            tiled=True,
            compress="deflate",
            predictor=3,
            bigtiff="if_safer",
        ) as file,
    ):
        for first in range(0, rows, _ROWS):
            part = (slice(first, min(first + _ROWS, rows)), slice(0, cols))
            window = rasterio.windows.Window.from_slices(*part)
            file.write(transform.flow(part), window=window)
        file.descriptions = ("row displacement", "column displacement")
        file.units = ("pixel", "pixel")
    return path


def write_gcp_vrt(path: Path, transform: Transform, moving: Path, fixed: MapPosition) -> Path:
    """Write a virtual raster that gives the moving file ground control points.

    The pixels stay in the moving file, as they are. ``gdalwarp -tps`` and QGIS's georeferencer
    read the points.

    Parameters
    ----------
    path : Path
        ``.vrt``
    transform : Transform
    moving : Path
        The moving image; the virtual raster names it by its path relative to `path`.
    fixed : MapPosition

    Raises
    ------
    ValueError
        When GDAL cannot read the moving file as the same pixels.
    """
    source = _source(moving, transform.moving_shape)
    root = Element(
        "VRTDataset", rasterXSize=str(source["width"]), rasterYSize=str(source["height"])
    )
    root.append(_control_points(transform, fixed))
    for number, dtype in enumerate(source["dtypes"], 1):
        band = SubElement(root, "VRTRasterBand", dataType=dtype, band=str(number))
        _interpreted(band, source, number)
        part = SubElement(band, "SimpleSource")
        _name(SubElement(part, "SourceFilename"), moving, path)
        SubElement(part, "SourceBand").text = str(number)
    return _write(path, root)


def write_warped_vrt(path: Path, transform: Transform, moving: Path, fixed: MapPosition) -> Path:
    """Write a virtual raster that shows the moving file in place, on the grid of the fixed image.

    GDAL warps the moving file by a thin plate through the tie points whenever it is read.

    Parameters
    ----------
    path, transform, moving, fixed
        As of `write_gcp_vrt`.

    Raises
    ------
    ValueError
        When GDAL cannot read the moving file as the same pixels.
    """
    source = _source(moving, transform.moving_shape)
    rows, cols = transform.fixed_shape
    root = Element(
        "VRTDataset", subClass="VRTWarpedDataset", rasterXSize=str(cols), rasterYSize=str(rows)
    )
    SubElement(root, "SRS").text = fixed.crs
    SubElement(root, "GeoTransform").text = _numbers(fixed.geotransform)
    for number, dtype in enumerate(source["dtypes"], 1):
        band = SubElement(
            root,
            "VRTRasterBand",
            dataType=dtype,
            band=str(number),
            subClass="VRTWarpedRasterBand",
        )
        _interpreted(band, source, number)
    options = SubElement(root, "GDALWarpOptions")
    SubElement(options, "ResampleAlg").text = "Bilinear"
    empty = "0" if source["nodata"] is None else "NO_DATA"
    SubElement(options, "Option", name="INIT_DEST").text = empty
    _name(SubElement(options, "SourceDataset"), moving, path)
    options.append(_transformer(transform, fixed))
    bands = SubElement(options, "BandList")
    for number in range(1, len(source["dtypes"]) + 1):
        band = SubElement(bands, "BandMapping", src=str(number), dst=str(number))
        if source["nodata"] is not None:
            for side in ("Src", "Dst"):
                SubElement(band, f"{side}NoDataReal").text = repr(source["nodata"])
                SubElement(band, f"{side}NoDataImag").text = "0"
    return _write(path, root)


def _source(moving: Path, shape: tuple[int, int]) -> dict[str, Any]:
    """What GDAL reads of the moving file: size, types and colours of the bands, no data."""
    from PIL import Image

    rasterio = gdal()
    driver = _DRIVERS.get(moving.suffix.lower())
    if driver is None:
        raise ValueError(f"moving: {moving.name}: need one of {', '.join(_DRIVERS)}")
    try:
        with quiet_gdal(), rasterio.open(moving, driver=driver) as file:
            codes = (rasterio.dtypes.dtype_rev[name] for name in file.dtypes)
            found = {
                "width": file.width,
                "height": file.height,
                "dtypes": [rasterio.dtypes.typename_fwd[code] for code in codes],
                "nodata": file.nodata,
                "colours": [colour.name.capitalize() for colour in file.colorinterp],
            }
        with Image.open(moving) as picture:
            orientation = picture.getexif().get(0x0112, 1)
    except Image.UnidentifiedImageError:
        orientation = 1  # a type that Pillow lacks; tifffile read it as it is
    except (rasterio.errors.RasterioError, TypeError, OSError) as error:
        raise ValueError(f"moving: GDAL does not read {moving.name}: {error}") from None
    if (found["height"], found["width"]) != shape or orientation not in (0, 1):
        raise ValueError(f"moving: GDAL reads {moving.name} in another orientation or size")
    return found


def _interpreted(band: Element, source: dict[str, Any], number: int) -> None:
    if source["nodata"] is not None:
        SubElement(band, "NoDataValue").text = repr(source["nodata"])
    SubElement(band, "ColorInterp").text = source["colours"][number - 1]


def _name(element: Element, moving: Path, path: Path) -> None:
    try:
        element.text = Path(os.path.relpath(moving.resolve(), path.parent.resolve())).as_posix()
        element.set("relativeToVRT", "1")
    except ValueError:  # on another drive of Windows
        element.text = str(moving.resolve())
        element.set("relativeToVRT", "0")


def _control_points(transform: Transform, fixed: MapPosition) -> Element:
    """Tie points as GDAL has them: column and row from the outer corner, x and y."""
    here, there = tie_points(transform)
    if len(here) < 3:
        raise ValueError("transform: fewer than three tie points lie in the moving image")
    points = Element("GCPList", Projection=fixed.crs)
    for number, ((row, col), (x, y)) in enumerate(zip(there, fixed.to_map(here), strict=True)):
        place = {"Id": number, "Pixel": col + 0.5, "Line": row + 0.5, "X": x, "Y": y}
        SubElement(points, "GCP", {name: f"{value:.12g}" for name, value in place.items()})
    return points


def _transformer(transform: Transform, fixed: MapPosition) -> Element:
    rasterio = gdal()
    inverse = ~rasterio.transform.Affine.from_gdal(*fixed.geotransform)
    root = Element("Transformer")
    approximate = SubElement(root, "ApproxTransformer")
    SubElement(approximate, "MaxError").text = str(_MAX_ERROR)
    exact = SubElement(SubElement(approximate, "BaseTransformer"), "GenImgProjTransformer")
    plate = SubElement(SubElement(exact, "SrcTPSTransformer"), "TPSTransformer")
    SubElement(plate, "Reversed").text = "0"
    points = _control_points(transform, fixed)
    points.attrib.clear()
    plate.append(points)
    SubElement(exact, "DstGeoTransform").text = _numbers(fixed.geotransform)
    SubElement(exact, "DstInvGeoTransform").text = _numbers(inverse.to_gdal())
    return root


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:.17g}" for value in values)


def _write(path: Path, root: Element) -> Path:
    indent(root)
    with replacing(path) as temporary:
        temporary.write_bytes(tostring(root, "utf-8"))
    return path
