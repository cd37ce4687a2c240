"""The command convert."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from napari_busref import (
    ImageGrid,
    Transform,
    TransformFile,
    read_transform,
    write_image,
    write_transform,
)
from napari_busref._cli.main import app

FIXED, MOVING = (40, 56), (30, 44)
AFFINE = np.array([[0.75, 0.05, 1.0], [-0.04, 0.77, -2.0], [0.0, 0.0, 1.0]])
GRIDS = {
    "fixed": ImageGrid(FIXED, (0.5, 0.5), unit="mm"),
    "moving": ImageGrid(MOVING, (0.25, 0.25), unit="cm"),
}


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def error_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.fixture
def transform() -> Transform:
    field = np.random.default_rng(0).normal(size=(2, *FIXED)) / 20  # folds nowhere
    return Transform(AFFINE, field, fixed_shape=FIXED, moving_shape=MOVING)


@pytest.fixture
def own(tmp_path: Path, transform: Transform) -> Path:
    names = {"fixed": "a.tif", "moving": "b.tif", "quality": {"score": 0.5}}
    return write_transform(tmp_path / "own.busref.h5", transform, **GRIDS, metadata=names)


@pytest.fixture
def images(tmp_path: Path) -> list[object]:
    """Options with two image files, of which one knows its pixel size."""
    tifffile.imwrite(
        tmp_path / "fixed.tif",
        np.zeros(FIXED, np.uint8),
        resolution=(20, 20),
        resolutionunit="CENTIMETER",
    )
    write_image(tmp_path / "moving.png", np.zeros(MOVING, np.uint8))
    return ["--fixed", tmp_path / "fixed.tif", "--moving", tmp_path / "moving.png"]


def test_to_itk_and_back(tmp_path, own, transform):
    pytest.importorskip("SimpleITK")
    result = convert(own, tmp_path / "out.tfm")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "out.tfm")
    found = read_transform(tmp_path / "out.tfm", **GRIDS).transform
    np.testing.assert_allclose(found.points((3, 4)), transform.points((3, 4)), atol=1e-5)


def test_images_give_the_pixel_size(tmp_path, images):
    affine = Transform(AFFINE, fixed_shape=FIXED, moving_shape=MOVING)
    grids = {"fixed": GRIDS["fixed"], "moving": ImageGrid(MOVING)}
    path = write_transform(tmp_path / "ants.tfm", affine, **grids)
    assert convert(path, tmp_path / "in.busref.h5", *images).exit_code == 0
    found = read_transform(tmp_path / "in.busref.h5")
    np.testing.assert_allclose(found.transform.affine, AFFINE, atol=1e-12)
    assert found.fixed == ImageGrid(FIXED, (0.05, 0.05), unit="cm")
    assert found.moving == ImageGrid(MOVING)


def test_inverse_and_affine_only(tmp_path, own):
    out = tmp_path / "out.busref.h5"
    assert convert(own, out, "--inverse", "--affine-only").exit_code == 0
    found = read_transform(out)
    np.testing.assert_allclose(found.transform.affine, np.linalg.inv(AFFINE), atol=1e-12)
    assert found.transform.displacement is None
    assert (found.fixed, found.moving) == (GRIDS["moving"], GRIDS["fixed"])
    assert found.metadata == {"fixed": "b.tif", "moving": "a.tif"}


def test_a_stack_keeps_its_transforms_where_the_format_holds_them(tmp_path, transform):
    other = Transform(AFFINE, fixed_shape=FIXED, moving_shape=MOVING)
    planes = {(0,): TransformFile(transform, **GRIDS), (4,): TransformFile(other, **GRIDS)}
    path = write_transform(tmp_path / "stack.busref.h5", transform, **GRIDS, planes=planes)
    assert convert(path, tmp_path / "back.busref.h5", "--inverse").exit_code == 0
    back = read_transform(tmp_path / "back.busref.h5").planes
    assert list(back) == [(0,), (4,)]
    np.testing.assert_allclose(back[4,].transform.affine, np.linalg.inv(AFFINE), atol=1e-12)
    assert back[4,].fixed == GRIDS["moving"]
    result = convert(path, tmp_path / "one.csv", "--affine-only")
    assert result.exit_code == 0
    assert "holds the transform of the displayed plane" in " ".join(result.stderr.split())


def test_refusals_are_one_line(tmp_path, own, images, monkeypatch):
    out = tmp_path / "out.csv"
    assert "affine_only=True leaves it out" in error_line(convert(own, out))
    assert convert(own, out, "--affine-only").exit_code == 0
    assert "--overwrite" in error_line(convert(own, out, "--affine-only"))
    assert convert(own, out, "--affine-only", "--overwrite").exit_code == 0
    assert "need the grid of the fixed image" in error_line(convert(out, tmp_path / "a.tfm"))
    assert "need a name that ends in" in error_line(convert(own, tmp_path / "a.xyz"))
    assert "there is no file" in error_line(
        convert(tmp_path / "no.tfm", out, *images, "--overwrite")
    )
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    line = error_line(convert(own, tmp_path / "a.nrrd"))
    assert "needs SimpleITK: pip install 'napari-busref[itk]'" in line
