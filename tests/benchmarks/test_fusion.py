from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import typer
from imageio.v3 import imread
from PIL import Image

from napari_busref.data.samples import thermal_scene
from napari_busref.data.task_pairs import originals
from napari_busref.metrics.fusion import METRICS, qabf

SHAPE = (72, 96)


@pytest.fixture(scope="module")
def scripts():
    """The scripts, imported from their folder."""
    path = Path(__file__).resolve().parents[2] / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        # the number of threads of other tests stays
        patch.setattr(importlib.import_module("options"), "set_threads", lambda count: None)
        names = ("fusion", "fusion_pictures", "fusion_truth", "ghosting", "tiling", "veil")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two street pairs, and two slices of a head with the second held out."""
    root = tmp_path_factory.mktemp("data")
    names = ["a.png", "b.png"]
    pictures = {}
    for seed, name in enumerate(names):
        sample = thermal_scene(seed, SHAPE)
        pictures[f"roadscene/visible/{name}"] = sample.fixed
        pictures[f"roadscene/infrared/{name}"] = sample.aligned
    rows, cols = np.indices((64, 64)) - 31.5
    head = np.uint8(200 * (np.hypot(rows, cols) < 20))
    for number in (0, 1):
        pictures[f"medical/mri-pet/mri/{number}.png"] = np.stack([head] * 3, -1)
        colours = np.stack([head, head // 2, head // 4], -1)
        pictures[f"medical/mri-pet/source/{number}.png"] = colours
    for name, picture in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / name)
    listing = {"train": [], "val": names}
    (root / "roadscene" / "split.json").write_text(json.dumps(listing), encoding="utf-8")
    return root


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_all_methods_stand_in_one_table(scripts: dict[str, ModuleType], data, tmp_path):
    cases = ["roadscene", "mri-pet", "mri-ct"]
    scripts["fusion"].main(tmp_path, case=cases, model=["average"], threads=1, data_root=data)
    lines = read(tmp_path / "table.csv")
    assert {(line["dataset"], line["n"]) for line in lines} == {
        ("roadscene", "2"),
        ("mri-pet", "1"),
    }
    rows = read(tmp_path / "rows.csv")
    values = [
        float(r["q_cv"]) for r in rows if (r["model"], r["dataset"]) == ("laplacian", "roadscene")
    ]
    line = next(x for x in lines if (x["model"], x["dataset"]) == ("laplacian", "roadscene"))
    assert float(line["q_cv"]) == pytest.approx(np.median(values))
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert all(metric.symbol in text for metric in METRICS.values())
    assert "Left out: mri-ct (" in text
    # only fusion methods can be the best, never the bare sources
    marked = {line.split(" | ")[0] for line in text.splitlines() if "**" in line}
    assert marked and not any(name.endswith("only") for name in marked)
    with pytest.raises(typer.BadParameter, match="--case: need some of"):
        scripts["fusion"].main(tmp_path, case=["moon"])


def test_models_are_compared_with_the_pyramid(scripts: dict[str, ModuleType], data, tmp_path):
    cases = ["roadscene-dark", "roadscene-both-dark"]
    options = {"bounds_only": True, "threads": 1, "data_root": data}
    scripts["fusion"].main(tmp_path, case=cases, model=["average"], **options)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    rows = {(r["dataset"], r["model"]): r for r in read(tmp_path / "table.csv")}
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    for case in cases:
        (line,) = (cells for cells in lines if cells[:2] == [case, "average"])
        gains = [
            float(rows[case, "average"][name]) - float(rows[case, "laplacian"][name])
            for name in scripts["fusion"].BOUNDS
        ]
        assert [cell.strip("*") for cell in line[2:]] == [f"{gain:+.3f}" for gain in gains]
        assert line[2].startswith("**-")  # the mean of both has weak edges
        assert not line[6].startswith("**")  # and no artefacts
    assert {r["model"] for r in rows.values()} == {"average", "laplacian"}
    assert "Q_cv" not in text and all(r["q_cv"] == "" for r in rows.values())
    night = scripts["fusion"].dark(data)[0][2]
    assert night.max() <= 90 and night.dtype == np.uint8


def test_the_right_answer_of_a_made_pair_is_the_photograph(
    scripts: dict[str, ModuleType], monkeypatch, capsys
):
    script = scripts["fusion_truth"]
    options = {"model": ["average", "guided-filter"], "threads": 1}
    for module in ("napari_busref.data.task_pairs", "napari_busref.data.datasets"):
        for name in ("focus_pairs", "exposure_pairs"):
            whole = getattr(importlib.import_module(module), name)
            short = [(n, a[:96, :128], b[:96, :128]) for n, a, b in whole("val")[:1]]
            monkeypatch.setattr(f"{module}.{name}", lambda split, short=short: short)
    known = {n: image[:96, :128] for n, image in originals("val").items()}
    monkeypatch.setattr("napari_busref.data.task_pairs.originals", lambda split: known)
    script.main(**options)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("multi-focus val, 1 pairs") and len(lines) == 6
    average, guided = (float(line.split()[1].strip(",")) for line in lines[1:3])
    assert guided > average + 3  # the average is blurred everywhere


def test_a_sheet_of_scenes_by_methods(scripts: dict[str, ModuleType], data, tmp_path):
    sheet = scripts["fusion_pictures"]
    sheet.main(tmp_path, model=["average", "maximum"], count=2, data_root=data)
    picture = imread(tmp_path / "roadscene.jpg")
    height = round(sheet.WIDTH * SHAPE[0] / SHAPE[1]) + sheet.LABEL
    assert picture.shape == (2 * height, 4 * sheet.WIDTH, 3)
    sheet.main(tmp_path, model=["average"], scene=["b"], data_root=data)
    assert imread(tmp_path / "roadscene.jpg").shape == (height, 3 * sheet.WIDTH, 3)
    with pytest.raises(typer.BadParameter, match="is inside the repository"):
        sheet.main(sheet.ROOT / "runs", data_root=data)
    with pytest.raises(typer.BadParameter, match="--scene: need some of a, b"):
        sheet.main(tmp_path, scene=["c"], data_root=data)


def test_ghosts_are_measured_against_the_aligned_fusion(
    scripts: dict[str, ModuleType], data, tmp_path
):
    options = {"model": "identity", "fusion_model": "average", "threads": 1, "data_root": data}
    scripts["ghosting"].main(tmp_path, seeds="3", limit=1, **options)
    rows = {row["fused"]: row for row in read(tmp_path / "rows.csv")}
    assert list(rows) == list(scripts["ghosting"].ROWS)
    scores = {name: float(row["qabf"]) for name, row in rows.items()}
    image = np.arange(100.0).reshape(10, 10)
    assert scores["aligned"] == pytest.approx(qabf(image, image, image), abs=2e-3)
    assert float(rows["aligned"]["ssim"]) == 1
    # the identity registers nothing, the true warp almost everything
    assert rows["registered"]["epe"] == rows["misaligned"]["epe"]
    assert scores["misaligned"] < scores["true warp"] < scores["aligned"]
    assert "| true warp | 0.0 |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_memory_of_tiles_and_of_the_whole(scripts: dict[str, ModuleType]):
    row = scripts["tiling"].measure("average", 64, 32, "cpu")
    assert row["seconds"] > 0 and row["largest_difference"] == 0
    assert row["cpu_seconds"] >= 0 and row["grown_mib"] >= 0


def test_the_veil_is_measured_where_one_source_is_bright(
    scripts: dict[str, ModuleType], monkeypatch, capsys
):
    infrared, visible = np.full((40, 64), 51, np.uint8), np.full((40, 64, 3), 204, np.uint8)
    visible[:, 32:] = 102
    infrared[:, 48:] = 255
    pairs = [("street", infrared, visible)]
    monkeypatch.setitem(scripts["veil"].CASES, "street", ("medical", lambda root: pairs))
    scripts["veil"].main("street", model=["average", "maximum"], threads=1)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["", "area", "visible", "infrared", "average", "maximum"][1:]
    assert rows[2] == ["visible bright", "50.0%", "0.80", "0.20", "0.50", "0.80"]
    assert rows[3] == ["infrared bright", "25.0%", "0.40", "1.00", "0.70", "1.00"]
