"""Masks and landmarks of the command line reach `register` as in Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from napari_busref._cli.main import app
from napari_busref.images.io import write_image
from napari_busref.registration import register
from napari_busref.transforms.transform import Transform

PLAIN = ["--model", "identity", "--refine", "none", "--device", "cpu"]
SHAPE = (48, 64)
HERE = np.array([(5, 6), (5, 50), (40, 8), (38, 52), (20, 30)], float)
THERE = HERE * (1.1, 0.9) + (2, -3)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def bigwarp(fixed: np.ndarray, moving: np.ndarray) -> str:
    rows = np.hstack([moving[:, ::-1], fixed[:, ::-1]])
    return "".join(
        f'"Pt-{i}","true",{",".join(f"{v!r}" for v in r.tolist())}\n' for i, r in enumerate(rows)
    )


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(1, 255, SHAPE, dtype=np.uint8), rng.integers(1, 255, SHAPE, dtype=np.uint8)


@pytest.fixture
def files(tmp_path: Path, images: tuple[np.ndarray, np.ndarray]) -> tuple[Path, Path]:
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path, image in zip(paths, images, strict=True):
        write_image(path, image)
    return paths


@pytest.fixture
def folders(tmp_path: Path, images: tuple[np.ndarray, np.ndarray]) -> tuple[Path, Path]:
    for folder, image in zip(("one", "two"), images, strict=True):
        (tmp_path / folder).mkdir()
        for stem in ("p", "q"):
            write_image(tmp_path / folder / f"{stem}.png", image)
    return tmp_path / "one", tmp_path / "two"


@pytest.fixture
def masks() -> dict[str, np.ndarray]:
    halves = {name: np.zeros(SHAPE, np.uint8) for name in ("fixed_mask", "moving_mask")}
    halves["fixed_mask"][:, :32], halves["moving_mask"][:30] = 255, 1
    return halves


@pytest.mark.parametrize("command", ["register", "run"])
def test_masks_count_as_in_python(
    tmp_path: Path,
    files: tuple[Path, Path],
    images: tuple[np.ndarray, np.ndarray],
    masks: dict[str, np.ndarray],
    command: str,
) -> None:
    for name, mask in masks.items():
        write_image(tmp_path / f"{name}.png", mask)
    flags = [
        item
        for name in masks
        for item in (f"--{name.replace('_', '-')}", tmp_path / f"{name}.png")
    ]
    out = tmp_path / "out"
    fusion = ["--fusion-model", "average"] if command == "run" else []
    result = invoke(command, *files, "-o", out, "--format", "npy", *PLAIN, *fusion, *flags)
    assert result.exit_code == 0, result.output
    expected = register(*images, model="identity", **{k: v > 0 for k, v in masks.items()})
    np.testing.assert_array_equal(np.load(out / "b_mask.npy"), expected.mask)
    assert not np.load(out / "b_mask.npy")[31:].any()
    report = json.loads((out / "b_report.json").read_text())
    assert report["quality"]["edge_agreement"] == pytest.approx(expected.quality.edge_agreement)


def test_folders_take_a_mask_for_each_pair_or_one_for_all(
    tmp_path: Path, folders: tuple[Path, Path], masks: dict[str, np.ndarray]
) -> None:
    (tmp_path / "masks").mkdir()
    write_image(tmp_path / "masks" / "p_mask.png", masks["moving_mask"])
    write_image(tmp_path / "masks" / "q.png", np.full(SHAPE, 255, np.uint8))
    write_image(tmp_path / "all.png", masks["moving_mask"])
    for given, rows in (("masks", {"p": 30, "q": 48}), ("all.png", {"p": 30, "q": 30})):
        out = tmp_path / f"out-{given}"
        flags = ["--moving-mask", tmp_path / given, "--format", "npy"]
        assert invoke("register", *folders, "-o", out, *PLAIN, *flags).exit_code == 0
        for stem, count in rows.items():
            assert np.load(out / f"{stem}_mask.npy").sum() == count * 64


def test_landmarks_are_where_the_registration_starts(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    (tmp_path / "landmarks.csv").write_text(bigwarp(HERE, THERE))
    out = tmp_path / "out"
    flags = ["--landmarks", tmp_path / "landmarks.csv"]
    result = invoke("register", *files, "-o", out, *PLAIN, *flags)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(Transform.load(out / "b.busref.h5").points(HERE), THERE, atol=1e-6)


def test_a_folder_of_landmarks_has_a_file_for_each_pair(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    (tmp_path / "marks").mkdir()
    for stem, shift in (("p", 2.0), ("q", -4.0)):
        (tmp_path / "marks" / f"{stem}.csv").write_text(bigwarp(HERE, HERE + shift))
    out = tmp_path / "out"
    result = invoke("register", *folders, "-o", out, *PLAIN, "--landmarks", tmp_path / "marks")
    assert result.exit_code == 0, result.output
    for stem, shift in (("p", 2.0), ("q", -4.0)):
        moved = Transform.load(out / f"{stem}.busref.h5").points(HERE)
        np.testing.assert_allclose(moved, HERE + shift, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--fixed-mask", "none.png"], "--fixed-mask: no such file or folder: none.png"),
        (["--moving-mask", "colour.png"], r"--moving-mask: colour.png has shape \(48, 64, 3\)"),
        (["--moving-mask", "empty"], "--moving-mask: no image in the folder empty"),
        (["--fixed-mask", "others"], "--fixed-mask: neither a_mask nor a in others"),
        (["--fixed-mask", "small.png"], r"fixed_mask: got shape \(4, 4\)"),
        (["--landmarks", "none.csv"], "--landmarks: no such file or folder: none.csv"),
        (["--landmarks", "two.csv"], "--landmarks: two.csv: .*got 2, need at least three"),
        (["--landmarks", "others"], "--landmarks: no b.csv or a.csv .* in others"),
        (["--landmarks", "a.png"], "--landmarks: a.png: holds no landmarks: it is not text"),
        (["--landmarks", "two.csv", "--initial", "x.h5"], "--landmarks: got --initial, too"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "others"):
        Path(folder).mkdir()
    write_image(Path("others", "z.png"), np.zeros(SHAPE, np.uint8))
    write_image(Path("colour.png"), np.zeros((*SHAPE, 3), np.uint8))
    write_image(Path("small.png"), np.ones((4, 4), np.uint8))
    Path("two.csv").write_text(bigwarp(HERE[:2], THERE[:2]))
    result = invoke("register", *files, "-o", "out", *PLAIN, *flags)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert re.search(said, result.stderr), result.stderr
