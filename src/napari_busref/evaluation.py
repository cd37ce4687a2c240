"""Measuring models on aligned pairs, by the protocol of ``docs/explanation/protocol.md``.

Registration: each aligned pair's infrared image is warped at random, and the model estimates the
warp. Fusion: the model fuses the aligned pair, and the result is scored against both sources.
"""

from __future__ import annotations

import csv
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.data import datasets
from napari_busref.fusion import fuse
from napari_busref.metrics import registration as metrics
from napari_busref.metrics.fusion import METRICS, fusion_scores
from napari_busref.registration import RegistrationResult, register
from napari_busref.runtime.atomic_write import check_writable
from napari_busref.runtime.progress import Cancelled, Progress, Reporter

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "FUSION_BASELINES",
    "evaluate_fusion",
    "evaluate_registration",
    "summarise",
    "write_table",
]

Row = dict[str, Any]

#: Baselines of every fusion table: classical methods and the bare sources.
FUSION_BASELINES = (
    "average",
    "maximum",
    "laplacian",
    "guided-filter",
    "infrared only",
    "visible only",
)

_BT601 = np.array([0.299, 0.587, 0.114])


def evaluate_registration(
    models: Sequence[str | os.PathLike[str] | nn.Module] = ("auto", "busref", "identity"),
    *,
    dataset: str = "roadscene",
    data_root: str | os.PathLike[str] | None = None,
    split: str = "val",
    seeds: Iterable[int] = (0, 1, 2),
    device: str | torch.device = "auto",
    limit: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Row]:
    """Warp aligned pairs at random, register them and score the results (SYN).

    Parameters
    ----------
    models : sequence of str, path or torch.nn.Module
        Models for `napari_busref.register`.
    dataset : str
        ``"roadscene"``, ``"vis-nir"`` (at half size, by the protocol), or another folder under
        `data_root`.
    data_root : path-like, optional
        Folder of the data sets; by default ``../shared/data`` beside the checkout.
    split : str
        A list in the data set's ``split.json``.
    seeds : iterable of int
        Each pair gets one warp per seed.
    device : str or torch.device
        As for `napari_busref.register`.
    limit : int, optional
        Only the first pairs.
    progress, cancel
        As for `napari_busref.register`.

    Returns
    -------
    list of dict
        One row per model, pair and seed: ``model``, ``dataset``, ``pair``, ``seed``, the scores
        of `napari_busref.metrics.registration.Scorer`, ``re`` (the reprojection error of the
        estimate's inverse; none where it folds), ``seconds`` of the call (model loaded),
        ``quality``, ``reliable``, ``failed`` and ``error``. A pair without an estimate gets the
        scores of the unregistered images and counts as failed.

    Raises
    ------
    ValueError
        For unknown models, data sets or splits.
    Cancelled
        When `cancel` was set.
    """
    drawn = [int(seed) for seed in seeds]
    if not drawn:
        raise ValueError("seeds: got none, need at least one")
    reporter = Reporter(progress, cancel)
    reporter.step("loading models and pairs", 0.0)
    networks = _load(models, "registration", device)
    pairs = _pairs(dataset, data_root, split, limit)
    rows: list[Row] = []
    total = len(pairs) * len(drawn) * len(networks)
    for name, infrared, visible in pairs:
        for seed in drawn:
            pair = metrics.make_pair(infrared / 255.0, visible, seed)
            moving = pair.moving.astype(np.float32)
            scorer = metrics.Scorer(pair)
            for label, module in networks:
                reporter.step(f"{label}: {name}, warp {seed}", len(rows) / total)
                row: Row = {"model": label, "dataset": dataset, "pair": name, "seed": seed}
                result, facts = _timed(
                    register, pair.fixed, moving, model=module, device=device, cancel=cancel
                )
                rows.append(row | _registration_scores(scorer, result) | facts)
                if result is not None and result.quality.status == "not registered":
                    rows[-1] |= {"failed": True, "error": "; ".join(result.quality.reasons)}
    reporter.step("measured", 1.0)
    return _in_order(rows, [label for label, _ in networks])


def evaluate_fusion(
    models: Sequence[str | os.PathLike[str] | nn.Module] = ("gaf",),
    *,
    dataset: str = "roadscene",
    data_root: str | os.PathLike[str] | None = None,
    split: str = "val",
    device: str | torch.device = "auto",
    baselines: bool = True,
    limit: int | None = None,
    pairs: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]] | None = None,
    scores: Sequence[str] = tuple(METRICS),
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Row]:
    """Fuse aligned pairs and score the results.

    All images are grey, 0..255: the infrared image and Y (ITU-R BT.601, rounded) of the visible
    one. Results are clipped and rounded, never stretched.

    Parameters
    ----------
    models : sequence of str, path or torch.nn.Module
        Models for `napari_busref.fuse`.
    dataset, data_root, split, device, limit, progress, cancel
        As for `evaluate_registration`.
    baselines : bool
        Also measure `FUSION_BASELINES`.
    pairs : sequence of (name, infrared, visible), optional
        Measure these pairs, uint8 (H, W) and (H, W, 3), instead of stored ones; `dataset` then
        only labels them.
    scores : sequence of str
        Names of scores, keys of `napari_busref.metrics.fusion.METRICS`; by default all.

    Returns
    -------
    list of dict
        One row per model and pair: ``model``, ``dataset``, ``pair``, the `scores` by
        `napari_busref.metrics.fusion.fusion_scores`, ``seconds`` of the call (model loaded; none
        for the bare sources), ``failed`` and ``error``. A failed row has no scores.

    Raises
    ------
    ValueError
        For unknown models, data sets or splits.
    Cancelled
        When `cancel` was set.
    """
    chosen: list[Any] = list(models)
    sources = [name for name in FUSION_BASELINES if name.endswith("only") and baselines]
    if baselines:
        chosen += [b for b in FUSION_BASELINES if b not in chosen and b not in sources]
    reporter = Reporter(progress, cancel)
    reporter.step("loading models and pairs", 0.0)
    networks = _load(chosen, "fusion", device)
    aligned = _pairs(dataset, data_root, split, limit) if pairs is None else pairs[:limit]
    rows: list[Row] = []
    total = len(aligned) * (len(networks) + len(sources))
    for name, infrared, visible in aligned:
        grey = np.rint(visible @ _BT601).astype(np.uint8)
        everywhere = np.ones(grey.shape, bool)
        for label, module in networks:
            reporter.step(f"{label}: {name}", len(rows) / total)
            row: Row = {"model": label, "dataset": dataset, "pair": name}
            result, facts = _timed(
                fuse, grey, infrared, model=module, device=device, mask=everywhere, cancel=cancel
            )
            found = {} if result is None else fusion_scores(result.fused, grey, infrared, scores)
            rows.append(row | found | facts)
        for label in sources:
            reporter.step(f"{label}: {name}", len(rows) / total)
            bare = infrared if label.startswith("infrared") else grey
            row = {"model": label, "dataset": dataset, "pair": name}
            found = fusion_scores(bare, grey, infrared, scores)
            rows.append(row | found | {"failed": False})
    reporter.step("measured", 1.0)
    return _in_order(rows, [label for label, _ in networks] + sources)


def summarise(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Summarise rows of either evaluation, one row per model and data set.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of `evaluate_registration` or `evaluate_fusion`.

    Returns
    -------
    list of dict
        Registration: `napari_busref.metrics.registration.summarise`. Fusion: the mean or the
        median of every score, by `napari_busref.metrics.fusion.METRICS`; ``NAME_sd`` is the
        standard deviation over pairs. Both with ``n`` and ``failures``, in the order in which
        the models first appear.
    """
    groups: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row.get("dataset")), []).append(row)
    summary: list[Row] = []
    for (model, dataset), group in groups.items():
        head: Row = {"model": model, "dataset": dataset}
        if any("seed" in row for row in group):
            summary.append(head | metrics.summarise(group))
            continue
        scores = {}
        for name, metric in METRICS.items():
            scores[name] = _average(group, name, metric.summary)
            values = [row[name] for row in group if row.get(name) is not None]
            scores[f"{name}_sd"] = metrics.standard_deviation(values)
        scores["seconds"] = _average(group, "seconds", "mean")
        failures = sum(bool(row.get("failed")) for row in group)
        summary.append(head | {"n": len(group)} | scores | {"failures": failures})
    return summary


def write_table(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Write rows to a file.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of an evaluation, or their summary.
    path : path-like
        ``.csv`` (one column per key; empty where a row has no value) or ``.json`` (a list).

    Raises
    ------
    ValueError
        For another extension.
    OSError
        When the file cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"{file}: extension {file.suffix!r} is not accepted, need .csv or .json")
    check_writable(file)
    if file.suffix.lower() == ".json":
        text = json.dumps([dict(row) for row in rows], indent=2, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
        return file
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return file


def _load(
    models: Sequence[Any], kind: str, device: str | torch.device
) -> list[tuple[str, nn.Module]]:
    """Load every model once; the seconds of a pair then exclude loading."""
    from torch import nn

    from napari_busref.models import load_model
    from napari_busref.runtime.device import resolve_device

    if isinstance(models, str | os.PathLike | nn.Module):
        raise ValueError(f"models: got {models!r}, need a list of models")
    loaded: list[tuple[str, nn.Module]] = []
    for model in models:
        if isinstance(model, nn.Module):
            loaded.append((type(model).__name__, model))
        else:
            name = os.fspath(model)
            loaded.append((name, load_model(name, kind=kind, device=resolve_device(device))))
    labels = [label for label, _ in loaded]
    if not labels or len(set(labels)) != len(labels):
        raise ValueError(f"models: got {labels}, need at least one and each only once")
    return loaded


def _pairs(
    dataset: str, data_root: str | os.PathLike[str] | None, split: str, limit: int | None
) -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    root = None if data_root is None else Path(data_root)
    return datasets.load_pairs(dataset, root, split)[:limit]


def _timed(call: Callable[..., Any], *images: Any, **options: Any) -> tuple[Any, Row]:
    """Call, and return the result (None after an error) with its seconds and failure."""
    start = perf_counter()
    try:
        result = call(*images, **options)
    except Cancelled:
        raise
    except Exception as error:
        # one pair without a result must not stop the others
        seconds = perf_counter() - start
        failure = f"{type(error).__name__}: {error}"
        return None, {"seconds": seconds, "failed": True, "error": failure}
    return result, {"seconds": perf_counter() - start, "failed": False}


def _registration_scores(scorer: metrics.Scorer, result: RegistrationResult | None) -> Row:
    source = metrics.pixel_grid(scorer.pair.aligned.shape)
    landmarks = scorer.landmarks()
    if result is None:
        return {**scorer(source), "re": scorer.reprojection_error(landmarks)}
    row: Row = dict(scorer(source + result.flow))
    try:
        row["re"] = scorer.reprojection_error(result.transform.points(landmarks, inverse=True))
    except ValueError:
        row["re"] = None  # a folded transform has no inverse
    return row | {"quality": result.quality.score, "reliable": result.quality.reliable}


def _average(rows: Iterable[Mapping[str, Any]], key: str, how: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return None
    return float(np.median(values) if how == "median" else np.mean(values))


def _in_order(rows: list[Row], labels: list[str]) -> list[Row]:
    """Sort rows by model, keeping the order of pairs."""
    return sorted(rows, key=lambda row: labels.index(row["model"]))
