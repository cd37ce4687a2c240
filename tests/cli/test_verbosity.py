"""What is printed: nothing but errors and files for programs, or every step."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from napari_busref._cli.console import log
from napari_busref._cli.main import app
from napari_busref.images.io import write_image
from napari_busref.transforms.transform import Transform

PLAIN = ["--model", "identity", "--refine", "none", "--device", "cpu"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / f"{name}.png", rng.integers(1, 255, (32, 40), dtype=np.uint8))
        for stem in ("p", "q"):
            write_image(tmp_path / name / f"{stem}.png", np.full((32, 40), 9, np.uint8))
    return tmp_path


def test_every_command_has_both() -> None:
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        command = command.commands["show"] if name == "config" else command
        names = {one for each in command.params for one in (*each.opts, *each.secondary_opts)}
        assert {"--verbose", "-v", "--quiet", "-q", "--config", "--no-config"} <= names, name


@pytest.mark.parametrize("before", [True, False])
def test_quiet_prints_the_report_alone(before: bool) -> None:
    command = ["register", "a.png", "b.png", "-o", "out", *PLAIN]
    noisy = invoke(*command)
    assert "quality" in noisy.stdout
    assert "Warning: b: the registration may be wrong" in noisy.stderr
    command.append("--overwrite")
    result = invoke(*(["-q", *command] if before else [*command, "-q"]))
    assert result.exit_code == 0
    assert result.stdout == f"{Path('out', 'b_report.json')}\n"
    assert result.stderr == ""
    assert json.loads(Path(result.stdout.strip()).read_text())["quality"]["reasons"]


def test_quiet_prints_what_fuse_apply_and_convert_wrote() -> None:
    Transform.identity((32, 40)).save("t.busref.h5")
    commands = {
        "out/b_fused.png": ["fuse", "a.png", "b.png", "-o", "out", "--model", "average"],
        "c.png": ["apply", "t.busref.h5", "a.png", "-o", "c.png"],
        "t.tfm": ["convert", "t.busref.h5", "t.tfm"],
    }
    for written, command in commands.items():
        result = invoke(*command, "--quiet")
        assert (result.stdout, result.stderr) == (f"{Path(written)}\n", "")
        assert Path(written).is_file()


def test_quiet_prints_the_summary_of_folders_and_what_failed() -> None:
    Path("a", "q.png").write_bytes(b"damaged")
    result = invoke("register", "a", "b", "-o", "out", *PLAIN, "--quiet")
    assert result.exit_code == 1
    assert result.stdout == f"{Path('out', 'summary.csv')}\n"
    first, last = result.stderr.splitlines()
    assert first.startswith("Error: q failed: ")
    assert last == "Error: 1 of 2 pairs failed: q"


def test_quiet_tables_are_csv_without_markup() -> None:
    result = invoke("models", "--kind", "fusion", "--quiet")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert {"average", "gaf"} <= {row["model"] for row in rows}
    assert {row["kind"] for row in rows} == {"fusion"}


def test_quiet_errors_are_printed() -> None:
    result = invoke("register", "none.png", "b.png", "-o", "out", "--quiet")
    assert result.exit_code == 2
    assert result.stderr == "Error: FIXED: no such file or folder: none.png\n"


def test_verbose_prints_files_and_steps() -> None:
    result = invoke("register", "a.png", "b.png", "-o", "out", *PLAIN, "--verbose")
    lines = result.stderr.splitlines()
    assert "a.png: (32, 40) uint8" in lines
    steps = [line.split(": ")[2] for line in lines if line.startswith("b: ") and " s: " in line]
    assert steps[0] == "reading the images" and steps[-1] == "registered"
    assert "quality" in result.stdout
    assert not [line for line in invoke("models").stderr.splitlines() if " s: " in line]


def test_the_last_one_counts_and_a_file_may_set_it() -> None:
    command = ["apply", "t.busref.h5", "labels.png", "-o", "c.png", "--overwrite"]
    write_image("labels.png", np.zeros((32, 40), np.uint8))
    Transform.identity((32, 40)).save("t.busref.h5")
    assert "nearest pixel" in invoke(*command).stderr
    assert invoke("-v", *command, "-q").stderr == ""
    Path("busref.toml").write_text("verbose = false\n")
    assert invoke(*command).stderr == ""
    assert "nearest pixel" in invoke(*command, "-v").stderr


def test_nothing_of_logging_is_left_changed() -> None:
    before = (log.level, log.propagate, list(log.handlers))
    invoke("models", "--quiet")
    assert (log.level, log.propagate, list(log.handlers)) == before
    assert logging.getLogger().level == logging.WARNING
