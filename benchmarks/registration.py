"""Compare our models with installable registration tools on the same synthetic pairs.

    python benchmarks/registration.py --out FOLDER [--dataset roadscene] [--method ants]
        [--model busref] [--seeds 0,1,2] [--limit 8] [--threads 2] [--peers-only] [--report]

The protocol is ``docs/explanation/protocol.md``. Each pair and method appends a row to
``FOLDER/rows.csv``; the same command continues a stopped run. At the end, or with ``--report``
alone, the script writes ``table.md``, ``table.csv`` and ``errors.png`` from all rows.

A method that fails on a pair gets the scores of the unregistered pair and counts as failed.
Seconds are CPU seconds of all threads, which hardly depend on other work of the machine.
``pip install 'napari-busref[benchmarks]'`` installs the tools. The table names missing ones with
the reason.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Limit, Seeds, Split, Threads, parse_seeds, provenance, set_threads
from rich.console import Console
from rich.markup import escape
from tables import (
    Row,
    append_row,
    cell_with_deviation,
    console_table,
    markdown,
    read_rows,
    wide_console,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_busref.metrics.registration import Scorer, SyntheticPair

    Estimated = tuple[NDArray[Any], Row]  # source map, and further columns of the row
    Method = Callable[[SyntheticPair], Estimated]
    Task = tuple[Row, Callable[[], SyntheticPair]]  # key of the row, and the pair

SETS: dict[str, tuple[str, int | None, dict[str, Any]]] = {
    "roadscene": ("roadscene", None, {}),
    "vis-nir": ("vis-nir", None, {}),
    "vis-nir-affine": ("vis-nir", 1, {"elastic": (0.0, 0.0)}),
}
"""Data set, reduction (None: the protocol's), and ranges of the warps beside the protocol's."""

MODELS = ("auto", "busref", "superfusion")
ORACLES = ("true-warp", "best-affine")
KEY = ("dataset", "split", "pair", "seed", "method")
SCORES = ("epe", "epe_median_px", "epe_p95", "ncc", "mse", "mncc", "mmse", "mask_fraction")
FACTS = ("failed", "error", "quality", "reliable", "threads", "version", "commit", "machine")
COLUMNS = (*KEY, *SCORES, "seconds", *FACTS)
HEADINGS = {
    "method": "method",
    "n": "pairs",
    "failures": "failures",
    "epe_mean": "EPE mean",
    "epe_median": "EPE median",
    "epe_largest": "EPE largest",
    "share_below_1px": "< 1 px, %",
    "share_below_3px": "< 3 px, %",
    "share_below_5px": "< 5 px, %",
    "ncc": "NCC",
    "mse": "MSE",
    "mncc": "MNCC",
    "mmse": "MMSE",
    "seconds": "CPU seconds",
}


def typed_rows(file: Path) -> list[Row]:
    """Rows measured so far, with numbers and truth values."""
    rows: list[Row] = [dict(row) for row in read_rows(file)]
    for row in rows:
        row["seed"] = int(row["seed"])
        row["failed"] = row["failed"] == "True"
        for name in (*SCORES, "seconds"):
            row[name] = float(row[name]) if row[name] else None
    return rows


def best_affine(pair: SyntheticPair) -> NDArray[Any]:
    """Least-squares affine of the true source map over the mask: the bound of affine methods."""
    import numpy as np

    truth = pair.warp.true_source()
    positions = np.stack([*np.indices(pair.mask.shape, float), np.ones(pair.mask.shape)])
    matrix, *_ = np.linalg.lstsq(positions[:, pair.mask].T, truth[:, pair.mask].T, rcond=None)
    return np.tensordot(matrix.T, positions, 1)


def score(scorer: Scorer, call: Callable[[], Estimated]) -> Row:
    """Time an estimate of the source map and score it.

    ``call`` returns the source map and further columns of the row. If it raises, or the map is not
    finite, the row has the scores of the unregistered pair.
    """
    import numpy as np

    from napari_busref.metrics.registration import pixel_grid

    start = time.process_time()
    try:
        source, facts = call()
        error = "" if np.isfinite(source).all() else "the map is not finite"
    except Exception as problem:  # the other methods must still run
        facts, error = {}, " ".join(f"{type(problem).__name__}: {problem}".split())
    seconds = time.process_time() - start
    if error:
        source = pixel_grid(scorer.pair.aligned.shape)
        facts = facts | {"failed": True, "error": error}
    return {"failed": False, "error": ""} | scorer(source) | {"seconds": seconds} | facts


def call_peer(name: str, pair: SyntheticPair) -> Estimated:
    """Run a peer on the grey images."""
    import numpy as np
    from peers import PEERS

    from napari_busref.images.preprocess import luma

    grey = luma(pair.fixed.astype(np.float32) / 255)
    return PEERS[name].run(grey, pair.moving.astype(np.float32)), {}


def call_model(name: str, pair: SyntheticPair) -> Estimated:
    """Run one of our models by its name; the seconds include reading the weights."""
    import numpy as np

    from napari_busref import register
    from napari_busref.metrics.registration import pixel_grid

    result = register(pair.fixed, pair.moving.astype(np.float32), model=name, device="cpu")
    facts: Row = {"quality": result.quality.score, "reliable": result.quality.reliable}
    if result.quality.status == "not registered":
        facts |= {"failed": True, "error": "; ".join(result.quality.reasons)}
    return pixel_grid(pair.aligned.shape) + result.flow, facts


def call_oracle(name: str, pair: SyntheticPair) -> Estimated:
    """Return the truth, or the affine fitted to it, without seconds."""
    source = best_affine(pair) if name == "best-affine" else pair.warp.true_source()
    return source, {"seconds": None}


def callers(methods: Sequence[str], models: Sequence[str]) -> dict[str, Method]:
    """The function of each method.

    Raises
    ------
    ValueError
        For a method or model that is unknown or not installed.
    """
    from peers import PEERS

    from napari_busref import list_models

    chosen: dict[str, Method] = {}
    for name in methods:
        if name in ORACLES:
            chosen[name] = partial(call_oracle, name)
            continue
        if name not in PEERS:
            accepted = ", ".join((*ORACLES, *PEERS))
            raise ValueError(f"method must be one of {accepted}, got {name!r}")
        if reason := PEERS[name].missing():
            raise ValueError(f"method {name!r} cannot be used: {reason}")
        chosen[name] = partial(call_peer, name)
    known = list_models("registration")
    for name in models:
        if name not in known:
            raise ValueError(f"model must be one of {', '.join(known)}, got {name!r}")
        if name not in chosen:
            chosen[name] = partial(call_model, name)
    return chosen


def warps(
    dataset: str, split: str, seeds: Sequence[int], limit: int | None, data_root: Path | None
) -> Iterator[Task]:
    """The key of every pair and warp, and the function that draws the pair."""
    from napari_busref.data.datasets import load_pairs
    from napari_busref.metrics.registration import make_pair

    folder, reduce, ranges = SETS.get(dataset, (dataset, None, {}))
    for name, infrared, visible in load_pairs(folder, data_root, split, reduce=reduce)[:limit]:
        for seed in seeds:
            key = {"dataset": dataset, "split": split, "pair": name, "seed": seed}
            yield key, partial(make_pair, infrared / 255.0, visible, seed, **ranges)


def measure(
    out: Path,
    run: dict[str, Method],
    tasks: Iterator[Task],
    facts: Row,
    console: Console,
) -> None:
    """Measure the methods and pairs that `rows.csv` lacks, and append their rows."""
    from peers import PEERS

    from napari_busref.data.samples import thermal_scene
    from napari_busref.metrics.registration import Scorer, make_pair

    file = out / "rows.csv"
    before = typed_rows(file)
    threads = {row["threads"] for row in before} - {str(facts["threads"])}
    if threads:
        raise ValueError(f"--threads {facts['threads']}: {file} has rows of {', '.join(threads)}")
    done = {tuple(row[name] for name in KEY) for row in before}
    sample = thermal_scene(0, (96, 128))
    called: set[str] = set()
    for key, draw in tasks:
        left = [m for m in run if (*(key[name] for name in KEY[:-1]), m) not in done]
        if not left:
            continue
        for method in left:
            if method not in called:  # the first call loads libraries and weights
                small = make_pair(sample.aligned / 255.0, sample.fixed, 0)
                score(Scorer(small), partial(run[method], small))
                called.add(method)
        pair = draw()
        scorer = Scorer(pair)
        for method in left:
            row = score(scorer, partial(run[method], pair))
            package = PEERS[method].version() if method in PEERS else ""
            key_facts = facts | key | {"method": method, "version": package}
            append_row(file, key_facts | row, COLUMNS)
            console.print(
                f"{key['dataset']} {key['pair']} warp {key['seed']} {method}: "
                f"EPE {row['epe']:.2f} px {row['error']}",
                markup=False,
            )


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row per data set and method, in the order of the first measurement."""
    from napari_busref.metrics.registration import summarise

    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((f"{row['dataset']} {row['split']}", row["method"]), []).append(row)
    table = []
    for (dataset, method), group in groups.items():
        line = {"dataset": dataset, "method": method, **summarise(group)}
        table.append(line | {"epe_largest": max(row["epe"] for row in group)})
    return table


def headline(rows: Sequence[Row]) -> list[str]:
    """Lines above the table: machine, versions and commit, and the tools that are missing."""
    from importlib.metadata import version

    from peers import PEERS

    def every(name: str) -> str:
        return "; ".join(dict.fromkeys(str(row[name]) for row in rows if row[name]))

    lines = [
        f"Machine: {every('machine')}; threads: {every('threads')}; Python "
        f"{platform.python_version()}, torch {version('torch')}, numpy {version('numpy')}",
        f"Tools: {every('version') or 'none'}; napari-busref at commit {every('commit')}",
    ]
    measured = {row["method"] for row in rows}
    absent = [
        f"{name} ({peer.missing() or 'not selected'})"
        for name, peer in PEERS.items()
        if name not in measured
    ]
    if absent:
        lines.append("Not measured: " + "; ".join(absent))
    return lines


def report(out: Path, console: Console) -> None:
    """Write table.md, table.csv and errors.png from rows.csv, and print the table."""
    from napari_busref.evaluation import write_table

    rows = typed_rows(out / "rows.csv")
    if not rows:
        raise ValueError(f"{out / 'rows.csv'}: has no rows yet")
    table = summary(rows)
    blocks = ["# Registration: our models and installable tools", *headline(rows)]
    for line in blocks[1:]:
        console.print(escape(line))
    for dataset in dict.fromkeys(row["dataset"] for row in table):
        cells = [
            [
                cell_with_deviation(row, name, {"mmse": 4, "mse": 3}.get(name, 2))
                for name in HEADINGS
            ]
            for row in table
            if row["dataset"] == dataset
        ]
        console.print(console_table(HEADINGS.values(), cells, dataset))
        blocks += [f"## {dataset}", markdown(HEADINGS.values(), cells)]
    (out / "table.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    write_table(table, out / "table.csv")
    draw_errors(rows, out / "errors.png")
    console.print(escape(f"{out}: table.md, table.csv, errors.png"))


def draw_errors(rows: Sequence[Row], file: Path) -> None:
    """Draw the error of every pair: a panel per data set, a strip per method."""
    import numpy as np
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row["dataset"], row["split"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(
        figsize=((1.5 + 0.6 * len(methods)) * len(panels), 4.5), layout="constrained", dpi=150
    )
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for index, method in enumerate(methods):
            strip = [
                row
                for row in rows
                if (row["dataset"], row["split"]) == panel and row["method"] == method
            ]
            if not strip:
                continue
            errors = np.maximum([row["epe"] for row in strip], 0.01)  # the axis is logarithmic
            failed = np.array([row["failed"] for row in strip])
            across = index + np.linspace(-0.3, 0.3, len(strip) + 2)[1:-1]
            axis.scatter(across[~failed], errors[~failed], s=10, alpha=0.7, color=f"C{index % 10}")
            axis.scatter(across[failed], errors[failed], s=16, marker="x", color="black")
            axis.hlines(np.median(errors), index - 0.35, index + 0.35, color="black", lw=1)
        for limit in (1, 3, 5):
            axis.axhline(limit, color="grey", lw=0.5, ls=":")
        axis.set_yscale("log")
        axis.set_title(" ".join(panel))
        axis.set_xticks(range(len(methods)), methods, rotation=60, ha="right")
    axes[0].set_ylabel("EPE of a pair, px (line: median; cross: failed)")
    figure.savefig(file)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the rows, the table and the picture.")],
    dataset: Annotated[
        list[str] | None,
        typer.Option(help=f"Data set; repeat for more (default: {', '.join(SETS)})."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"Peer, {', '.join(ORACLES)}; repeat for more (default: all)."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"Model of ours; repeat for more (default: {', '.join(MODELS)})."),
    ] = None,
    peers_only: Annotated[
        bool, typer.Option("--peers-only", help="Measure no model of ours.")
    ] = False,
    split: Split = "val",
    seeds: Seeds = "0,1,2",
    limit: Limit = None,
    threads: Threads = 2,
    data_root: DataRoot = None,
    report_only: Annotated[
        bool, typer.Option("--report", help="Only write the tables from the rows.")
    ] = False,
) -> None:
    """Measure our models and the installable registration tools, or continue a stopped run."""
    console = wide_console(soft_wrap=True)
    try:
        drawn = parse_seeds(seeds)
        if not report_only:
            set_threads(threads)
            from peers import PEERS

            reasons = {name: peer.missing() for name, peer in PEERS.items()}
            for name, reason in reasons.items():
                if reason and not method:
                    console.print(f"not measured: {name} ({reason})", markup=False)
            usable = [*ORACLES, *(name for name, reason in reasons.items() if reason is None)]
            run = callers(method or usable, [] if peers_only else model or MODELS)
            out.mkdir(parents=True, exist_ok=True)
            facts = provenance(threads)
            for name in dataset or SETS:
                tasks = warps(name, split, drawn, limit, data_root)
                measure(out, run, tasks, facts, console)
        report(out, console)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
