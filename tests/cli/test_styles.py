"""The styles of the fused picture on the command line: none of them needs a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from napari_busref._cli.main import app
from napari_busref.fusion import fuse
from napari_busref.images.io import read_image, write_image

SHAPE = (80, 100)
HOT = np.s_[30:50, 20:40]  # 60 °C


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A grey wall in colour, and its temperatures: 10 to 30 °C with a hot spot."""
    celsius = np.broadcast_to(np.linspace(10, 30, SHAPE[0], dtype="f4")[:, None], SHAPE).copy()
    celsius[HOT] = 60
    visible, infrared = tmp_path / "visible.png", tmp_path / "infrared.tif"
    write_image(visible, np.full((*SHAPE, 3), 100, np.uint8))
    write_image(infrared, celsius)
    return visible, infrared


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])


def fused(pair: tuple[Path, Path], out: Path, *options: object) -> np.ndarray:
    result = invoke("fuse", *pair, "-o", out, *options)
    assert result.exit_code == 0, result.output
    return read_image(out / "infrared_fused.png").data


def test_every_option_of_styles_reaches_the_picture(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    look = {"style": "overlay", "palette": "iron", "opacity": 0.8, "above": 20, "below": 50}
    options = [word for name, value in look.items() for word in (f"--{name}", value)]
    picture = fused(pair, tmp_path / "cli", *options, "--scale-bar", "--unit", "°C")
    visible, celsius = (read_image(path).data for path in pair)
    same = fuse(visible, celsius, **look, scale_bar=True, unit="°C", device="cpu")
    np.testing.assert_array_equal(picture, same.fused)
    report = json.loads((tmp_path / "cli" / "infrared_fusion.json").read_text("utf-8"))
    assert look.items() <= report["options"].items()
    assert report["options"]["unit"] == "°C"
    assert report["parameters"]["style"] == "overlay"


@pytest.mark.parametrize("palette", ["iron", "hot", "viridis_r"])
def test_a_palette_colours_the_hottest_place_by_its_last_colour(
    pair: tuple[Path, Path], tmp_path: Path, palette: str
) -> None:
    from napari_busref.fusion.styles import palette_colours

    picture = fused(pair, tmp_path / "out", "--style", "msx", "--palette", palette)
    spot = picture[HOT][5:-5, 5:-5].astype(float)
    assert np.abs(spot - 255 * palette_colours(palette)[-1]).max() < 3


def test_the_scale_bar_covers_the_right_edge_alone(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = fused(pair, tmp_path / "plain", "--style", "msx")
    bar = fused(pair, tmp_path / "bar", "--style", "msx", "--scale-bar", "--unit", "°C")
    changed = (plain != bar).any(-1)
    assert changed[:, 80:].any()
    assert not changed[:, :40].any()


def test_run_registers_and_colours_and_keeps_the_temperatures(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--model", "identity", "--style", "inset", "--palette", "magma"]
    result = invoke("run", *pair, "-o", out, *options)
    assert result.exit_code == 0, result.output
    picture, visible = read_image(out / "infrared_fused.png").data, read_image(pair[0]).data
    changed = (picture != visible).any(-1)
    assert changed[40, 50]  # in the middle of the overlap
    assert not changed[:10].any()
    warped = read_image(out / "infrared_warped.tif").data
    np.testing.assert_array_equal(warped, read_image(pair[1]).data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--style", "thermal"], "style: got 'thermal', need one of 'natural', 'msx'"),
        (["--style", "msx", "--palette", "iorn"], "palette: got 'iorn', need one of 'inferno'"),
        (["--style", "overlay", "--opacity", "2"], "opacity: got 2.0, need a number in [0, 1]"),
        (["--style", "msx", "--scale-bar"], "unit"),
        (["--style", "natural", "--scale-bar"], "scale_bar: style 'natural' has no colours"),
        (["--style", "overlay", "--above", "50", "--below", "20"], "above"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    pair: tuple[Path, Path], tmp_path: Path, options: list[str], said: str
) -> None:
    result = invoke("fuse", *pair, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert said in line
    assert not list((tmp_path / "out").glob("*"))
