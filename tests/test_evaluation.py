from __future__ import annotations

import csv
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from napari_busref import evaluation
from napari_busref.data.samples import thermal_scene
from napari_busref.geometry import Estimate, identity_theta
from napari_busref.metrics.fusion import METRICS, fusion_scores
from napari_busref.metrics.registration import Scorer, make_pair, pixel_grid
from napari_busref.runtime.progress import Cancelled

SHAPE = (64, 80)
NAMES = ["a.png", "b.png"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data set of two small aligned pairs."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("infrared", "visible"):
        (root / "tiny" / folder).mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        sample = thermal_scene(seed, SHAPE)
        Image.fromarray(sample.fixed).save(root / "tiny" / "visible" / name)
        Image.fromarray(sample.aligned).save(root / "tiny" / "infrared" / name)
    (root / "tiny" / "split.json").write_text(json.dumps({"train": [], "val": NAMES}))
    return root


def read(data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    infrared, visible = (
        np.asarray(Image.open(data / "tiny" / folder / name)) for folder in ("infrared", "visible")
    )
    return infrared, visible


class Broken(nn.Module):
    """Registration that fails on every second call and finds nothing on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, fixed: Tensor, *args: object, **kwargs: object) -> Estimate:
        self.calls += 1
        if self.calls % 2:
            raise RuntimeError("something went wrong")
        return Estimate(identity_theta(len(fixed), fixed) * float("nan"))


class Brighter(nn.Module):
    """Fusion that leaves the range."""

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        return 0.73 * (visible + infrared)


def test_registration_rows_are_those_of_the_protocol(data):
    rows = evaluation.evaluate_registration(
        ["identity"], dataset="tiny", data_root=data, seeds=(0, 4), device="cpu"
    )
    assert [(row["pair"], row["seed"]) for row in rows] == [
        ("a", 0),
        ("a", 4),
        ("b", 0),
        ("b", 4),
    ]
    infrared, visible = read(data, "b.png")
    expected = Scorer(make_pair(infrared / 255, visible, 4))(pixel_grid(SHAPE))
    for key, value in expected.items():
        assert rows[3][key] == pytest.approx(value), key
    assert all(row["seconds"] > 0 for row in rows)
    assert not any(row["failed"] for row in rows)
    (summary,) = evaluation.summarise(rows)
    assert summary["model"] == "identity"
    assert summary["dataset"] == "tiny"
    assert summary["n"] == 4
    assert summary["failures"] == 0
    assert summary["epe_mean"] == pytest.approx(np.mean([row["epe"] for row in rows]))


def test_a_good_estimate_scores_better(data):
    class Shift(nn.Module):
        """Moves by the mean of the true displacement."""

        def forward(self, fixed: Tensor, *args: object, **kwargs: object) -> Estimate:
            theta = identity_theta(len(fixed), fixed)
            theta[:, 0, 2] += 2 * float(shift[1]) / SHAPE[1]
            theta[:, 1, 2] += 2 * float(shift[0]) / SHAPE[0]
            return Estimate(theta)

    infrared, visible = read(data, "a.png")
    pair = make_pair(infrared / 255, visible, 2)
    shift = (pair.warp.true_source() - pixel_grid(SHAPE)).mean(axis=(1, 2))
    rows = evaluation.evaluate_registration(
        [Shift(), "identity"], dataset="tiny", data_root=data, seeds=[2], limit=1, device="cpu"
    )
    assert [row["model"] for row in rows] == ["Shift", "identity"]
    assert rows[0]["epe"] < 0.7 * rows[1]["epe"]


def test_reprojection_error_stands_beside_the_end_point_error(data):
    class Right(nn.Module):
        """The affine part of the true map from the fixed to the moving image."""

        def forward(self, fixed: Tensor, *args: object, **kwargs: object) -> Estimate:
            theta = identity_theta(len(fixed), fixed)
            x, y = 2 / SHAPE[1], 2 / SHAPE[0]
            to_normal = np.array([[0, x, x / 2 - 1], [y, 0, y / 2 - 1], [0, 0, 1]])
            matrix = to_normal @ np.linalg.inv(pair.warp.affine) @ np.linalg.inv(to_normal)
            return Estimate(theta.new_tensor(matrix[None, :2]))

    infrared, visible = read(data, "a.png")
    pair = make_pair(infrared / 255, visible, 2)
    rows = evaluation.evaluate_registration(
        [Right(), "identity"], dataset="tiny", data_root=data, seeds=[2], limit=1, device="cpu"
    )
    # the affine leaves the elastic part: at most 4 % of the side
    assert 0 < rows[0]["re"] < 0.04 * SHAPE[0]
    truth = pair.warp.points(Scorer(pair).landmarks().T).T
    left = np.linalg.norm(truth - Scorer(pair).landmarks(), axis=1).mean()
    assert rows[1]["re"] == pytest.approx(left)
    summary = evaluation.summarise(rows)
    assert [row["re_mean"] for row in summary] == [rows[0]["re"], rows[1]["re"]]


def test_missing_estimates_count_as_failures_and_score_as_unregistered(data):
    rows = evaluation.evaluate_registration(
        [Broken(), "identity"], dataset="tiny", data_root=data, seeds=(0, 1), device="cpu"
    )
    broken, identity = rows[:4], rows[4:]
    assert all(row["failed"] for row in broken)
    assert "RuntimeError: something went wrong" in broken[0]["error"]
    assert "initial transform" in broken[1]["error"]
    assert [row["epe"] for row in broken] == [row["epe"] for row in identity]
    first, second = evaluation.summarise(rows)
    assert (first["failures"], second["failures"]) == (4, 0)
    assert first["share_below_5px"] == 0


def test_fusion_rows_and_controls(data):
    rows = evaluation.evaluate_fusion([Brighter()], dataset="tiny", data_root=data, device="cpu")
    labels = ["Brighter", *evaluation.FUSION_BASELINES]
    assert [row["model"] for row in rows] == [label for label in labels for _ in NAMES]
    infrared, visible = read(data, "b.png")
    grey = np.rint(visible @ np.array([0.299, 0.587, 0.114]))
    source = infrared.astype(float)
    by_hand = {
        "Brighter": np.clip(0.73 * (grey + source), 0, 255),
        "average": (grey + source) / 2,
        "maximum": np.maximum(grey, source),
        "infrared only": source,
        "visible only": grey,
    }
    for label, fused in by_hand.items():
        row = next(r for r in rows if r["model"] == label and r["pair"] == "b")
        expected = fusion_scores(np.rint(fused), grey, infrared)
        # half-way grey levels of the average may round either way: that changes its histogram
        histogram = (
            {"entropy", "cross_entropy", "mutual_information"} if label == "average" else set()
        )
        for key, value in expected.items():
            if key in histogram:
                continue
            assert row[key] == pytest.approx(value, rel=0.01, abs=0.01), (label, key)
    summary = {row["model"]: row for row in evaluation.summarise(rows)}
    assert list(summary) == labels
    values = {key: [r[key] for r in rows if r["model"] == "maximum"] for key in ("q_cv", "scd")}
    assert summary["maximum"]["q_cv"] == pytest.approx(np.median(values["q_cv"]))
    assert summary["maximum"]["scd"] == pytest.approx(np.mean(values["scd"]))
    assert summary["maximum"]["scd_sd"] == pytest.approx(np.std(values["scd"], ddof=1))
    assert summary["average"]["nabf"] < 0.01
    assert summary["infrared only"]["nabf"] == 0
    assert summary["laplacian"]["qabf"] > summary["average"]["qabf"]
    assert summary["infrared only"]["seconds"] is None
    assert summary["Brighter"]["seconds"] > 0
    assert set(METRICS) <= set(summary["average"])


def test_fusion_without_controls_and_with_failures(data):
    class Wrong(nn.Module):
        def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
            return visible[..., :-1]

    rows = evaluation.evaluate_fusion(
        [Wrong()], dataset="tiny", data_root=data, baselines=False, device="cpu"
    )
    assert len(rows) == 2
    (summary,) = evaluation.summarise(rows)
    assert summary["failures"] == 2
    assert summary["qabf"] is None
    assert "returned" in rows[0]["error"]


def test_progress_and_cancelling(data):
    reports: list[tuple[str, float]] = []
    cancel = threading.Event()

    def stop_soon(stage: str, fraction: float) -> None:
        reports.append((stage, fraction))
        if len(reports) == 3:
            cancel.set()

    with pytest.raises(Cancelled):
        evaluation.evaluate_registration(
            ["identity"],
            dataset="tiny",
            data_root=data,
            device="cpu",
            progress=stop_soon,
            cancel=cancel,
        )
    assert len(reports) == 3
    assert reports[1] == ("identity: a, warp 0", 0.0)


def test_tables(tmp_path, data):
    rows = evaluation.evaluate_fusion(
        ["average"], dataset="tiny", data_root=data, limit=1, device="cpu"
    )
    evaluation.write_table(rows, tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    evaluation.write_table(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as stream:
        back = list(csv.DictReader(stream))
    assert [row["model"] for row in back] == [row["model"] for row in rows]
    assert float(back[0]["qabf"]) == rows[0]["qabf"]
    assert back[-1]["seconds"] == ""
    with pytest.raises(ValueError, match=r"rows\.xlsx: extension '.xlsx' is not accepted"):
        evaluation.write_table(rows, tmp_path / "rows.xlsx")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluation.write_table(rows, tmp_path / "nowhere" / "rows.csv")


def test_bad_arguments_are_named(data):
    options = {"dataset": "tiny", "data_root": data, "device": "cpu"}
    with pytest.raises(ValueError, match="'sift'"):
        evaluation.evaluate_registration(["sift"], **options)
    with pytest.raises(ValueError, match="models: got 'identity', need a list"):
        evaluation.evaluate_registration("identity", **options)
    with pytest.raises(ValueError, match="each only once"):
        evaluation.evaluate_registration(["identity", "identity"], **options)
    with pytest.raises(ValueError, match="seeds: got none"):
        evaluation.evaluate_registration(["identity"], seeds=(), **options)
    with pytest.raises(ValueError, match="split"):
        evaluation.evaluate_fusion(["average"], split="test", **options)
    with pytest.raises(ValueError, match="moon"):
        evaluation.evaluate_fusion(["average"], dataset="moon", data_root=data, device="cpu")
