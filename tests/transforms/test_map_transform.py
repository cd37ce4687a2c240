"""The start of a registration by CRS and geotransform alone."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref.images.io import ImageFile
from napari_busref.images.map_position import MapPosition
from napari_busref.transforms.map_transform import map_transform

rasterio = pytest.importorskip("rasterio")
from rasterio import warp  # noqa: E402
from rasterio.transform import Affine  # noqa: E402
from rasterio.warp import Resampling, reproject  # noqa: E402

SHAPE = (300, 360)
FIXED = Affine(1, 0, 691_000, 0, -1, 5_335_000)  # Munich, 9 + 3 degrees: far from the meridian


class Placed(ImageFile):
    """An image with a place that no tags state."""

    place: MapPosition | None

    @property
    def map_position(self) -> MapPosition | None:
        return self.place


def placed(shape: tuple[int, int], crs: str, place: Affine) -> Placed:
    image = Placed(np.zeros(shape, np.uint8))
    object.__setattr__(image, "place", MapPosition(crs, place.to_gdal()))
    return image


def coordinates_in(crs: str, place: Affine, shape: tuple[int, int]) -> np.ndarray:
    """Rows and columns of the fixed image, carried to another grid by GDAL."""
    ramps = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    there = np.full((2, *shape), np.nan)
    reproject(
        ramps,
        there,
        src_transform=FIXED,
        src_crs="EPSG:32632",
        dst_transform=place,
        dst_crs=crs,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
        tolerance=0,
    )
    return there


@pytest.mark.parametrize(
    ("crs", "linear"),
    [
        ("EPSG:3035", (3, 0, 0, -3)),
        ("EPSG:4326", (2e-5, 0, 0, -1e-5)),
        ("EPSG:3857", (2, 0, 0, 2)),  # rows go north
        ("EPSG:32633", (2.4, 1.8, 1.8, -2.4)),  # turned
    ],
)
def test_start_is_within_a_tenth_of_a_pixel_by_crs_alone(
    crs: str, linear: tuple[float, float, float, float]
) -> None:
    shape = (280, 320)
    a, b, d, e = linear
    (x,), (y,) = warp.transform("EPSG:32632", crs, [691_180], [5_334_850])  # centre
    place = Affine(a, b, x - 160 * a - 140 * b, d, e, y - 160 * d - 140 * e)
    start = map_transform(placed(SHAPE, "EPSG:32632", FIXED), placed(shape, crs, place))
    assert start is not None
    truth = coordinates_in(crs, place, shape)
    grid = np.moveaxis(np.mgrid[: shape[0], : shape[1]], 0, -1)
    inside = np.isfinite(truth).all(0)
    assert inside.sum() > 2000
    found = start.points(np.moveaxis(truth, 0, -1)[inside])
    error = np.linalg.norm(found - grid[inside], axis=1)
    edge = ((truth > 5) & (truth < np.reshape(SHAPE, (2, 1, 1)) - 6)).all(0)[inside]
    assert error[edge].max() < 0.1  # GDAL's samples at the border are not linear


def test_a_wide_pair_gets_a_displacement() -> None:
    """At 400 m a pixel, 280 km: an affine misses by several pixels."""
    coarse = Affine(400, 0, 551_000, 0, -400, 5_475_000)
    fixed = placed((700, 700), "EPSG:32632", coarse)
    moving = placed((600, 600), "EPSG:4326", Affine(0.006, 0, 9, 0, -0.005, 50))
    start = map_transform(fixed, moving)
    assert start is not None and start.displacement is not None
    pixels = np.random.default_rng(0).uniform(0, 699, (20, 2))
    east, north = 551_000 + 400 * (pixels[:, 1] + 0.5), 5_475_000 - 400 * (pixels[:, 0] + 0.5)
    x, y = warp.transform("EPSG:32632", "EPSG:4326", east, north)
    truth = np.stack([(50 - np.array(y)) / 0.005 - 0.5, (np.array(x) - 9) / 0.006 - 0.5], 1)
    np.testing.assert_allclose(start.points(pixels), truth, atol=0.05)
    linear = pixels @ start.affine[:2, :2].T + start.affine[:2, 2]
    assert np.linalg.norm(linear - truth, axis=1).max() > 3


def test_images_apart_and_images_without_a_place() -> None:
    fixed = placed(SHAPE, "EPSG:32632", FIXED)
    with pytest.raises(ValueError, match="do not overlap on the map"):
        map_transform(fixed, placed(SHAPE, "EPSG:32632", Affine(1, 0, 691_400, 0, -1, 5_335_000)))
    assert map_transform(fixed, ImageFile(np.zeros(SHAPE))) is None
    small = placed((4, 4), "EPSG:32632", Affine(1, 0, 691_005, 0, -1, 5_334_995))
    assert map_transform(fixed, small) is not None
    assert map_transform(small, fixed) is not None
