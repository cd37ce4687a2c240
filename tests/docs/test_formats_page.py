"""The Python of docs/reference/formats.md runs and says the same as this package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from napari_busref import ImageGrid, Transform, write_image, write_transform

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "formats.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
SHAPE = (40, 50)


def block(contains: str) -> str:
    (found,) = [text for text in BLOCKS if contains in text]
    return found


@pytest.fixture
def image() -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 2)
    return (smooth / np.abs(smooth).max()).astype(np.float32)


@pytest.fixture
def transform() -> Transform:
    field = np.random.default_rng(1).normal(size=(2, *SHAPE)) * 30
    field = ndimage.gaussian_filter(field, (0, 6, 6))
    affine = [[0.95, 0.05, 1.0], [-0.04, 0.97, 2.0], [0, 0, 1]]
    return Transform(affine, field, fixed_shape=SHAPE, moving_shape=SHAPE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_block_writes_and_reads(folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(block("shift = Transform"), names)
    np.testing.assert_allclose(names["again"].transform.affine, names["shift"].affine, atol=1e-9)
    assert {one.name for one in folder.iterdir()} == {"pair.busref.h5", "pair.tfm"}


def test_own_file_without_this_package(folder: Path, transform: Transform, image: Any) -> None:
    write_transform("pair.busref.h5", transform)
    names = {"moving": image}
    exec(block("import h5py"), names)
    mask = transform.mask()
    np.testing.assert_allclose(names["warped"][mask], transform.apply(image)[mask], atol=1e-5)


def test_simpleitk_warps_image_files(folder: Path, transform: Transform, image: Any) -> None:
    sitk = pytest.importorskip("SimpleITK")
    size = {"spacing": (0.05, 0.04), "unit": "cm"}
    for name in ("visible.tif", "infrared.tif"):
        write_image(name, image, metadata=size)
    grid = ImageGrid(SHAPE, (0.05, 0.04), unit="cm")
    inside = ndimage.binary_erosion(transform.mask())
    for code, name in ((block("sitk.ReadTransform"), "pair.tfm"), (block("empties"), "pair.nrrd")):
        write_transform(name, transform, fixed=grid, moving=grid)
        names = {
            "fixed": sitk.ReadImage("visible.tif"),
            "moving": sitk.ReadImage("infrared.tif"),
        }
        exec(code, names)
        found = sitk.GetArrayFromImage(names["warped"])
        assert np.abs(found - transform.apply(image))[inside].max() < 1e-3


def test_numbers_read_by_numpy(folder: Path, transform: Transform) -> None:
    grid = ImageGrid(SHAPE, (0.5, 0.25), unit="mm")
    write_transform("pair.tfm", transform, fixed=grid, moving=grid, affine_only=True)
    write_transform("pair.csv", transform, fixed=grid, moving=grid, affine_only=True)
    row, col = 3.0 * 0.5, 4.0 * 0.25
    wanted = (transform.affine @ (3.0, 4.0, 1.0))[:2] * (0.5, 0.25)
    names: dict[str, Any] = {"fixed_row": row, "fixed_col": col}
    exec(block("matrix_xy"), names)
    np.testing.assert_allclose((names["matrix_xy"] @ (col, row, 1))[1::-1], wanted)
    exec(block("moving_position"), names)
    np.testing.assert_allclose(names["moving_position"][:2], wanted)


def test_vectors_of_the_fields(folder: Path, transform: Transform) -> None:
    pytest.importorskip("SimpleITK")
    grid = ImageGrid(SHAPE, (0.5, 0.25), (1.0, 2.0), unit="mm")
    write_transform("pair.nrrd", transform, fixed=grid, moving=grid)
    names: dict[str, Any] = {}
    exec(block("spacing_xy"), names)
    step = (transform.points((3, 4)) - (3, 4)) * (0.5, 0.25)
    np.testing.assert_allclose(names["vectors"][3, 4], step[::-1], atol=1e-9)
    assert (names["spacing_xy"], names["origin_xy"]) == ((0.25, 0.5), (2.0, 1.0))


def test_vectors_of_ome_ngff(folder: Path, transform: Transform) -> None:
    pytest.importorskip("zarr")
    write_transform("pair.ome.zarr", transform)
    names: dict[str, Any] = {}
    exec(block("import json"), names)
    np.testing.assert_array_equal(names["vectors"], transform.displacement)
    np.testing.assert_array_equal(names["matrix"], transform.affine[:2])
