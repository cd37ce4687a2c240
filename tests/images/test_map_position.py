"""Where the pixels of GeoTIFFs lie: axis order, flipped rows, turned grids, unknown CRS."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_busref import read_image
from napari_busref.images.map_position import MapPosition

rasterio = pytest.importorskip("rasterio")
from rasterio import warp  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

UTM = Affine(0.5, 0, 5e5, 0, -0.5, 5.4e6)


def geotiff(path: Path, crs: object, place: Affine, image: np.ndarray | None = None) -> Path:
    image = np.zeros((30, 40), np.uint8) if image is None else image
    height, width = image.shape
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width}
    with rasterio.open(path, "w", crs=crs, transform=place, dtype=image.dtype, **profile) as file:
        file.write(image, 1)
    return path


@pytest.mark.parametrize(
    ("crs", "place", "words"),
    [
        ("EPSG:32632", UTM, "EPSG:32632, 0.5 metre a pixel"),
        ("EPSG:3035", Affine(3, 0, 4e6, 0, -3, 3e6), "EPSG:3035, 3 metre a pixel"),  # y, x
        ("EPSG:4326", Affine(1e-5, 0, 9, 0, -2e-5, 48), "EPSG:4326, 2e-05 x 1e-05° a pixel"),
        ("EPSG:2263", Affine(1, 0, 9e5, 0, -1, 2e5), "EPSG:2263, 1 US survey foot a pixel"),
        ("EPSG:32632", Affine(1, 0, 5e5, 0, 1, 5.4e6), "EPSG:32632, 1 metre a pixel"),  # flipped
        ("EPSG:32632", Affine(0.6, 0.8, 5e5, 0.8, -0.6, 5.4e6), "EPSG:32632, 1 metre a pixel"),
    ],
)
def test_position_is_that_of_gdal(tmp_path: Path, crs: str, place: Affine, words: str) -> None:
    found = pickle.loads(
        pickle.dumps(read_image(geotiff(tmp_path / "a.tif", crs, place)).map_position)
    )
    assert str(found) == words
    assert found.geotransform == pytest.approx(place.to_gdal())
    pixels = np.array([[0, 0], [29, 0], [7.5, 33]])
    corners = np.insert(pixels[:, ::-1] + 0.5, 2, 1, axis=1)  # (col, row, 1)
    xy = corners @ np.reshape(place[:6], (2, 3)).T
    np.testing.assert_allclose(found.to_map(pixels), xy, rtol=1e-12)
    lonlat = found.to_map(pixels, "EPSG:4326")
    x, y = warp.transform(crs, "EPSG:4326", *np.transpose(xy))
    np.testing.assert_allclose(lonlat, np.transpose([x, y]), rtol=1e-12)
    np.testing.assert_allclose(found.to_pixels(lonlat, "EPSG:4326"), pixels, atol=1e-3)


def test_longitude_comes_first_although_epsg_4326_begins_with_latitude() -> None:
    europe = MapPosition("EPSG:3035", (4321000, 1, 0, 3210000, 0, -1))
    np.testing.assert_allclose(europe.to_map([[-0.5, -0.5]], "EPSG:4326"), [[10, 52]], atol=1e-7)


def tagged(path: Path, tags: list[tuple[object, ...]]) -> MapPosition | None:
    tifffile.imwrite(path, np.zeros((30, 40), np.uint8), extratags=tags)
    return read_image(path).map_position


def keys(code: int, pixel_is: int = 1) -> tuple[object, ...]:
    values = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, pixel_is, 3072, 0, 1, code)
    return (34735, 3, len(values), values, True)


PLACE = [(33550, 12, 3, (2.0, 2.0, 0.0), True), (33922, 12, 6, (0, 0, 0, 5e5, 5e6, 0.0), True)]


def test_pixel_is_point_puts_the_tie_point_on_a_centre(tmp_path: Path) -> None:
    centre = tagged(tmp_path / "a.tif", [*PLACE, keys(32631, pixel_is=2)])
    corner = tagged(tmp_path / "b.tif", [*PLACE, keys(32631)])
    assert centre is not None and corner is not None
    assert centre.to_map([[0, 0]]).tolist() == [[5e5, 5e6]]
    assert corner.to_map([[0, 0]]).tolist() == [[5e5 + 1, 5e6 - 1]]


def test_control_points_give_an_affine(tmp_path: Path) -> None:
    corners = [(0, 0), (40, 0), (40, 30), (0, 30)]
    points = [n for col, row in corners for n in (col, row, 0, 5e5 + 2 * col, 5e6 - 3 * row, 0)]
    found = tagged(tmp_path / "a.tif", [(33922, 12, 24, tuple(points), True), keys(32631)])
    assert found is not None
    assert found.geotransform == pytest.approx((5e5, 2, 0, 5e6, 0, -3), abs=1e-6)


@pytest.mark.parametrize("tags", [[], PLACE, [keys(32631)]], ids=["no tags", "no CRS", "no place"])
def test_an_image_without_crs_or_place_has_none(tmp_path: Path, tags: list[object]) -> None:
    assert tagged(tmp_path / "a.tif", tags) is None


def test_an_unknown_crs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="EPSG:29999, which PROJ does not know"):
        tagged(tmp_path / "a.tif", [*PLACE, keys(29999)])
    with pytest.raises(ValueError, match="PROJ does not know 'EPSG:1'"):
        MapPosition("EPSG:1", UTM.to_gdal())
    with pytest.raises(ValueError, match="names a grid file"):
        MapPosition("+proj=longlat +nadgrids=/etc/passwd", UTM.to_gdal())
    with pytest.raises(ValueError, match="cannot be inverted"):
        MapPosition("EPSG:32632", (0, 1, 1, 0, 1, 1))


def test_neighbours_of_a_file_are_not_opened(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "a.tif", "EPSG:32632", UTM)
    (tmp_path / "a.tfw").write_text("9\n0\n0\n-9\n1\n1\n")
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:3035</SRS></PAMDataset>")
    found = read_image(path).map_position
    assert found is not None and found.name == "EPSG:32632"
    assert found.geotransform == UTM.to_gdal()


@pytest.mark.parametrize("suffix", [".vrt", ".tif"])
def test_a_virtual_raster_with_foreign_files_is_no_image(tmp_path: Path, suffix: str) -> None:
    geotiff(tmp_path / "secret.tif", "EPSG:32632", UTM)
    source = '<SourceFilename relativeToVRT="1">secret.tif</SourceFilename>'
    band = f'<VRTRasterBand band="1"><SimpleSource>{source}</SimpleSource></VRTRasterBand>'
    path = tmp_path / f"a{suffix}"
    path.write_text(f'<VRTDataset rasterXSize="40" rasterYSize="30">{band}</VRTDataset>')
    with pytest.raises(ValueError, match=r"not accepted|cannot be read as TIF"):
        read_image(path)
    with pytest.raises(FileNotFoundError):
        read_image("/vsicurl/http://localhost/a.tif")
