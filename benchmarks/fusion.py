"""Compare our fusion models with the baselines, in one table per data set.

    python benchmarks/fusion.py --out FOLDER [--case roadscene] [--model gaf] [--limit 4]
        [--bounds-only] [--device cpu] [--threads 2]

The scores follow ``docs/reference/metrics.md``: Y channel, 0..255, results clipped and rounded,
no stretch. The cases are held-out pairs: RoadScene (thermal), SRIF's night pairs, EPFL (near
infrared), MRI with PET or CT, and synthetic multi-focus and multi-exposure pairs. Two more darken
RoadScene: its visible image alone, or both. ``FOLDER`` gets ``rows.csv`` (every pair and
method), ``table.csv`` and ``table.md``. A second table compares each model with the Laplacian
pyramid, by the bounds of `BOUNDS`. ``--bounds-only`` measures no more than that, in a fifth of the
time. The output names missing data sets.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Device, Limit, Threads
from tables import Row, markdown, publish

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pair = tuple[str, "NDArray[Any]", "NDArray[Any]"]


def split(name: str, data_root: Path | None) -> list[Pair]:
    """The val split of a data set."""
    from napari_busref.data.datasets import load_pairs

    return load_pairs(name, data_root)


def night(data_root: Path | None) -> list[Pair]:
    """The val split of SRIF's night pairs, turned back and cut to what both images show."""
    from napari_busref.training.batches.srif import load_srif

    return load_srif("srif/night", data_root, "val")


def dark(data_root: Path | None, *, both: bool = False) -> list[Pair]:
    """RoadScene's val split with a dark visible image, or with two dark images."""
    import numpy as np

    def darken(image: NDArray[Any]) -> NDArray[Any]:
        return np.rint(255 * 0.35 * (image / 255) ** 2.5).astype(np.uint8)

    return [
        (name, darken(infrared) if both else infrared, darken(visible))
        for name, infrared, visible in split("roadscene", data_root)
    ]


CASES: dict[str, tuple[str, Callable[[Path | None], list[Pair]]]] = {
    "roadscene": ("infrared-visible", partial(split, "roadscene")),
    "night": ("infrared-visible", night),
    "roadscene-dark": ("infrared-visible", dark),
    "roadscene-both-dark": ("infrared-visible", partial(dark, both=True)),
    "vis-nir": ("infrared-visible", partial(split, "vis-nir")),
    "mri-pet": ("medical", partial(split, "mri-pet")),
    "mri-ct": ("medical", partial(split, "mri-ct")),
    "multi-focus": ("multi-focus", partial(split, "multi-focus")),
    "multi-exposure": ("multi-exposure", partial(split, "multi-exposure")),
}
"""For each case, its task and the function that loads its pairs."""

BOUNDS = {"qabf": 0.0, "vif": 0.0, "scd": 0.0, "ssim": -0.01, "nabf": 0.0}
"""Smallest accepted difference to the Laplacian pyramid; the largest one for N_AB/F."""


def table(summary: Sequence[Row]) -> str:
    """Markdown: one table per case, one line per method, the best fusion method in bold."""
    from napari_busref.metrics.fusion import METRICS

    blocks = []
    for case in dict.fromkeys(row["dataset"] for row in summary):
        lines = [row for row in summary if row["dataset"] == case]
        fusing = [row for row in lines if not row["model"].endswith("only")]
        measured = {n: m for n, m in METRICS.items() if any(r[n] is not None for r in fusing)}
        heads = [f"{m.symbol} {'↑' if m.higher_is_better else '↓'}" for m in measured.values()]
        rows = []
        for row in lines:
            cells = []
            for name, metric in measured.items():
                values = [other[name] for other in fusing if other[name] is not None]
                best = (max if metric.higher_is_better else min)(values)
                shown = "" if row[name] is None else f"{row[name]:.4g}"
                cells.append(f"**{shown}**" if row in fusing and row[name] == best else shown)
            cells.append("" if row["seconds"] is None else f"{row['seconds']:.2f}")
            rows.append([row["model"], *cells])
        blocks.append(f"{case}, {lines[0]['n']} pairs")
        blocks.append(markdown(["method", *heads, "seconds"], rows))
    return "\n\n".join(blocks) + "\n"


def bounds(summary: Sequence[Row]) -> str:
    """Markdown: differences of each model to the Laplacian pyramid, misses in bold."""
    from napari_busref.metrics.fusion import METRICS

    lines = [
        "difference to the Laplacian pyramid (bold: outside the bound)\n",
        "| case | model | " + " | ".join(METRICS[name].symbol for name in BOUNDS) + " |",
        "| --- " * (len(BOUNDS) + 2) + "|",
    ]
    pyramids = {row["dataset"]: row for row in summary if row["model"] == "laplacian"}
    for row in summary:
        if row["seconds"] is None or row is pyramids[row["dataset"]]:
            continue
        cells = []
        for name, bound in BOUNDS.items():
            gain = row[name] - pyramids[row["dataset"]][name]
            kept = gain >= bound if METRICS[name].higher_is_better else gain <= bound
            cells.append(f"{gain:+.3f}" if kept else f"**{gain:+.3f}**")
        lines.append(f"| {row['dataset']} | {row['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    out: Annotated[Path, typer.Option(help="Folder for the table.")],
    case: Annotated[list[str] | None, typer.Option(help="Only these cases.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Models (default: those of the case's task).")
    ] = None,
    bounds_only: Annotated[bool, typer.Option(help="Only scores with a bound.")] = False,
    limit: Limit = None,
    device: Device = "cpu",
    threads: Threads = 2,
    data_root: DataRoot = None,
) -> None:
    """Measure all methods on all cases."""
    unknown = set(case or CASES) - set(CASES)
    if unknown:
        raise typer.BadParameter(f"--case: need some of {', '.join(CASES)}")
    from options import set_threads

    set_threads(threads)
    from napari_busref.evaluation import evaluate_fusion, summarise, write_table
    from napari_busref.fusion.tasks import TASKS
    from napari_busref.metrics.fusion import METRICS

    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    missing = []
    for name in case or CASES:
        task, load = CASES[name]
        try:
            pairs = load(data_root)
        except ValueError as error:
            missing.append(f"{name} ({error})")
            continue
        models = model or list(TASKS[task].values())
        rows += evaluate_fusion(
            [*models, "laplacian"] if bounds_only and "laplacian" not in models else models,
            dataset=name,
            pairs=pairs,
            device=device,
            limit=limit,
            baselines=not bounds_only,
            scores=list(BOUNDS if bounds_only else METRICS),
        )
    if not rows:
        raise typer.BadParameter(f"nothing to measure: {'; '.join(missing)}")
    summary = summarise(rows)
    write_table(rows, out / "rows.csv")
    write_table(summary, out / "table.csv")
    text = f"{table(summary)}\n{bounds(summary)}"
    if missing:
        text += f"\nLeft out: {'; '.join(missing)}\n"
    publish(text, out / "table.md")


if __name__ == "__main__":
    typer.run(main)
