"""Batches over folders: names of two cameras, side-car files, resuming."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from napari_busref._cli.main import app
from napari_busref.images.io import write_image
from napari_busref.transforms.transform import Transform

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


AVERAGE = ["--model", "average", "--device", "cpu"]


@pytest.mark.parametrize(
    ("command", "options", "other", "message"),
    [
        ("register", FAST, ["--fill-value", "3"], "fill_value None and not 3.0"),
        ("register", FAST, ["--band", "1"], "band None and not 1"),
        ("fuse", AVERAGE, ["--detail", "0.7"], "detail 0.5 and not 0.7"),
        ("fuse", AVERAGE, ["--format", "npy"], "format None and not npy"),
    ],
)
def test_resume_compares_options_and_versions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: list[str],
    other: list[str],
    message: str,
) -> None:
    pair = [images(tmp_path / name, ["a.png"]) / "a.png" for name in ("vis", "ir")]
    full = [command, *pair, "-o", tmp_path / "out", *options, "--resume"]
    assert invoke(*full).exit_code == 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    result = invoke(*full, *other)
    assert result.exit_code == 2
    assert f"was made with {message}; repeat the options" in " ".join(result.stderr.split())
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "1 of 1 pairs are done" in invoke(*full).stderr
    monkeypatch.setattr("napari_busref.runtime.version.package_version", lambda: "9.9")
    assert "and not 9.9; repeat" in " ".join(invoke(*full).stderr.split())


def test_resume_compares_transform_files(tmp_path: Path) -> None:
    pair = [images(tmp_path / name, ["a.png"]) / "a.png" for name in ("vis", "ir")]
    transform = tmp_path / "t.busref.h5"
    matrix = np.eye(3)
    full = ["fuse", *pair, "-o", tmp_path / "out", *AVERAGE, "--resume", "--apply", transform]
    for shift, code in ((0, 0), (2, 2)):
        matrix[0, 2] = shift
        Transform(matrix, fixed_shape=(32, 40), moving_shape=(32, 40)).save(transform)
        result = invoke(*full)
        assert result.exit_code == code, result.output
    assert "was made with transform" in " ".join(result.stderr.split())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_utf8_pass(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    visible, infrared = (
        images(tmp_path / folder, [f"{name}.png", "b.png"]) for folder in ("vis", "ir")
    )
    out = tmp_path / os.fsdecode(b"r\xe9sultats")
    for command, options, report in (
        ("register", FAST, "_report.json"),
        ("run", [*FAST, "--fusion-model", "average", "--overwrite", "--flow"], "_report.json"),
        ("fuse", [*AVERAGE, "--overwrite"], "_fusion.json"),
    ):
        for more in ([], ["--resume"]):
            known = [one for one in options if not (more and one == "--overwrite")]
            result = invoke(command, visible, infrared, "-o", out, *known, *more)
            assert result.exit_code == 0, result.output
            assert set(summary(out)) == {"caf\\udce9", "b"}
            stored = json.loads((out / f"{name}{report}").read_text())
            assert Path(stored["moving"]).name == f"{name}.png"
    assert (out / f"{name}_warped.png").is_file() and (out / f"{name}_fused.png").is_file()
    single = [visible / f"{name}.png", infrared / f"{name}.png"]
    assert invoke("register", *single, "-o", tmp_path / "one", *FAST).exit_code == 0
    (visible / f"{name}.png").write_bytes(b"damaged")
    result = invoke("register", visible, infrared, "-o", tmp_path / "two", *FAST)
    assert result.exit_code == 1 and summary(tmp_path / "two")["b"]["status"] == "ok"


# A child for each moment: it sends itself the signal when it is about to replace its n-th file.
SIGNALS = """
import os, signal, sys
from pathlib import Path
from napari_busref._cli.main import app
import torch
visible, infrared, out, number, *moments = sys.argv[1:]
torch.set_num_threads(1)
load = [os.path.join(folder, "a.png") for folder in (visible, infrared)]
app(["register", *load, "-o", out, "--model", "identity"], standalone_mode=False)
replace, count = Path.replace, 0
def stop(self, target):
    global count
    count += 1
    if count == moment:
        os.kill(os.getpid(), int(number))
    return replace(self, target)
for moment in map(int, moments):
    if not os.fork():
        Path.replace = stop
        app(["register", visible, infrared, "-o", f"{out}{moment}", "--model", "identity",
             "--device", "cpu", "--flow"])
    print("exit", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_batch_leaves_a_true_summary(tmp_path: Path, number: signal.Signals) -> None:
    names = [f"{letter}.png" for letter in "abc"]
    visible, infrared = (images(tmp_path / name, names) for name in ("vis", "ir"))
    # each pair writes warped, mask, transform, flow and report; the first also the summary
    moments = [1, 5, 6, 9]
    command = [sys.executable, "-c", SIGNALS, visible, infrared, tmp_path / "out", number.value]
    ended = subprocess.run(
        [str(one) for one in (*command, *moments)], capture_output=True, text=True, check=True
    )
    code = "-9" if number == signal.SIGKILL else "130"
    exits = [line for line in ended.stdout.splitlines() if line.startswith("exit")]
    assert exits == [f"exit {code}"] * len(moments), ended.stderr
    for moment in moments:
        out = tmp_path / f"out{moment}"
        whole = {path.name[0] for path in out.glob("*_report.json")}
        rows = summary(out) if (out / "summary.csv").exists() else {}
        # a pair without a row may be whole: its row comes after its report
        assert set(rows) <= whole and len(whole) - len(rows) <= 1
        assert {row["status"] for row in rows.values()} <= {"ok", "doubtful"}
        left = list(out.glob(".*"))
        # the file that it wrote, and what held the folder
        assert len(left) == 2 * (number == signal.SIGKILL)
    for moment in (5, 9):
        out = tmp_path / f"out{moment}"
        result = invoke("register", visible, infrared, "-o", out, *FAST, "--flow", "--resume")
        assert result.exit_code == 0, result.output
        assert not list(out.glob(".*"))
        assert list(summary(out)) == ["a", "b", "c"]
        assert len(list(out.iterdir())) == 3 * 5 + 2  # summary and manifest
