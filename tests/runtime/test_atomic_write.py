from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from napari_busref.runtime.atomic_write import check_writable, replacing


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
