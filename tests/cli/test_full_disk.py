"""A disk that fills up: said in one sentence, nothing half-written, and resumed."""

from __future__ import annotations

import csv
import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from napari_busref import Transform, read_image, write_image
from napari_busref._cli.main import app
from napari_busref.images import io

PAIRS = 4
FULL = "No space left on device"


def invoke(tmp_path: Path, out: Path, *options: str) -> Result:
    folders = str(tmp_path / "vis"), str(tmp_path / "ir")
    fast = ("--device", "cpu", "--model", "identity", "--search", "none", "--refine", "none")
    return CliRunner().invoke(app, ["register", *folders, "-o", str(out), *fast, *options])


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for side in ("vis", "ir"):
        (tmp_path / side).mkdir()
        for n in range(PAIRS):
            write_image(tmp_path / side / f"{n}.tif", rng.integers(1, 255, (96, 96), np.uint8))
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this process may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def check_whole(out: Path) -> None:
    """Whatever has a final name is complete, and nothing else is left."""
    for path in out.glob("*.tif"):
        assert read_image(path).data.shape == (96, 96)
    for path in out.glob("*.h5"):
        Transform.load(path)
    assert not list(out.glob(".*"))


def rows(out: Path) -> list[str]:
    table = csv.DictReader((out / "summary.csv").read_text().splitlines())
    return [row["status"] for row in table]


def test_a_full_disk_fails_the_pairs_that_do_not_fit(pairs: Path, small_disk: Path) -> None:
    out, ballast = small_disk / "out", small_disk / "ballast"
    free = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(free - 60_000))  # a pair leaves 40 kB
    result = invoke(pairs, out)
    assert result.exit_code in (1, 2) and FULL in result.stderr
    check_whole(out)
    ballast.unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("0*")}
    assert invoke(pairs, out, "--resume").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(rows(out)) == PAIRS and "failed" not in rows(out)
    check_whole(out)


def test_an_image_that_does_not_fit_leaves_nothing(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where no file system can be mounted: writing stops half-way."""
    out, write = pairs / "out", io.write_tiff

    def half(file: Path, image: object, metadata: dict[str, object]) -> None:
        write(file, image, metadata)
        if file.name.startswith("2_mask"):
            file.write_bytes(file.read_bytes()[:500])
            raise OSError(errno.ENOSPC, FULL, str(file))

    monkeypatch.setattr(io, "write_tiff", half)
    result = invoke(pairs, out)
    assert result.exit_code == 1
    assert FULL in " ".join(result.stderr.split()) and "1 of 4 pairs failed: 2" in result.stderr
    assert rows(out).count("failed") == 1 and not (out / "2_mask.tif").exists()
    check_whole(out)
    monkeypatch.setattr(io, "write_tiff", write)
    assert invoke(pairs, out, "--resume").exit_code == 0
    assert "failed" not in rows(out)
