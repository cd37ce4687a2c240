"""Fit the quality score to registration errors, and measure how well it separates good from bad.

Aligned pairs under synthetic warps are good where the mean error is below 5 px. As many mismatched
pairs (the visible image of one scene, the infrared image of another) are bad. Logistic regression
fits the score's bias and weights on the ``train`` split; the ``val`` split tests them. With
``--train 0`` the script measures the shipped weights.

    python benchmarks/calibrate_quality.py --out runs/quality

A run appends rows to OUT/rows.csv and continues a stopped run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from scipy.optimize import minimize
from scipy.stats import rankdata
from skimage.color import rgb2gray
from tables import append_row, console_table, read_rows

from napari_busref.data.datasets import load_pairs
from napari_busref.metrics.registration import Scorer, make_pair, pixel_grid
from napari_busref.models import load_model
from napari_busref.models.inference import inference_session
from napari_busref.registration.estimate import (
    Method,
    NotRegistered,
    assess_estimate,
    estimate_transform,
)
from napari_busref.registration.prepare import prepare_pair
from napari_busref.registration.quality import (
    SCORE_BIAS,
    SCORE_WEIGHTS,
    Evidence,
    confidence_features,
    unregistered,
)

SETS = ("roadscene", "vis-nir")
KEY = ("split", "set", "pair", "seed", "mate")
FIELDS = (*KEY, "side", "epe", "score", "reliable")
EVIDENCE = ("block_confidence", "inverse_consistency_px", "excess")
GOOD = 5.0  # px
Job = tuple[str, str, str, str, str, np.ndarray, np.ndarray]  # `KEY`, visible, infrared
SHIPPED = np.array((SCORE_BIAS, *SCORE_WEIGHTS))


def main(
    out: Annotated[Path, typer.Option(help="Folder of rows.csv.")],
    train: Annotated[int, typer.Option(help="Pairs of each set's train split.")] = 40,
    val: Annotated[int, typer.Option(help="Pairs of each set's val split.")] = 20,
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "rows.csv"
    measured = {tuple(row[name] for name in KEY) for row in read_rows(path)}
    jobs = [job for job in _jobs(train, val) if job[: len(KEY)] not in measured]
    model = load_model("auto")
    for job in track(jobs, "registering", console=Console(stderr=True)):
        append_row(path, _measure(model, job), (*FIELDS, *EVIDENCE))
    _report(read_rows(path))


def _jobs(train: int, val: int) -> Iterator[Job]:
    """The cases; a mismatched one has the infrared image of its mate."""
    for split, count in (("val", val), ("train", train)):
        for name in SETS if count else ():
            pairs = load_pairs(name, None, split)
            step = max(len(pairs) // count, 1)
            chosen = pairs[::step][:count]
            for index, (pair, infrared, visible) in enumerate(chosen):
                yield split, name, pair, str(index + 3), pair, visible, infrared
                mate, other, _ = chosen[(index + len(chosen) // 2) % len(chosen)]
                if mate != pair:
                    rows, cols = (
                        min(a, b) for a, b in zip(infrared.shape, other.shape, strict=True)
                    )
                    images = visible[:rows, :cols], other[:rows, :cols]
                    yield split, name, pair, str(index + 3), mate, *images


def _measure(model: torch.nn.Module, job: Job) -> dict[str, object]:
    *key, visible, infrared = job
    drawn = make_pair(infrared / 255.0, rgb2gray(visible), int(job[3]))
    images = prepare_pair(drawn.fixed, drawn.moving.astype(np.float32))
    try:  # `register` would reject some of these estimates
        with inference_session(model, "registration", "cpu") as session:
            found = estimate_transform(images, Method.of(session))
        transform, quality = found.transform, assess_estimate(images, found)
    except NotRegistered as failure:
        transform, quality = images.initial, unregistered(images.warped_mask, str(failure))
    evidence = quality.evidence or Evidence(0.0, float("inf"))
    return dict(zip(KEY, key, strict=True)) | {
        "side": min(infrared.shape),
        "epe": Scorer(drawn)(pixel_grid(infrared.shape) + transform.flow())["epe"],
        "score": quality.score,
        "reliable": quality.reliable,
        "block_confidence": evidence.block_confidence,
        "inverse_consistency_px": evidence.inverse_consistency_px,
        "excess": quality.edge_excess,
    }


def _report(rows: list[dict[str, str]]) -> None:
    features, good, mates = _design(rows)
    training = np.array([row["split"] == "train" for row in rows])
    weights = _fit(features[training], good[training]) if training.any() else SHIPPED
    console = Console(width=120)
    names = ("bias", "logit(block confidence)", "sqrt(edge excess)", "log(inverse consistency)")
    console.print(
        "weights:", ", ".join(f"{n} {w:.3f}" for n, w in zip(names, weights, strict=True))
    )
    title = "score fitted on train" if training.any() else "shipped score"
    headings = ("split", "pairs", "good", "AUC", "mismatched called unreliable", "calibration")
    lines = []
    probability = 1 / (1 + np.exp(-(features @ weights)))
    for split in ("train", "val"):
        part = training if split == "train" else ~training
        if not part.any():
            continue
        mismatched = probability[part & mates]
        lines.append(
            [
                split,
                str(int(part.sum())),
                str(int(good[part].sum())),
                f"{_auc(probability[part], good[part]):.3f}",
                f"{(mismatched < 0.5).mean() if len(mismatched) else np.nan:.1%}",
                _calibration(probability[part], good[part]),
            ]
        )
    console.print(console_table(headings, lines, title))


def _design(rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with a constant column, and whether each row is good and mismatched."""
    features = np.array(
        [
            (
                1.0,
                *confidence_features(
                    Evidence(float(row["block_confidence"]), float(row["inverse_consistency_px"])),
                    float(row["excess"]),
                    int(row["side"]),
                ),
            )
            for row in rows
        ]
    )
    mates = np.array([row["pair"] != row["mate"] for row in rows])
    good = np.array([float(row["epe"]) < GOOD for row in rows]) & ~mates
    return features, good, mates


def _fit(features: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Ridge logistic regression on standardised features."""
    spread = features.std(0) + (features.std(0) == 0)

    def loss(weights: np.ndarray) -> float:
        logit = (features / spread) @ weights
        return float(
            np.logaddexp(0, np.where(good, -logit, logit)).sum() + 0.5 * weights[1:] @ weights[1:]
        )

    return minimize(loss, np.zeros(features.shape[1])).x / spread


def _auc(score: np.ndarray, good: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a good pair scores above a bad one."""
    count = int(good.sum())
    if count in (0, len(good)):
        return float("nan")
    ranks = rankdata(score)[good].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(good) - count)))


def _calibration(score: np.ndarray, good: np.ndarray) -> str:
    """Predicted and true fraction of good pairs, in four bins."""
    parts = []
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.001)):
        part = (score >= low) & (score < high)
        if part.any():
            parts.append(f"{score[part].mean():.2f}→{good[part].mean():.2f} ({part.sum()})")
    return ", ".join(parts)


if __name__ == "__main__":
    typer.run(main)
