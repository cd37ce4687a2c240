from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from napari_busref.runtime.atomic_write import check_writable, remove_leftovers, replacing


def test_check_writable(tmp_path, monkeypatch):
    check_writable(tmp_path)
    check_writable(tmp_path / "new.tif")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        check_writable(tmp_path / "file" / "a.tif")
    with pytest.raises(FileNotFoundError, match=r"missing of a\.tif does not exist"):
        check_writable(tmp_path / "missing" / "a.tif")

    def refuse(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    # root may write anywhere, so a read-only file system is played here
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written: Read-only"):
        check_writable(tmp_path / "a.tif")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        assert temporary.name == path.name
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    command = [sys.executable, "-c", "import os; print(os.getpid())"]
    ended = subprocess.run(command, capture_output=True, check=True)
    host = re.sub("[^A-Za-z0-9]", "", platform.node())
    names = {
        "dead": f"{host}-{int(ended.stdout)}-x",
        "alive": f"{host}-{os.getppid()}-x",
        "other": "elsewhere-1-x",
        "old": "elsewhere-2-x",
        "unnamed": "abc",
    }
    for name in names.values():
        (tmp_path / f".napari-busref-{name}").mkdir()
        (tmp_path / f".napari-busref-{name}" / "a.tif").write_text("half")
    os.utime(tmp_path / f".napari-busref-{names['old']}", (0, 0))
    (tmp_path / ".napari-busref-elsewhere-3-link").symlink_to(tmp_path)
    with replacing(tmp_path / "a.tif") as temporary:
        remove_leftovers(tmp_path)
        temporary.write_text("new")
    left = {path.name.removeprefix(".napari-busref-") for path in tmp_path.glob(".*")}
    assert left == {names[name] for name in ("alive", "other", "unnamed")} | {"elsewhere-3-link"}
