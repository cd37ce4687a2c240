"""Batches over folders: names of two cameras, side-car files, resuming."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from napari_busref._cli.main import app
from napari_busref.images.io import write_image

FAST = ["--model", "identity", "--device", "cpu"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(len(names))
    for name in names:
        write_image(folder / name, rng.integers(1, 255, (32, 40), np.uint8))
    return folder


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


def test_names_of_two_cameras_go_through_register_and_fuse(tmp_path: Path) -> None:
    visible = images(tmp_path / "vis", ["a_V.png", "b_V.png"])
    infrared = images(tmp_path / "ir", ["a_T.png", "b_T.png"])
    (infrared / "._a_T.png").write_bytes(b"\x00\x05\x16\x07")
    out = tmp_path / "out"
    result = invoke("register", visible, infrared, "-o", out, *FAST)
    assert result.exit_code == 0, result.output
    assert set(summary(out)) == {"a_T", "b_T"}
    report = json.loads((out / "a_T_report.json").read_text())
    assert (Path(report["fixed"]).name, Path(report["moving"]).name) == ("a_V.png", "a_T.png")
    fuse = ["fuse", visible, out, "--mask", out, "--model", "average", "--device", "cpu"]
    result = invoke(*fuse, "-o", tmp_path / "fused")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "fused").glob("*.png")} == {
        "a_T_fused.png",
        "b_T_fused.png",
    }


def test_match_is_an_option_of_every_batch(tmp_path: Path) -> None:
    visible = images(tmp_path / "vis", ["x1.png", "x2.png"])
    infrared = images(tmp_path / "ir", ["y3.png", "y4.png"])
    for command, more in (("register", FAST), ("run", [*FAST, "--fusion-model", "average"])):
        out = tmp_path / command
        result = invoke(command, visible, infrared, "-o", out, "--match", "order", *more)
        assert result.exit_code == 0, result.output
        assert set(summary(out)) == {"x1", "x2"}
    average = ["--model", "average", "--device", "cpu"]
    fuse = ["fuse", visible, infrared, "-o", tmp_path / "fuse", *average]
    result = invoke(*fuse, "--match", "x1*,y4*")
    assert result.exit_code == 0, result.output
    assert set(summary(tmp_path / "fuse")) == {"y4"}
    for command in ("register", "run", "fuse", "finetune"):
        wrong = invoke(command, visible, infrared, "-o", tmp_path / "no", "--match", "size")
        assert wrong.exit_code == 2 and "match: got 'size'" in wrong.stderr


def test_one_folder_given_twice(tmp_path: Path) -> None:
    both = images(tmp_path / "both", ["a.png", "b.png"])
    refused = invoke("register", both, both, "-o", tmp_path / "out", *FAST)
    assert refused.exit_code == 2
    assert "same folder" in refused.stderr
    assert not (tmp_path / "out").exists()
    images(both, ["c_rgb.png", "c_lwir.png"])
    result = invoke("register", both, both, "-o", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.output
    assert set(summary(tmp_path / "out")) == {"c_lwir"}
    assert "same folder: 1 of its images are FIXED" in " ".join(result.stderr.split())
    assert "c_rgb.png for c_lwir.png" in " ".join(result.stderr.split())


def test_resume_keeps_finished_pairs_and_redoes_broken_ones(tmp_path: Path) -> None:
    visible = images(tmp_path / "vis", ["a.png", "b.png", "c.png", "d.png"])
    infrared = images(tmp_path / "ir", ["a.png", "b.png", "c.png", "d.png"])
    out = tmp_path / "out"
    command = ["register", visible, infrared, "-o", out, *FAST]
    assert invoke(*command).exit_code == 0
    rows = summary(out)
    (out / "b_warped.png").unlink()  # not whole
    (out / "c_report.json").write_text('{"fixed": "c.p')  # killed while it was written
    (out / "d.busref.h5").unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("a*")}

    assert "--overwrite" in invoke(*command).stderr
    both = invoke(*command, "--resume", "--overwrite")
    assert both.exit_code == 2 and "--resume" in both.stderr
    result = invoke(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert "1 of 4 pairs are done already" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in out.glob("a*")} == kept
    assert json.loads((out / "c_report.json").read_text())["quality"]
    assert {path.name for path in out.glob("[bd]*")} == {
        f"{name}{ending}"
        for name in "bd"
        for ending in ("_warped.png", "_mask.png", ".busref.h5", "_report.json")
    }
    again = summary(out)
    assert list(again) == ["a", "b", "c", "d"]
    for name, row in again.items():
        assert [row[key] for key in ("status", "score", "overlap", "message")] == [
            rows[name][key] for key in ("status", "score", "overlap", "message")
        ]

    (infrared / "a.png").rename(infrared / "A_T.png")
    (visible / "a.png").rename(visible / "A_V.png")
    for path in out.glob("a*"):
        path.rename(out / path.name.replace("a", "A_T", 1))
    other = invoke(*command, "--resume")
    assert other.exit_code == 2 and "results of a.png and a.png" in other.stderr


def test_resume_of_fuse_run_and_a_single_pair(tmp_path: Path) -> None:
    visible = images(tmp_path / "vis", ["a.png", "b.png"])
    infrared = images(tmp_path / "ir", ["a.png", "b.png"])
    average = ["--device", "cpu", "--model", "average"]
    for command, options, last in (
        ("fuse", average, "_fused.png"),
        ("run", [*FAST, "--fusion-model", "average"], "_report.json"),
    ):
        out = tmp_path / command
        full = [command, visible, infrared, "-o", out, *options, "--resume"]
        assert invoke(*full).exit_code == 0
        (out / f"b{last}").unlink()
        kept = (out / "a_fused.png").stat().st_mtime_ns
        result = invoke(*full)
        assert result.exit_code == 0, result.output
        assert (out / "a_fused.png").stat().st_mtime_ns == kept
        assert (out / f"b{last}").is_file() and list(summary(out)) == ["a", "b"]
    single = ["register", visible / "a.png", infrared / "a.png", "-o", tmp_path / "one", *FAST]
    assert invoke(*single, "--resume").exit_code == 0
    before = (tmp_path / "one" / "a_warped.png").stat().st_mtime_ns
    result = invoke(*single, "--resume")
    assert result.exit_code == 0 and "1 of 1" in result.stderr
    assert (tmp_path / "one" / "a_warped.png").stat().st_mtime_ns == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_utf8_pass(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    visible = images(tmp_path / "vis", [f"{name}.png", "b.png"])
    infrared = images(tmp_path / "ir", [f"{name}.png", "b.png"])
    result = invoke("register", visible, infrared, "-o", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / f"{name}_warped.png").is_file()
    assert set(summary(tmp_path / "out")) == {"caf\\udce9", "b"}
    report = json.loads((tmp_path / "out" / f"{name}_report.json").read_text())
    assert Path(report["moving"]).name == f"{name}.png"
