"""`apply`: labels by nearest neighbour, tables of points, the value outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from napari_busref._cli.main import app
from napari_busref.images.io import read_image, write_image
from napari_busref.transforms.transform import Transform

SHAPE = (40, 50)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A shift by half a pixel and more, which interpolation would show."""
    matrix = [[1, 0.02, 2.5], [-0.02, 1, -3.5], [0, 0, 1]]
    return Transform(matrix, fixed_shape=SHAPE, moving_shape=SHAPE).save(tmp_path / "t.busref.h5")


def cells(count: int) -> np.ndarray:
    """Squares of 4 x 4 pixels with distinct values on a background of 0."""
    image = np.zeros(SHAPE, np.int32)
    for number in range(count):
        row, col = divmod(number, 9)
        image[1 + 5 * row : 5 + 5 * row, 1 + 5 * col : 5 + 5 * col] = 1000 + 7 * number
    return image


@pytest.mark.parametrize(
    "labels",
    [
        np.random.default_rng(0).integers(0, 5, SHAPE, np.uint8) * 40,
        np.where(np.indices(SHAPE).sum(0) < 40, 10, 40).astype(np.uint16),
        cells(60),
        np.dstack([(cells(20) % 251).astype(np.uint8)] * 3),
        (cells(12) > 0),
        cells(8).astype(np.float32),
    ],
    ids=["few", "two", "cells", "colours", "bool", "floats"],
)
def test_labels_stay_labels(tmp_path: Path, half: Path, labels: np.ndarray) -> None:
    write_image(tmp_path / "labels.tif", labels)
    result = invoke("apply", half, tmp_path / "labels.tif", "-o", tmp_path / "out.tif")
    assert result.exit_code == 0, result.output
    assert "taken for labels: nearest pixel" in " ".join(result.stderr.split())
    there = np.ma.getdata(read_image(tmp_path / "out.tif").data)
    new = np.unique(there[np.isfinite(there)])
    assert set(new.tolist()) <= {*np.unique(labels).tolist(), 0}
    assert len(new) > 1

    mixed = ["apply", half, tmp_path / "labels.tif", "-o", tmp_path / "mixed.tif", "--order", 1]
    result = invoke(*mixed)
    assert result.exit_code == 0
    assert "--order 1 mixes labels" in " ".join(result.stderr.split())
    exact = invoke(*mixed[:-1], 0, "--overwrite")
    assert exact.exit_code == 0 and exact.stderr == ""


@pytest.mark.parametrize("sigma", [0, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_are_interpolated(tmp_path: Path, half: Path, dtype: type, sigma: float) -> None:
    rows, cols = np.indices(SHAPE)
    noise = np.random.default_rng(0).normal(0, sigma, SHAPE)
    image = (60 + rows + 0.5 * cols + noise).astype(dtype)
    if dtype == np.uint8:
        image[30:, 30:] = 0  # a background, and not missing pixels
    write_image(tmp_path / "image.tif", image)
    result = invoke("apply", half, tmp_path / "image.tif", "-o", tmp_path / "out.npy")
    assert result.exit_code == 0 and result.stderr == ""
    expected = Transform.load(half).apply(image, cval=np.nan if dtype == np.float32 else 0)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_the_value_outside_is_an_option(tmp_path: Path, half: Path) -> None:
    celsius = np.random.default_rng(0).uniform(10, 35, SHAPE).astype(np.float32)
    np.save(tmp_path / "c.npy", celsius)
    write_image(tmp_path / "i.png", (celsius * 7).astype(np.uint8))
    outside = ~Transform.load(half).mask()

    def applied(name: str, *options: object) -> np.ndarray:
        out = tmp_path / "out.npy"
        result = invoke("apply", half, tmp_path / name, "-o", out, "--overwrite", *options)
        assert result.exit_code == 0, result.output
        return np.load(out)

    assert np.isnan(applied("c.npy")[outside]).all()
    assert np.isfinite(applied("c.npy")[~outside]).all()
    assert (applied("c.npy", "--fill-value", -9999)[outside] == -9999).all()
    assert (applied("i.png")[outside] == 0).all()
    assert (applied("i.png", "--fill-value", 255)[outside] == 255).all()
    for value in ("nan", "256", "-1", "inf"):
        command = ["apply", half, tmp_path / "i.png", "-o", tmp_path / "x.png"]
        refused = invoke(*command, "--fill-value", value)
        assert refused.exit_code == 2 and "fill_value: got" in refused.stderr

    raw = (celsius * 100).astype(np.uint16)
    raw[:6] = 65535  # missing
    write_image(tmp_path / "raw.tif", raw)
    assert (applied("raw.tif", "--nodata", 65535, "--fill-value", 7)[outside] == 7).all()

    register = ["register", tmp_path / "i.png", tmp_path / "c.npy", "--model", "identity"]
    register += ["--device", "cpu", "--initial", half, "--format", "npy", "-o"]
    assert invoke(*register, tmp_path / "a").exit_code == 0
    assert np.isnan(np.load(tmp_path / "a" / "c_warped.npy")[outside]).all()
    assert invoke(*register, tmp_path / "b", "--fill-value", 0).exit_code == 0
    assert (np.load(tmp_path / "b" / "c_warped.npy")[outside] == 0).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("row,col\n10,20\n5.5,6\n", "row,col\n{},{}\n{},{}\n"),
        ("x,y,name\n20,10,a\n6,5.5,b\n", "x,y,name\n{1},{0},a\n{3},{2},b\n"),
        ('"index","axis-0","axis-1"\n0,10,20\n1,5.5,6\n',
         "index,axis-0,axis-1\n0,{},{}\n1,{},{}\n"),
        ("axis-0,axis-1,axis-2\n3,10,20\n4,5.5,6\n", "axis-0,axis-1,axis-2\n3,{},{}\n4,{},{}\n"),
        ("\ufeff ,Area,X (px),Y (px)\n1,9,20,10\n2,9,6,5.5\n",
         " ,Area,X (px),Y (px)\n1,9,{1},{0}\n2,9,{3},{2}\n"),
        ("10,20\n\n5.5,6\n", "{},{}\n{},{}\n"),
        ("y;x\n10,0;20\n5,5;6\n", "y,x\n{},{}\n{},{}\n"),
        ("Row\tColumn\n10\t20\n5.5\t6\n", "Row,Column\n{},{}\n{},{}\n"),
        ("row,col,note; remark\n10,20,a\n5.5,6,b\n",
         "row,col,note; remark\n{},{},a\n{},{},b\n"),
    ],
)  # fmt: skip
def test_points_go_where_the_image_goes(
    tmp_path: Path, half: Path, text: str, expected: str
) -> None:
    (tmp_path / "points.csv").write_text(text, "utf-8")
    out = tmp_path / "out.csv"
    for options, inverse in (([], True), (["--inverse"], False)):
        result = invoke("apply", half, tmp_path / "points.csv", "-o", out, "--overwrite", *options)
        assert result.exit_code == 0, result.output
        moved = Transform.load(half).points([[10, 20], [5.5, 6]], inverse=inverse)
        numbers = [f"{round(value, 6):.10g}" for value in moved.ravel()]
        assert out.read_text() == expected.format(*numbers)


def test_a_point_of_an_image_lands_on_its_pixel(tmp_path: Path, half: Path) -> None:
    image = np.zeros(SHAPE, np.float32)
    image[20:23, 30:33] = 1
    there = Transform.load(half).apply(image, cval=0)
    (tmp_path / "points.csv").write_text("row,col\n21,31\n-300,900\n")
    result = invoke("apply", half, tmp_path / "points.csv", "-o", tmp_path / "out.csv")
    assert "1 of 2 points lie outside the fixed image" in " ".join(result.stderr.split())
    row, col = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)[0]
    rows, cols = np.indices(SHAPE)
    centre = (rows * there).sum() / there.sum(), (cols * there).sum() / there.sum()
    assert (row, col) == pytest.approx(centre, abs=0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "need row and col"),
        ("row,col\n1,x\n", "point 1 has no finite position"),
        ("row,col\n1,2\n3\n", "point 2 has no finite position"),
        ("row,col\n1,nan\n", "point 1 has no finite position"),
        ("1,2,3\n", "no line with their names"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, half: Path, text: str, message: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    result = invoke("apply", half, tmp_path / "points.csv", "-o", tmp_path / "out.csv")
    assert result.exit_code == 2
    assert message in result.stderr and "points.csv" in result.stderr
    assert not (tmp_path / "out.csv").exists()


def test_tables_and_images_are_not_mixed(tmp_path: Path, half: Path) -> None:
    (tmp_path / "points.csv").write_text("row,col\n")
    wrong = invoke("apply", half, tmp_path / "points.csv", "-o", tmp_path / "out.png")
    assert wrong.exit_code == 2 and "--output" in wrong.stderr
    missing = invoke("apply", half, tmp_path / "none.csv", "-o", tmp_path / "out.csv")
    assert missing.exit_code == 2 and "none.csv" in missing.stderr
    result = invoke("apply", half, tmp_path / "points.csv", "-o", tmp_path / "out.tsv")
    assert result.exit_code == 0 and (tmp_path / "out.tsv").read_text() == "row\tcol\n"
