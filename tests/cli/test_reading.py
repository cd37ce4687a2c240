"""Options of the command line that choose what to read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from skimage import data
from typer.testing import CliRunner

from napari_busref._cli.main import app
from napari_busref.images.io import read_image, write_image
from napari_busref.transforms.transform import Transform

GREY = data.camera()[100:164, 200:280]
BANDS = np.stack([GREY // (i + 1) for i in range(5)])
RGB = data.astronaut()[100:164, 200:280]
FAST = ["--model", "identity", "--device", "cpu"]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def five(tmp_path):
    path = tmp_path / "five.tif"
    tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="separate")
    return path


@pytest.fixture
def visible(tmp_path):
    return write_image(tmp_path / "visible.png", RGB)


def warped(tmp_path):
    return read_image(tmp_path / "out" / "five_warped.png").data


def test_the_default_says_which_band_it_took(tmp_path, five, visible):
    result = invoke("register", visible, five, "-o", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.output
    assert "five.tif: took band 1 of 5; --band, --page or --channel" in result.stderr
    np.testing.assert_array_equal(warped(tmp_path), BANDS[0])
    report = json.loads((tmp_path / "out" / "five_report.json").read_text())
    assert report["parameters"]["taken"] == {"moving": "band 1 of 5"}


@pytest.mark.parametrize("option", ["--band", "--channel", "--page"])
@pytest.mark.parametrize("value", ["4", ",4"])
def test_a_band_can_be_chosen(tmp_path, five, visible, option, value):
    result = invoke("register", visible, five, "-o", tmp_path / "out", option, value, *FAST)
    assert result.exit_code == 0, result.output
    assert "took" not in result.stderr
    np.testing.assert_array_equal(warped(tmp_path), BANDS[3])


def test_each_image_has_its_band(tmp_path, five):
    result = invoke("run", five, five, "-o", tmp_path / "out", "--band", "2,5", *FAST)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "five_warped.tif").data, BANDS[4])
    result = invoke(
        "fuse", five, five, "-o", tmp_path / "two", "--band", "3,3", "--model", "average"
    )
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_image(tmp_path / "two" / "five_fused.tif").data, BANDS[2])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--band", "6", "--band: got 6, need 1 to 5"),
        ("--band", "0", "--band: got 0, need a whole number from 1"),
        ("--band", "x", "--band: got x, need a whole number from 1"),
        ("--band", "1,2,3", "--band: got 1,2,3, need a whole number"),
        ("--page", "1,7", "--page: got 7, need 1 to 5"),
        ("--nodata", "empty", "--nodata: got empty, need auto, none or a number"),
    ],
)
def test_bad_choices_are_named(tmp_path, five, visible, option, value, message):
    result = invoke("register", visible, five, "-o", tmp_path / "out", option, value, *FAST)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_apply_takes_a_band(tmp_path, five):
    Transform(np.eye(3), fixed_shape=(64, 80), moving_shape=(64, 80)).save(
        tmp_path / "pair.busref.h5"
    )
    result = invoke(
        "apply", tmp_path / "pair.busref.h5", five, "-o", tmp_path / "o.tif", "--band", "2"
    )
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_image(tmp_path / "o.tif").data, BANDS[1])


@pytest.mark.parametrize("value", ["7", ",7", "auto,7"])
def test_nodata_can_be_given(tmp_path, visible, value):
    image = BANDS[0].copy()
    image[20:40, 20:40] = 7
    write_image(tmp_path / "five.png", image)
    result = invoke(
        "register",
        visible,
        tmp_path / "five.png",
        "-o",
        tmp_path / "out",
        "--nodata",
        value,
        *FAST,
    )
    assert result.exit_code == 0, result.output
    mask = read_image(tmp_path / "out" / "five_mask.png").data
    assert not mask[image == 7].any()
    assert mask[50:, 50:].all()


@pytest.mark.parametrize(("dtype", "value"), [(np.int16, -9999), (np.float32, -9999)])
def test_results_name_their_missing_value(tmp_path, visible, dtype, value):
    image = BANDS[0].astype(dtype)
    image[:30, :20] = value
    tifffile.imwrite(tmp_path / "five.tif", image, extratags=[(42113, 2, 0, str(value), True)])
    out = tmp_path / "out"
    result = invoke("run", visible, tmp_path / "five.tif", "-o", out, "--format", "tif", *FAST)
    assert result.exit_code == 0, result.output
    back = read_image(out / "five_warped.tif").data
    lost = np.isnan(back) if dtype == np.float32 else np.ma.getmaskarray(back)
    assert lost[:30, :20].all()
    assert not lost[30:, 20:].any()
    assert "nodata" not in read_image(out / "five_mask.tif").metadata
    fused = read_image(out / "five_fused.tif").data
    np.testing.assert_array_equal(fused[:30, :20], RGB[:30, :20])


def test_the_memory_limit_counts_for_one_command(tmp_path, visible):
    arguments = ["register", visible, visible, "--overwrite", "-o", tmp_path / "out", *FAST]
    result = invoke(*arguments, "--memory-limit", "1e-6")
    assert result.exit_code == 2
    assert "above the limit of 9.99e-07 GiB; memory_limit (--memory-limit)" in result.stderr
    assert invoke(*arguments).exit_code == 0
    result = invoke(*arguments, "--memory-limit", "-1")
    assert result.exit_code == 2
    assert "memory_limit: got -1.0, need a number of at least 0" in result.stderr
