"""What commands write on the grid of a GeoTIFF lies where it lies."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from napari_busref import read_image, write_image
from napari_busref._cli.main import app

SHAPE = (40, 48)
KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def geotiff(path: Path, image: np.ndarray, pixel: float, east: float) -> Path:
    tags = [
        (33550, 12, 3, (pixel, pixel, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, east, 4.6e6, 0.0), True),
        (34735, 3, len(KEYS), KEYS, True),
    ]
    tifffile.imwrite(path, image, extratags=tags)
    return path


def place(path: Path) -> tuple[object, ...]:
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        return tuple(tags[code].value for code in (33550, 33922, 34735) if code in tags)


@pytest.mark.parametrize("command", ["register", "run"])
def test_results_lie_where_the_fixed_image_lies(tmp_path: Path, command: str) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(1, 255, SHAPE, np.uint8)
    fixed = geotiff(tmp_path / "visible.tif", grey, 0.5, 5e5)
    celsius = rng.normal(20, 5, SHAPE).astype(np.float32)
    moving = geotiff(tmp_path / "thermal.tif", celsius, 1.5, 7e5)
    out = tmp_path / "out"
    fusion = ["--fusion-model", "average"] if command == "run" else []
    result = invoke(command, fixed, moving, "-o", out, "--model", "identity", *fusion)
    assert result.exit_code == 0, result.output
    for what in ("warped", "mask", *(["fused"] if command == "run" else [])):
        assert place(out / f"thermal_{what}.tif") == place(fixed), what
    transform = out / "thermal.busref.h5"
    for inverse, image, expected in (([], moving, fixed), (["--inverse"], fixed, moving)):
        target = tmp_path / f"applied{len(inverse)}.tif"
        result = invoke("apply", transform, image, "-o", target, *inverse)
        assert result.exit_code == 0, result.output
        assert place(target) == place(expected)


rasterio = pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def landscape() -> np.ndarray:
    """A textured scene."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=(240, 280))
    scene = sum(gaussian_filter(noise, sigma) * sigma for sigma in (2, 5, 12))
    return np.uint8(np.clip(128 + 90 * scene / np.abs(scene).max() * 2, 1, 255))


def projected(path: Path, image: np.ndarray, crs: str, moved: float = 0.0) -> Path:
    """Write the scene in UTM 32, or as GDAL projects it; `moved` metres off to the east."""
    from rasterio.transform import Affine
    from rasterio.warp import calculate_default_transform, reproject

    source, place = "EPSG:32632", Affine(1, 0, 691_000, 0, -1, 5_335_000)
    rows, cols = image.shape
    if crs != source:
        bounds = (691_000, 5_335_000 - rows, 691_000 + cols, 5_335_000)
        there, width, height = calculate_default_transform(
            source, crs, cols, rows, *bounds, resolution=1.5
        )
        warped = np.zeros((height, width), image.dtype)
        reproject(
            image, warped, src_transform=place, src_crs=source, dst_transform=there, dst_crs=crs
        )
        image, place = warped, there
    place = Affine(place.a, place.b, place.c + moved, place.d, place.e, place.f)
    profile = {"driver": "GTiff", "count": 1, "height": image.shape[0], "width": image.shape[1]}
    with rasterio.open(
        path, "w", crs=crs, transform=place, dtype=image.dtype, nodata=0, **profile
    ) as file:
        file.write(image, 1)
    return path


def test_a_pair_in_two_projections_starts_where_both_lie(
    tmp_path: Path, landscape: np.ndarray
) -> None:
    """Without search and refinement the result is the start; its content is that of FIXED."""
    fixed = projected(tmp_path / "visible.tif", landscape, "EPSG:32632")
    moving = projected(tmp_path / "thermal.tif", landscape, "EPSG:3035")
    out = tmp_path / "out"
    options = ["--model", "identity", "--map-files", "--flow", "--format", "cog"]
    result = invoke("run", fixed, moving, "-o", out, *options, "--fusion-model", "average")
    assert result.exit_code == 0, result.output
    with rasterio.open(out / "thermal_warped.tif") as file:
        warped = file.read(1, masked=True)
    assert warped.count() > 0.9 * landscape.size
    inner = (slice(8, -8),) * 2
    off = np.abs(warped[inner].astype(float) - landscape[inner])
    assert np.ma.median(off) < 4  # of 255; a shift of 2 px leaves 13
    report = json.loads((out / "thermal_report.json").read_text())
    assert report["parameters"]["initial"] == "map"
    assert report["parameters"]["map"]["moving"] == "EPSG:3035, 1.5 metre a pixel"
    with rasterio.open(fixed) as file:
        place = file.crs, file.transform, file.shape
    for what in ("warped", "mask", "fused", "displacement"):
        with rasterio.open(out / f"thermal_{what}.tif") as file:
            assert (file.crs, file.transform, file.shape) == place, what
    for what in ("map.vrt", "gcps.vrt", "tiepoints.csv", "tiepoints.geojson"):
        assert (out / f"thermal_{what}").exists(), what
    with rasterio.open(out / "thermal_map.vrt") as file:
        shown = file.read(1, masked=True)[inner]
    assert np.ma.median(np.abs(shown.astype(float) - landscape[inner])) < 4
    assert invoke("run", fixed, moving, "-o", out, *options).exit_code == 2  # all exist


def test_cog_has_tiles_and_overviews(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (1100, 1300, 3), np.uint8)
    fixed = projected(tmp_path / "a.tif", image[..., 0], "EPSG:32632")
    path = write_image(tmp_path / "b.tif", image, read_image(fixed).metadata, cloud=True)
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1) == [2, 4]
        assert file.crs.to_epsg() == 32632 and file.nodata == 0
    np.testing.assert_array_equal(np.ma.getdata(read_image(path).data), image)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(("plain", "."))] == []
    with pytest.raises(ValueError, match="need \\(H, W\\)"):
        write_image(tmp_path / "c.tif", np.zeros((5, 30, 40), np.uint8), cloud=True)


def test_maps_that_do_not_help_are_named(tmp_path: Path, landscape: np.ndarray) -> None:
    fixed = projected(tmp_path / "visible.tif", landscape, "EPSG:32632")
    far = projected(tmp_path / "far.tif", landscape, "EPSG:32632", moved=1e5)
    identity = ["--model", "identity"]
    result = invoke("register", fixed, far, "-o", tmp_path / "out", *identity)
    assert result.exit_code == 0, result.output
    assert "do not overlap on the map (EPSG:32632 and EPSG:32632)" in result.output
    unknown = tmp_path / "unknown.tif"
    tags = [(33550, 12, 3, (1, 1, 0.0), True), (33922, 12, 6, (0, 0, 0, 691e3, 5335e3, 0.0), True)]
    codes = (*KEYS[:-1], 29999)
    tags.append((34735, 3, len(codes), codes, True))
    tifffile.imwrite(unknown, landscape, extratags=tags)
    result = invoke("register", fixed, unknown, "-o", tmp_path / "out", *identity)
    assert result.exit_code == 2
    assert f"{unknown}: crs: the file declares EPSG:29999, which PROJ does not" in result.output
    result = invoke("register", fixed, unknown, "-o", tmp_path / "out", *identity, "--ignore-map")
    assert result.exit_code == 0, result.output
    plain = tmp_path / "plain.tif"
    tifffile.imwrite(plain, landscape)
    result = invoke("register", plain, fixed, "-o", tmp_path / "out", *identity, "--map-files")
    assert result.exit_code == 2 and "has no map position, need a GeoTIFF" in result.output


def test_without_rasterio_a_line_says_so(
    tmp_path: Path, landscape: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = projected(tmp_path / "visible.tif", landscape, "EPSG:32632")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    result = invoke("register", fixed, fixed, "-o", tmp_path / "out", "--model", "identity")
    assert result.exit_code == 0, result.output
    assert "pip install 'napari-busref[geo]'" in result.output
