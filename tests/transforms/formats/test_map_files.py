"""Tie points, virtual rasters and the displacement lie where the fixed image lies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from napari_busref import Transform, write_image
from napari_busref.images.map_position import MapPosition, quiet_gdal
from napari_busref.transforms.formats.map_files import (
    write_displacement_map,
    write_gcp_vrt,
    write_tie_points,
    write_warped_vrt,
)

rasterio = pytest.importorskip("rasterio")

FIXED = MapPosition("EPSG:32632", (691_000, 0.5, 0, 5_335_000, 0, -0.5))
MOVING = (260, 300)


@pytest.fixture(scope="module")
def bent() -> Transform:
    """Turned by 8 degrees, of another pixel size, bent by 3 px."""
    rows, cols = np.mgrid[:320, :400]
    bending = 3 * np.stack([np.sin(cols / 40), np.cos(rows / 50)])
    turn = 0.7 * np.array([[np.cos(0.14), -np.sin(0.14)], [np.sin(0.14), np.cos(0.14)]])
    affine = np.eye(3)
    affine[:2, :2], affine[:2, 2] = turn, (30, -10)
    return Transform(affine, bending, fixed_shape=(320, 400), moving_shape=MOVING)


def check_points(transform: Transform) -> tuple[np.ndarray, np.ndarray]:
    """20 points of the fixed image, between the tie points, and where they lie in the moving."""
    pixels = np.random.default_rng(1).integers((5, 5), (315, 395), (200, 2))
    there = transform.points(pixels)
    inside = ((there > 3) & (there < np.array(MOVING) - 4)).all(1)
    assert inside.sum() > 20
    return pixels[inside][:20], there[inside][:20]


def test_virtual_rasters_are_right_at_20_points(tmp_path: Path, bent: Transform) -> None:
    moving = tmp_path / "data & more" / "moving.tif"
    moving.parent.mkdir()
    ramps = np.mgrid[: MOVING[0], : MOVING[1]].astype(np.float32) + 1
    profile = {"driver": "GTiff", "height": 260, "width": 300, "count": 2, "dtype": "float32"}
    with quiet_gdal(), rasterio.open(moving, "w", nodata=-9999, **profile) as file:
        file.write(ramps)
    (tmp_path / "out").mkdir()
    pixels, there = check_points(bent)
    path = write_warped_vrt(tmp_path / "out" / "map.vrt", bent, moving, FIXED)
    with rasterio.open(path) as file:
        assert (file.crs, file.shape) == (rasterio.crs.CRS.from_epsg(32632), (320, 400))
        assert file.transform.to_gdal() == FIXED.geotransform
        values = file.read()
        assert (values[:, 0, -1] == -9999).all()  # outside the moving image
    found = values[:, pixels[:, 0], pixels[:, 1]].T - 1
    assert np.linalg.norm(found - there, axis=1).max() < 0.5
    path = write_gcp_vrt(tmp_path / "out" / "gcps.vrt", bent, moving, FIXED)
    with rasterio.open(path) as file:
        points, crs = file.gcps
        np.testing.assert_array_equal(file.read(), ramps)
    assert crs == rasterio.crs.CRS.from_epsg(32632)
    with rasterio.transform.GCPTransformer(points, tps=True) as plate:
        xy = FIXED.to_map(pixels)
        rows, cols = plate.rowcol(*xy.T, op=lambda value: value)
    found = np.stack([rows, cols], 1) - 0.5
    assert np.linalg.norm(found - there, axis=1).max() < 0.5


def test_tie_points_hold_both_images_and_the_map(tmp_path: Path, bent: Transform) -> None:
    own = MapPosition("EPSG:32633", (245_000, 0.7, 0, 5_337_000, 0, -0.7))
    write_tie_points(tmp_path / "a.csv", bent, FIXED, own)
    write_tie_points(tmp_path / "a.geojson", bent, FIXED, own)
    with (tmp_path / "a.csv").open() as file:
        rows = [
            {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
        ]
    assert 100 < len(rows) <= 400
    for row in rows[::20]:
        here, there = ([row[f"{side}_row"], row[f"{side}_col"]] for side in ("fixed", "moving"))
        np.testing.assert_allclose(bent.points([here]), [there], atol=1e-6)
        np.testing.assert_allclose(FIXED.to_map([here]), [[row["x"], row["y"]]], atol=1e-6)
        off = own.to_map([there], "EPSG:32632") - [[row["x"], row["y"]]]
        np.testing.assert_allclose(off, [[row["map_dx"], row["map_dy"]]], atol=1e-6)
    found = json.loads((tmp_path / "a.geojson").read_text())
    assert [one["properties"] for one in found["features"]] == rows
    lonlat = found["features"][0]["geometry"]["coordinates"]
    assert lonlat == pytest.approx([11.57, 48.14], abs=0.02)
    with pytest.raises(ValueError, match=r"need \.csv or \.geojson"):
        write_tie_points(tmp_path / "a.txt", bent, FIXED)


def test_displacement_lies_on_the_map(tmp_path: Path, bent: Transform) -> None:
    path = write_displacement_map(tmp_path / "a.tif", bent, FIXED)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), bent.flow())
        assert file.transform.to_gdal() == FIXED.geotransform
        assert file.crs.to_epsg() == 32632
        assert file.descriptions == ("row displacement", "column displacement")


def test_files_that_gdal_reads_otherwise_are_refused(tmp_path: Path, bent: Transform) -> None:
    npy = write_image(tmp_path / "a.npy", np.zeros(MOVING))
    with pytest.raises(ValueError, match=r"a\.npy: need one of \.tif"):
        write_gcp_vrt(tmp_path / "a.vrt", bent, npy, FIXED)
    other = write_image(tmp_path / "a.tif", np.zeros((30, 40), np.uint8))
    with pytest.raises(ValueError, match="another orientation or size"):
        write_warped_vrt(tmp_path / "a.vrt", bent, other, FIXED)
    vrt = tmp_path / "b.tif"
    vrt.write_text('<VRTDataset rasterXSize="300" rasterYSize="260"></VRTDataset>')
    with pytest.raises(ValueError, match=r"GDAL does not read b\.tif"):
        write_gcp_vrt(tmp_path / "a.vrt", bent, vrt, FIXED)
