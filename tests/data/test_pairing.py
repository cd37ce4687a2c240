"""Which files of two folders belong together, by their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_busref.data.pairing import find_pairs


def make(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_by_order_numbers_count_by_their_value(tmp_path: Path) -> None:
    fixed = make(tmp_path / "a", ["v10.png", "v9.png", "v100.tif", "notes.txt"])
    moving = make(tmp_path / "b", ["ir_3.png", "ir_21.png", "ir_4.png"])
    pairs, alone = find_pairs(fixed, moving, "order")
    assert [(pair.name, pair.moving.name) for pair in pairs] == [
        ("v9", "ir_3.png"),
        ("v10", "ir_4.png"),
        ("v100", "ir_21.png"),
    ]
    assert alone == []


def test_by_order_the_numbers_of_files_must_agree(tmp_path: Path) -> None:
    folders = make(tmp_path / "a", ["1.png"]), make(tmp_path / "b", ["1.png", "2.png"])
    with pytest.raises(ValueError, match="one and other: 1 and 2 images cannot be paired"):
        find_pairs(*folders, "order", ("one", "other"))
    assert [pair.name for pair in find_pairs(*folders)[0]] == ["1"]
    with pytest.raises(ValueError, match="match: got 'size', need one of name, order"):
        find_pairs(*folders, "size")  # type: ignore[arg-type]
