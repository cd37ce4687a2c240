from __future__ import annotations

import csv
import importlib
import json
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from napari_busref.data.samples import thermal_scene
from napari_busref.images.preprocess import luma
from napari_busref.metrics.registration import Scorer, make_pair, pixel_grid

SHAPE = (64, 80)
TOOLS = ["ants", "ecc", "elastix", "sift", "simpleitk", "stackreg"]
FACTS = {"threads": 1, "commit": "abc", "machine": "here"}
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def folder():
    """Put the folder of benchmarks on the path, as for its scripts."""
    path = Path(__file__).resolve().parents[2] / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        yield path


@pytest.fixture(scope="module")
def peers(folder) -> ModuleType:
    return importlib.import_module("peers")


@pytest.fixture(scope="module")
def bench(folder, peers) -> ModuleType:
    return importlib.import_module("registration")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two small aligned pairs under the name of a known data set."""
    root = tmp_path_factory.mktemp("data") / "vis-nir"
    for kind in ("infrared", "visible"):
        (root / kind).mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.png")):
        sample = thermal_scene(seed, SHAPE)
        Image.fromarray(sample.fixed).save(root / "visible" / name)
        Image.fromarray(sample.aligned).save(root / "infrared" / name)
    (root / "split.json").write_text(json.dumps({"val": ["a.png", "b.png"]}))
    return root.parent


def small_pair(seed: int = 0, **ranges):
    sample = thermal_scene(0, SHAPE)
    return make_pair(sample.aligned / 255.0, sample.fixed, seed, **ranges)


def tasks(bench, data, dataset="vis-nir-affine", seeds=(0,)):
    return bench.warps(dataset, "val", seeds, None, data)


def broken(pair):
    raise RuntimeError("no\nestimate")


def test_the_tools_tested_are_those_measured(peers):
    assert sorted(set(peers.PEERS) - {"identity"}) == TOOLS


@pytest.mark.parametrize("name", TOOLS)
def test_tool_finds_a_small_warp_of_one_modality(peers, name):
    if reason := peers.PEERS[name].missing():
        pytest.skip(reason)
    grey = luma(thermal_scene(1, (192, 256)).fixed.astype(np.float32) / 255)
    # rows and columns move differently: swapped axes or directions must fail
    pair = make_pair(
        grey, grey, 3, rotation_deg=3, scale=(0.97, 1.03), translation=0.05, elastic=(0.0, 0.005)
    )
    scorer = Scorer(pair)
    assert scorer(pixel_grid(grey.shape))["epe"] > 4
    found = peers.PEERS[name].run(grey, pair.moving.astype(np.float32))
    assert scorer(found)["epe"] < 2


def test_affine_source_takes_columns_first(peers):
    matrix = np.array([[1.0, 0.5, 7.0], [0.0, 1.0, -2.0]])  # x' = x + y / 2 + 7, y' = y - 2
    source = peers.affine_source(matrix, (4, 6))
    np.testing.assert_allclose(source[:, 2, 3], [0.0, 11.0])


def test_edges_of_the_empty_border_are_left_out(peers):
    moving = np.full((60, 80), 0.8, np.float32)
    moving[:12] = 0
    with_border = peers.edge_image(moving, 1.5)
    assert with_border[10:14].max() > 0.5
    assert peers.edge_image(moving, 1.5, peers.nonempty(moving)).max() < 0.01


def test_best_affine_is_exact_for_affine_warps_and_a_floor_for_others(bench):
    affine = small_pair(elastic=(0.0, 0.0))
    assert Scorer(affine)(bench.best_affine(affine))["epe"] < 1e-2
    elastic = small_pair()
    scorer = Scorer(elastic)
    floor = scorer(bench.best_affine(elastic))["epe"]
    assert 0.05 < floor < scorer(pixel_grid(SHAPE))["epe"]


def test_the_true_warp_is_exact_and_bounds_the_correlation(bench):
    pair = small_pair()
    source, _ = bench.callers(["true-warp"], [])["true-warp"](pair)
    found = Scorer(pair)(source)
    assert found["epe"] < 1e-3 < found["mse"]  # the empty rim counts in NCC and MSE
    assert found["ncc"] < found["mncc"]


def test_affine_set_is_affine_and_at_full_size(bench, data):
    pairs = [draw() for _, draw in tasks(bench, data)]
    assert [pair.aligned.shape for pair in pairs] == [SHAPE, SHAPE]
    for pair in pairs:
        np.testing.assert_allclose(pair.warp.residual, 0, atol=1e-9)
        assert np.abs(pair.warp.g - pixel_grid(SHAPE)).max() > 1
    halved = next(draw for _, draw in tasks(bench, data, "vis-nir"))()
    assert halved.aligned.shape == (SHAPE[0] // 2, SHAPE[1] // 2)
    assert np.abs(halved.warp.residual).max() > 0.1


def test_goes_on_where_it_stopped(bench, data, tmp_path):
    file = tmp_path / "rows.csv"
    run = {"identity": partial(bench.call_peer, "identity"), "broken": broken}
    first = list(tasks(bench, data))[:1]
    bench.measure(tmp_path, run, iter(first), FACTS, QUIET)
    done = file.read_text()
    assert len(bench.typed_rows(file)) == 2
    file.write_text(done + "vis-nir-affine,val,b,0,iden")  # a run that stopped while it wrote
    bench.measure(tmp_path, run, tasks(bench, data), FACTS, QUIET)
    text = file.read_text()
    assert text.startswith(done)
    rows = bench.typed_rows(file)
    assert [(row["pair"], row["method"]) for row in rows] == [
        (pair, method) for pair in "ab" for method in run
    ]
    bench.measure(tmp_path, run, tasks(bench, data), FACTS, QUIET)
    assert file.read_text() == text
    with pytest.raises(ValueError, match="--threads 2"):
        bench.measure(tmp_path, run, tasks(bench, data), FACTS | {"threads": 2}, QUIET)


@pytest.mark.parametrize("wrong", [broken, lambda pair: (pixel_grid(SHAPE) * np.nan, {})])
def test_failed_methods_score_as_the_pair_was_left(bench, wrong):
    pair = small_pair()
    scorer = Scorer(pair)
    row = bench.score(scorer, partial(wrong, pair))
    assert row["failed"] and row["error"] and "\n" not in row["error"]
    assert row["epe"] == scorer(pixel_grid(SHAPE))["epe"]


def test_measures_a_model_of_ours(bench, data, tmp_path):
    bench.measure(tmp_path, bench.callers([], ["identity"]), tasks(bench, data), FACTS, QUIET)
    rows = bench.typed_rows(tmp_path / "rows.csv")
    for row, (_, draw) in zip(rows, tasks(bench, data), strict=True):
        pair = draw()
        assert row["epe"] == pytest.approx(Scorer(pair)(pixel_grid(SHAPE))["epe"], abs=0.01)
        assert 0 <= float(row["quality"]) <= 1


def test_unknown_names_are_errors(bench):
    with pytest.raises(ValueError, match=r"method must be one of .*sift.* got 'surf'"):
        bench.callers(["surf"], [])
    with pytest.raises(ValueError, match=r"model must be one of .*busref.* got 'busreff'"):
        bench.callers([], ["busreff"])


def test_report(bench, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    for pair, errors in {"a": (0.5, 20.0), "b": (3.5, 30.0)}.items():
        for method, epe in zip(("good", "identity"), errors, strict=True):
            row = dict.fromkeys(bench.SCORES, 0.25) | {"epe": epe, "seconds": 2.0}
            key = {"dataset": "roadscene", "split": "val", "pair": pair, "seed": 0}
            failed = {"method": method, "failed": (pair, method) == ("b", "good")}
            bench.append_row(tmp_path / "rows.csv", FACTS | key | row | failed, bench.COLUMNS)
    bench.report(tmp_path, QUIET)
    with (tmp_path / "table.csv").open() as stream:
        good, identity = csv.DictReader(stream)
    assert (good["method"], identity["method"]) == ("good", "identity")
    assert float(good["epe_mean"]) == 2 and float(good["epe_largest"]) == 3.5
    assert (good["n"], good["failures"]) == ("2", "1")
    assert float(good["share_below_5px"]) == 0.5  # a failed pair counts as above every limit
    text = (tmp_path / "table.md").read_text()
    assert "threads: 1" in text and "commit abc" in text
    assert "| good | 2 | 1 | 2.00 ± 2.12 | 2.00 | 3.50 | 50 | 50 | 50 | 0.25 ± 0.00 |" in text
    assert "Not measured: " in text and "ants" in text
    with Image.open(tmp_path / "errors.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
