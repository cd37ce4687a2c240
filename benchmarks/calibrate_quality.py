"""Fit the quality score to registration errors, and measure how well it separates good from bad.

Cases of every kind are good where the mean error is below 5 px: aligned pairs under synthetic
warps (thermal, near infrared, medical), and SRIF's pairs with a known affine, as given and turned
again (`poses.py`). As many pair one scene with the second modality of another; these are bad.
Logistic regression fits the score's bias and weights on the ``train`` splits; the ``val`` splits
test them, and the shipped weights of `Quality.map`, cell by cell. With ``--train 0`` the script
measures the shipped weights of the score, too.

    python benchmarks/calibrate_quality.py --out runs/quality [--train 12] [--val 6] [--set night]

A run appends rows to OUT/rows.csv, writes the cells of each case to OUT/cells, and continues a
stopped run. OUT/table.md gets the tables.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Threads, chosen_data, provenance, set_threads
from poses import KINDS, pairs
from tables import append_row, markdown, publish, read_rows, wide_console

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from napari_busref import Transform

WARPED = ("roadscene", "vis-nir", "mri-pet", "mri-ct")
# the published affine of seasons is off by several pixels
SETS = (*WARPED, *(kind for kind in KINDS if kind != "season"))
ALIKE = ("mri-pet", "mri-ct", "depth")  # slices of heads, and frames of one room
KEY = ("split", "set", "pair", "variant", "mate")
EVIDENCE = ("block_confidence", "inverse_consistency_px", "excess", "support")
FIELDS = (*KEY, "side", "error", "score", "reliable", "wide", *EVIDENCE)
GOOD = 5.0  # px
_FIRST = {"train": 1, "val": 101}  # numbers of SRIF's pairs
_BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.001)


@dataclass(frozen=True)
class Case:
    """Two images, and the errors of a transform between them; none where they share nothing.

    Attributes
    ----------
    key : tuple of str
        Values of `KEY`.
    fixed, moving : ndarray
    errors : callable or None
        Transform -> (H, W) errors in fixed pixels, NaN outside the true overlap.
    """

    key: tuple[str, ...]
    fixed: NDArray[Any]
    moving: NDArray[Any]
    errors: Callable[[Transform], NDArray[Any]] | None

    @property
    def file(self) -> str:
        """Name of the file of its cells."""
        return "_".join(self.key).replace("/", "-").replace(" ", "-") + ".npy"


def cases(name: str, split: str, count: int, root: Path) -> Iterator[Case]:
    """``count`` pairs of one set, each followed by a mismatched one.

    The sets of ``ALIKE`` have no mismatched ones, because their scenes fit each other.
    """
    chosen = list((_warped if name in WARPED else _posed)(name, split, count, root))
    for index, case in enumerate(chosen):
        yield case
        mate = chosen[(index + len(chosen) // 2) % len(chosen)]
        if mate.key[2] != case.key[2] and name not in ALIKE:
            yield Case((*case.key[:-1], mate.key[2]), case.fixed, mate.moving, None)


def _warped(name: str, split: str, count: int, root: Path) -> Iterator[Case]:
    import numpy as np
    from skimage.color import rgb2gray

    from napari_busref.data.datasets import load_pairs
    from napari_busref.metrics.registration import Scorer, make_pair, pixel_grid

    loaded = load_pairs(name, root, split)
    for index, (pair, infrared, visible) in enumerate(loaded[:: max(len(loaded) // count, 1)]):
        if index == count:
            return
        drawn = make_pair(infrared / 255.0, rgb2gray(visible), index + 3)
        grid = pixel_grid(infrared.shape)

        def errors(found: Transform, drawn: Any = drawn, grid: Any = grid) -> NDArray[Any]:
            error = Scorer(drawn).end_point_error(grid + found.flow())
            return np.where(drawn.mask, error, np.nan)

        moving = drawn.moving.astype(np.float32)
        yield Case((split, name, pair, "warped", pair), drawn.fixed, moving, errors)


def _posed(name: str, split: str, count: int, root: Path) -> Iterator[Case]:
    import numpy as np

    from napari_busref import Transform

    for index, pair in enumerate(pairs(name, root, count, _FIRST[split])):
        if index % 4 in (0, 3):  # of two pairs, one as given and the other turned again

            def errors(found: Transform, pair: Any = pair) -> NDArray[Any]:
                shapes = {"fixed_shape": found.fixed_shape, "moving_shape": found.moving_shape}
                truth = Transform(pair.truth, **shapes)
                apart = np.tensordot(
                    np.linalg.inv(pair.truth[:2, :2]), found.flow() - truth.flow(), 1
                )
                return np.where(truth.mask(), np.hypot(*apart), np.nan)

            key = (split, name, pair.name, pair.variant, pair.name)
            yield Case(key, pair.fixed, pair.moving, errors)


def measure(model: nn.Module, case: Case, cells: Path) -> dict[str, object]:
    """A row: evidence, score and error, also of what `register` would reject.

    ``cells`` gets a file with the local support and the mean error of each cell, (2, rows, cols),
    the error in units of the limit.
    """
    import numpy as np

    from napari_busref.models.inference import inference_session
    from napari_busref.registration.estimate import (
        Method,
        NotRegistered,
        assess_estimate,
        estimate_transform,
    )
    from napari_busref.registration.prepare import prepare_pair
    from napari_busref.registration.quality import Evidence, mean_support, unregistered

    images = prepare_pair(case.fixed, case.moving)
    support, wide = None, False
    try:
        with inference_session(model, "registration", "cpu") as session:
            found = estimate_transform(images, Method.of(session))
        transform, quality = found.transform, assess_estimate(images, found)
        support, wide = found.support, found.wide
    except NotRegistered as failure:
        transform, quality = images.initial, unregistered(images.warped_mask, str(failure))
    evidence = quality.evidence or Evidence(0.0, float("inf"))
    errors = np.full(transform.fixed_shape, np.inf)
    if case.errors is not None:
        errors = case.errors(transform)
    if support is not None:
        limits = cell_means(errors, support.shape) / found.support_px
        np.save(cells / case.file, np.stack([support, limits]).astype(np.float32))
    return dict(zip(KEY, case.key, strict=True)) | {
        "side": min(case.fixed.shape[:2]),
        "error": float(np.nanmean(errors)),
        "score": quality.score,
        "reliable": quality.reliable,
        "wide": wide,
        "block_confidence": evidence.block_confidence,
        "inverse_consistency_px": evidence.inverse_consistency_px,
        "excess": quality.edge_excess,
        "support": mean_support(support),
    }


def cell_means(values: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Means over equal cells, of what is known; NaN where nothing is."""
    import warnings

    import numpy as np

    rows, cols = (
        np.linspace(0, size, count + 1).round().astype(int)
        for size, count in zip(values.shape, shape, strict=True)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cells without a known value
        return np.array([
            [np.nanmean(values[a:b, c:d]) for c, d in pairwise(cols)] for a, b in pairwise(rows)
        ])  # fmt: skip


def features(rows: list[dict[str, str]]) -> NDArray[Any]:
    """Features of the score with a constant column, (rows, 4)."""
    import numpy as np

    from napari_busref.registration.quality import confidence_features

    return np.array([
        (
            1.0,
            *confidence_features(
                float(row["excess"]),
                float(row["inverse_consistency_px"]),
                int(row["side"]),
                float(row["support"]),
            ),
        )
        for row in rows
    ])  # fmt: skip


def fit(design: NDArray[Any], good: NDArray[Any]) -> NDArray[Any]:
    """Ridge logistic regression on standardised features."""
    import numpy as np
    from scipy.optimize import minimize

    spread = design.std(0) + (design.std(0) == 0)

    def loss(weights: NDArray[Any]) -> float:
        logit = (design / spread) @ weights
        return float(
            np.logaddexp(0, np.where(good, -logit, logit)).sum() + 0.5 * weights[1:] @ weights[1:]
        )

    return minimize(loss, np.zeros(design.shape[1])).x / spread


def auc(score: NDArray[Any], good: NDArray[Any]) -> str:
    """Area under the ROC curve: the probability that a good pair scores above a bad one."""
    from scipy.stats import rankdata

    count = int(good.sum())
    if count in (0, len(good)):
        return ""
    ranks = rankdata(score)[good].sum() - count * (count + 1) / 2
    return f"{ranks / (count * (len(good) - count)):.3f}"


def groups_table(rows: list[dict[str, str]], score: NDArray[Any]) -> str:
    """One line for each split and set: how well the score separates good from bad."""
    import numpy as np

    good, mates = _outcome(rows)
    lines = []
    for split in ("train", "val"):
        for name in (*SETS, "all"):
            part = np.array([r["split"] == split and name in (r["set"], "all") for r in rows])
            if not part.any():
                continue
            real, told = part & ~mates, score > 0.5
            right = part & good
            lines.append([
                split, name, str(real.sum()), str(right.sum()),
                auc(score[part], good[part]), auc(score[real], good[real]),
                str((told & right).sum()), str((told & real & ~good).sum()),
                f"{(told & part & mates).sum()} of {(part & mates).sum()}",
            ])  # fmt: skip
    headings = (
        "split", "set", "real pairs", "good", "AUC", "AUC of real pairs", "good above .5",
        "wrong above .5", "mismatched above .5",
    )  # fmt: skip
    return markdown(headings, lines)


def reliability_table(rows: list[dict[str, str]], score: NDArray[Any]) -> str:
    """Predicted and true share of good pairs in bins of the score, for each search."""
    import numpy as np

    good, _ = _outcome(rows)
    wide = np.array([row["wide"] == "True" for row in rows])
    lines = []
    for split in ("train", "val"):
        for search, part in (("near", ~wide), ("wide", wide)):
            part = part & np.array([row["split"] == split for row in rows])
            lines += [[split, search, *line] for line in _bins(score[part], good[part])]
    headings = ("split", "search", "score", "cases", "mean score", "share below 5 px")
    return markdown(headings, lines)


def _bins(probability: NDArray[Any], true: NDArray[Any]) -> Iterator[list[str]]:
    """Range, count, mean probability and true share of every bin that holds something."""
    for low, high in pairwise(_BINS):
        chosen = (probability >= low) & (probability < high)
        if chosen.any():
            share = f"{probability[chosen].mean():.2f}", f"{true[chosen].mean():.2f}"
            yield [f"{low:.1f} to {min(high, 1):.1f}", str(chosen.sum()), *share]


def _outcome(rows: list[dict[str, str]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Whether each row is good, and whether it is mismatched."""
    import numpy as np

    mates = np.array([row["pair"] != row["mate"] for row in rows])
    return np.array([float(row["error"]) < GOOD for row in rows]) & ~mates, mates


def map_table(rows: list[dict[str, str]], score: NDArray[Any], cells: Path) -> str:
    """Predicted and true share of cells below the limit in bins of `Quality.map`."""
    import numpy as np

    from napari_busref.registration.quality import map_probability

    lines = []
    for split in ("train", "val"):
        parts = []
        for row, one in zip(rows, score, strict=True):
            file = cells / Case(tuple(row[name] for name in KEY), score, score, None).file
            if row["split"] == split and file.exists():
                support, limits = np.load(file).reshape(2, -1)
                known = np.isfinite(support) & ~np.isnan(limits)
                parts.append([map_probability(float(one), support[known]), limits[known] < 1])
        if parts:
            joined = (np.concatenate(part) for part in zip(*parts, strict=True))
            lines += [[split, *line] for line in _bins(*joined)]
    headings = ("split", "probability", "cells", "mean probability", "share below the limit")
    return markdown(headings, lines)


def report(rows: list[dict[str, str]], cells: Path) -> str:
    """The weights and the tables, in Markdown."""
    import numpy as np

    from napari_busref.registration.quality import SCORE_BIAS, SCORE_WEIGHTS

    design, (good, _) = features(rows), _outcome(rows)
    training = np.array([row["split"] == "train" for row in rows])
    fitted = training.any()
    weights = fit(design[training], good[training]) if fitted else (SCORE_BIAS, *SCORE_WEIGHTS)
    score = 1 / (1 + np.exp(-(design @ np.asarray(weights))))
    names = ("bias", "edge excess", "inverse consistency", "support")
    stated = ", ".join(f"{n} {w:.3f}" for n, w in zip(names, weights, strict=True))
    title = "Fitted on train" if fitted else "Shipped"
    tables = groups_table(rows, score), reliability_table(rows, score)
    return "\n\n".join([f"{title}: {stated}", *tables, map_table(rows, score, cells)])


def main(
    out: Annotated[Path, typer.Option(help="Folder of rows.csv and table.md.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Set; repeat for more.")] = None,
    train: Annotated[int, typer.Option(help="Pairs of each set's train split.")] = 12,
    val: Annotated[int, typer.Option(help="Pairs of each set's val split.")] = 6,
    threads: Threads = 1,
    data_root: DataRoot = None,
) -> None:
    """Fit the quality score."""
    console = wide_console()
    set_threads(threads)
    root = chosen_data("--set", sets, SETS, data_root)
    from napari_busref.models import load_model

    path, cells = out / "rows.csv", out / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    measured = {tuple(row[name] for name in KEY) for row in read_rows(path)}
    model = load_model("auto")
    for split, count in (("train", train), ("val", val)):
        for name in (sets or SETS) if count else ():
            for case in cases(name, split, count, root):
                if case.key not in measured:
                    append_row(path, measure(model, case, cells), FIELDS)
                    console.print(*case.key, markup=False)
    run = provenance(threads)
    heading = f"{run['machine']}, {threads} threads; commit {run['commit']}"
    publish(f"{heading}\n\n{report(read_rows(path), cells)}\n", out / "table.md")


if __name__ == "__main__":
    typer.run(main)
