"""`MapPosition`: where the pixels of an image lie on the Earth, from the tags of GeoTIFF."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_busref.images.tiff import geo_tags
from napari_busref.runtime.file_safety import Refused

__all__ = ["WGS84", "MapPosition", "gdal", "has_map_position", "quiet_gdal"]

#: Longitude and latitude in degrees.
WGS84 = "EPSG:4326"
_KEYS, _PROJECTED, _GEOGRAPHIC = "34735", 3072, 2048
_USER_DEFINED = 32767
_GRID_FILE = re.compile(r"\+?(?:nad|geoid)?grids=(?!@null)", re.IGNORECASE)


@dataclass(frozen=True)
class MapPosition:
    """The coordinate reference system (CRS) of an image, and its place there.

    It is small, can be pickled, and holds no open file.

    Parameters
    ----------
    crs : str
        Anything that PROJ knows: ``"EPSG:32632"``, WKT or a PROJ string.
    geotransform : tuple of 6 float
        As of GDAL: ``x = g[0] + g[1] col + g[2] row`` and ``y = g[3] + g[4] col + g[5] row``. The
        outer corner of the first pixel is row 0, column 0; x is easting or longitude.

    Raises
    ------
    ValueError
        When PROJ does not know the CRS, or the geotransform cannot be inverted.
    ModuleNotFoundError
        Without rasterio (``napari-busref[geo]``).
    """

    crs: str
    geotransform: tuple[float, float, float, float, float, float]

    def __post_init__(self) -> None:
        values = np.asarray(self.geotransform, float)
        if values.shape != (6,) or not np.isfinite(values).all():
            raise ValueError(f"geotransform: got {self.geotransform}, need six numbers")
        if values[1] * values[5] == values[2] * values[4]:
            raise ValueError(f"geotransform: got {self.geotransform}, which cannot be inverted")
        object.__setattr__(self, "geotransform", tuple(values.tolist()))
        _crs(self.crs)

    def __repr__(self) -> str:
        return f"MapPosition({self.name!r}, {self.geotransform})"

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> MapPosition | None:
        """Read the position of an image from its geotags.

        GDAL gets the tags in an empty file in memory, and never the file itself. So it opens
        no neighbour, such as ``.aux.xml`` or a world file.

        Parameters
        ----------
        metadata : mapping
            Of `ImageFile`.

        Returns
        -------
        MapPosition or None
            None without a CRS or without a place. Control points give the affine that fits best.

        Raises
        ------
        ValueError, ModuleNotFoundError
            As `MapPosition`.
        """
        tags = metadata.get("geotiff") or {}
        if not has_map_position(metadata):
            return None
        rasterio = gdal()
        import tifffile

        stream, pixel = io.BytesIO(), np.zeros((1, 1), np.uint8)
        tifffile.imwrite(stream, pixel, metadata=None, extratags=geo_tags(tags))
        with (
            quiet_gdal(),
            rasterio.MemoryFile(stream.getvalue()) as memory,
            memory.open(driver="GTiff") as opened,
        ):
            crs, place, (points, points_crs) = opened.crs, opened.transform, opened.gcps
        if place.is_identity and len(points) >= 3:
            crs, place = points_crs or crs, rasterio.transform.from_gcps(points)
        if place.is_identity:
            return None
        code = _declared_code(tags)
        if crs is None or not (crs.is_projected or crs.is_geographic):
            if code is None:
                return None
            raise ValueError(f"crs: the file declares EPSG:{code}, which PROJ does not know")
        return cls(crs.to_wkt(), place.to_gdal())

    @property
    def name(self) -> str:
        """A short name of the CRS, such as ``"EPSG:32632"``."""
        crs = _crs(self.crs)
        code = crs.to_epsg(confidence_threshold=100)
        return f"EPSG:{code}" if code else crs.to_wkt().partition('"')[2].partition('"')[0]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Matrix from ``(row, col, 1)``, pixel centres at integers, to ``(x, y, 1)``; (3, 3)."""
        x, x_col, x_row, y, y_col, y_row = self.geotransform
        from_corner = np.array([[x_row, x_col, x], [y_row, y_col, y], [0, 0, 1]])
        half = np.eye(3)
        half[:2, 2] = 0.5
        return np.asarray(from_corner @ half)

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Size of a pixel along rows and columns, in the unit of the CRS."""
        height, width = np.hypot(*self.matrix[:2, :2]).tolist()
        return height, width

    def __str__(self) -> str:
        height, width = (f"{size:.4g}" for size in self.pixel_size)
        size = height if height == width else f"{height} x {width}"
        crs = _crs(self.crs)
        unit = "°" if crs.is_geographic else f" {crs.linear_units}"
        return f"{self.name}, {size}{unit} a pixel"

    def to_map(self, points: ArrayLike, crs: str | None = None) -> NDArray[np.float64]:
        """Map positions in pixels to a CRS.

        Parameters
        ----------
        points : array_like, shape (N, 2)
            (row, col), pixel centres at integers.
        crs : str, optional
            By default that of the image.

        Returns
        -------
        ndarray of float64, shape (N, 2)
            (x, y): easting and northing, or longitude and latitude, whatever the order of the
            axes in the definition of the CRS. Infinite where the CRS does not reach.
        """
        xy = np.asarray(points, float) @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        return xy if crs is None else _converted(xy, self.crs, crs)

    def to_pixels(self, xy: ArrayLike, crs: str | None = None) -> NDArray[np.float64]:
        """Map positions (x, y) in a CRS to pixels (row, col): the inverse of `to_map`."""
        own = np.asarray(xy, float)
        if crs is not None:
            own = _converted(own, crs, self.crs)
        with np.errstate(invalid="ignore"):  # infinite where the CRS does not reach
            return np.asarray((own - self.matrix[:2, 2]) @ np.linalg.inv(self.matrix[:2, :2]).T)


def has_map_position(metadata: Mapping[str, Any]) -> bool:
    """Whether the tags of an image name a CRS and a place; needs no rasterio."""
    tags = metadata.get("geotiff") or {}
    return _KEYS in tags and ("33922" in tags or "34264" in tags)


def gdal() -> Any:
    """Import rasterio.

    Raises
    ------
    ModuleNotFoundError
        With the command that installs it.
    """
    try:
        import rasterio
        import rasterio.shutil
        import rasterio.transform
        import rasterio.warp
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "map positions need rasterio: pip install 'napari-busref[geo]'", name="rasterio"
        ) from error
    return rasterio


@contextmanager
def quiet_gdal() -> Iterator[None]:
    """GDAL without neighbours of a file, and without a warning for a file without a place."""
    import warnings

    rasterio = gdal()
    with warnings.catch_warnings(), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def _crs(text: str) -> Any:
    rasterio = gdal()
    if _GRID_FILE.search(text):
        raise Refused("crs: names a grid file, which is not opened")
    try:
        with rasterio.Env():
            return rasterio.crs.CRS.from_user_input(text)
    except rasterio.errors.CRSError as error:
        raise ValueError(f"crs: PROJ does not know {text[:80]!r}: {error}") from None


def _declared_code(tags: Mapping[str, Any]) -> int | None:
    """The EPSG code in the geokeys (GeoTIFF 1.1, 7.5), if they name one."""
    keys = tags[_KEYS]
    entries = {keys[i]: keys[i + 3] for i in range(4, len(keys) - 3, 4) if keys[i + 1] == 0}
    codes = [entries.get(key, _USER_DEFINED) for key in (_PROJECTED, _GEOGRAPHIC)]
    return next((code for code in codes if 0 < code < _USER_DEFINED), None)


def _converted(xy: NDArray[np.float64], source: str, target: str) -> NDArray[np.float64]:
    one, other = _crs(source), _crs(target)
    if one == other:
        return xy
    rasterio = gdal()
    try:
        x, y = rasterio.warp.transform(one, other, *xy.T.tolist())
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"crs: PROJ cannot convert between the two: {error}") from None
    return np.stack([x, y], axis=-1)
