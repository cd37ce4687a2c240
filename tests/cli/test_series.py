"""``--axis``: stacks and folders of frames on the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from napari_busref import load_sample, read_image, read_transform, write_image
from napari_busref._cli.main import app
from napari_busref.images.frames import Frames
from napari_busref.images.large import LargeImage
from ome_zarr_files import write

FAST = ["--device", "cpu", "--model", "identity", "--axis", "t"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A visible image, and five frames of which the third is blank: as stacks, and as files."""
    sample = load_sample("thermal")
    write_image(tmp_path / "vis.png", sample.fixed[100:148, 200:264])
    frames = np.stack([sample.aligned[100:148, 200 + n : 264 + n] for n in range(5)])
    frames[2] = 7
    tifffile.imwrite(tmp_path / "film.ome.tif", frames, metadata={"axes": "TYX"})
    tifffile.imwrite(tmp_path / "depth.ome.tif", frames, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "pages.tif", frames)
    np.save(tmp_path / "film.npy", frames)
    (tmp_path / "frames").mkdir()
    for n, frame in enumerate(frames):
        write_image(tmp_path / "frames" / f"shot{n + 8}.png", frame)
    return tmp_path


@pytest.mark.parametrize("name", ["film.ome.tif", "pages.tif", "film.npy", "frames"])
def test_a_series_is_registered_from_every_source(film: Path, name: str) -> None:
    out = film / "out"
    result = invoke(
        "run", film / "vis.png", film / name, "-o", out, *FAST, "--fusion-model", "average"
    )
    assert result.exit_code == 0, result.output
    stem = Path(name).stem
    assert f"{stem}: gaps at page 3" in result.stderr
    frames = np.load(film / "film.npy")
    np.testing.assert_array_equal(read_image(out / f"{stem}_warped.tif").data, frames)
    mask, fused = (read_image(out / f"{stem}_{what}.tif").data for what in ("mask", "fused"))
    assert not mask[2].any() and (mask[[0, 1, 3, 4]] == 255).all()
    assert fused.shape == (5, 48, 64, 3)
    np.testing.assert_array_equal(fused[2], read_image(film / "vis.png").data)
    stored = read_transform(out / f"{stem}.busref.h5")
    assert list(stored.planes) == [(n,) for n in range(5)]
    rows = list(csv.DictReader((out / f"{stem}_drift.csv").read_text().splitlines()))
    assert [row["page"] for row in rows] == list("12345")
    assert rows[2]["status"] == "gap" and "no texture" in rows[2]["message"]
    report = json.loads((out / f"{stem}_report.json").read_text())
    assert report["frames"] == 5 and list(report["gaps"]) == ["3"]


def test_an_ome_zarr_is_read_frame_by_frame(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zarr")
    frames, read = np.load(film / "film.npy"), []
    channels = np.stack([255 - frames, frames], 1)[:, :, None]
    half = channels[..., ::2, ::2]
    write(film / "film.ome.zarr", [channels, half], axes="tczyx", chunks=(1, 1, 1, 48, 64))
    inner = LargeImage.read
    monkeypatch.setattr(
        LargeImage,
        "read",
        lambda *given, **options: read.append(given) or inner(*given, **options),
    )
    out = film / "out"
    options = [*FAST, "--channel", ",2", "--fusion-model", "average"]
    result = invoke("run", film / "vis.png", film / "film.ome.zarr", "-o", out, *options)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_image(out / "film_warped.tif").data, frames)
    assert len({image for image, *_ in read}) == 5  # one plane at a time, each described once
    result = invoke("run", film / "vis.png", film / "film.ome.zarr", "-o", film / "other", *FAST)
    assert result.exit_code == 2
    assert "5 x 2 x 48 x 64 pixels along TCYX; choose a --channel" in " ".join(
        result.stderr.replace("│", " ").split()
    )


def test_frames_of_a_level_have_its_pixel_size(film: Path) -> None:
    pytest.importorskip("zarr")
    frames = np.load(film / "film.npy")
    write(film / "z.ome.zarr", [frames, frames[:, ::2, ::2]], axes="zyx", scale=0.5)
    coarse = Frames(film / "z.ome.zarr", "z", {"level": 1})
    assert len(coarse) == 5 and not coarse.is_single
    np.testing.assert_array_equal(coarse[3], frames[3, ::2, ::2])
    assert coarse.first.metadata["spacing"] == (1.0, 1.0)
    write(film / "one.ome.zarr", [frames[:1]], axes="zyx")
    assert Frames(film / "one.ome.zarr").is_single


def test_a_finished_series_is_kept(film: Path) -> None:
    command = ["register", film / "vis.png", film / "pages.tif", "-o", film / "out", *FAST]
    assert invoke(*command).exit_code == 0
    warped = film / "out" / "pages_warped.tif"
    changed = warped.stat().st_mtime_ns
    again = invoke(*command, "--resume")
    assert "pages is done already and kept" in again.stderr
    assert warped.stat().st_mtime_ns == changed
    assert invoke(*command).exit_code == 2


def test_each_frame_may_have_its_own_fixed_image(film: Path) -> None:
    files = film / "frames", film / "film.npy"
    result = invoke("register", *files, "-o", film / "out", *FAST, "--format", "npy")
    assert result.exit_code == 0, result.output
    assert np.load(film / "out" / "film_mask.npy").sum() == 4 * 48 * 64


def test_a_damaged_fixed_frame_leaves_an_empty_picture(film: Path) -> None:
    for n in (8, 10):  # the third is blank, too
        (film / "frames" / f"shot{n}.png").write_bytes(b"damaged")
    files, out = (film / "frames", film / "pages.tif"), film / "out"
    result = invoke("run", *files, "-o", out, *FAST, "--fusion-model", "average")
    assert result.exit_code == 0, result.output
    fused = read_image(out / "pages_fused.tif").data
    assert [frame.any() for frame in fused] == [False, True, False, True, True]


def test_a_damaged_frame_is_a_gap(film: Path) -> None:
    (film / "frames" / "shot10.png").write_bytes(b"damaged")
    result = invoke("register", film / "vis.png", film / "frames", "-o", film / "out", *FAST)
    assert result.exit_code == 0, result.output
    report = json.loads((film / "out" / "frames_report.json").read_text())
    assert "shot10.png cannot be read" in report["gaps"]["3"]
    assert (read_image(film / "out" / "frames_warped.tif").data[2] == 0).all()


@pytest.mark.parametrize(
    ("moving", "options", "message"),
    [
        ("vis.png", [], "pixels along YXS, need one axis T of frames"),
        ("depth.ome.tif", [], "pixels along ZYX, need one axis T of frames"),
        ("pages.tif", ["--page", "2"], "--page: got --axis, too"),
        ("pages.tif", ["--shard", "1/2"], "--shard: got --axis, too"),
        ("pages.tif", ["--fill-value", "nan"], "fill_value: got nan"),
        ("pages.tif", ["--format", "png"], "--format: png holds no series"),
        ("nothing.tif", [], "no such file or folder"),
        ("film.ome.zarr", [], "no such file: "),
        ("pages.tif", ["--axis", "c"], "--axis: got c, need t or z"),
    ],
)
def test_what_is_no_series_is_one_sentence(
    film: Path, moving: str, options: list[str], message: str
) -> None:
    result = invoke("register", film / "vis.png", film / moving, "-o", film / "o", *FAST, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
