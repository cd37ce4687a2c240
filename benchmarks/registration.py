"""Our models and the installable registration tools on the same synthetic pairs, in one table.

    python benchmarks/registration.py --out FOLDER [--dataset roadscene] [--method ants]
        [--model busref] [--seeds 0,1,2] [--limit 8] [--threads 2] [--peers-only] [--report]

The protocol is that of ``docs/explanation/protocol.md``. ``FOLDER/rows.csv`` gets a row for every pair and
method as soon as it is measured; the same command again goes on where the last one stopped. At
the end, or with ``--report`` alone, ``table.md``, ``table.csv`` and ``errors.png`` are written
from all the rows. A method that fails on a pair is scored as the pair was left, unregistered, and
counts as failed. Seconds are those of the process on all its threads: what else the machine does
hardly moves them. ``pip install 'napari-busref[benchmarks]'`` installs the tools; those that are
missing are named in the table with the reason.
"""

# Only what does not load numpy is imported here: threads are set before anything else.
from __future__ import annotations

import csv
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_busref.metrics.registration import Scorer, SyntheticPair

Row = dict[str, Any]

SETS: dict[str, tuple[str, int | None, dict[str, Any]]] = {
    "roadscene": ("roadscene", None, {}),
    "vis-nir": ("vis-nir", None, {}),
    "vis-nir-affine": ("vis-nir", 1, {"elastic": (0.0, 0.0)}),
}
"""Data set, reduction (None: the protocol's) and what the warps have other than the protocol's."""

MODELS = ("auto", "busref", "superfusion")
ORACLE = "best-affine"
KEY = ("dataset", "split", "pair", "seed", "method")
SCORES = ("epe", "epe_median_px", "epe_p95", "ncc", "mse", "mncc", "mmse", "mask_fraction")
COLUMNS = (
    *KEY,
    *SCORES,
    "seconds",
    "failed",
    "error",
    "quality",
    "reliable",
    "threads",
    "version",
    "commit",
    "machine",
)
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
    "mncc": "MNCC",
    "mmse": "MMSE",
    "seconds": "CPU seconds",
}


def set_threads(threads: int) -> None:
    """Give every library this many threads. To be called before they are imported."""
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    os.environ["ANTS_RANDOM_SEED"] = "1"
    import torch

    torch.set_num_threads(threads)
    from peers import PEERS

    if PEERS["sift"].missing() is None:
        import cv2

        cv2.setNumThreads(threads)
        cv2.setRNGSeed(1)


def read_rows(file: Path) -> list[Row]:
    """Rows measured so far; a last line that was cut off is taken out of the file."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    rows: list[Row] = [dict(row) for row in csv.DictReader(whole.splitlines())]
    for row in rows:
        row["seed"] = int(row["seed"])
        row["failed"] = row["failed"] == "True"
        for name in (*SCORES, "seconds"):
            row[name] = float(row[name]) if row[name] else None
    return rows


def append_row(file: Path, row: Row) -> None:
    """Write one row to the end of the file, with a heading where it is the first."""
    first = not file.exists() or not file.stat().st_size
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerow(row)


def best_affine(pair: SyntheticPair) -> NDArray[Any]:
    """Least-squares affine of the true source over the mask: what no affine method can beat."""
    import numpy as np

    truth = pair.warp.true_source()
    positions = np.stack([*np.indices(pair.mask.shape, float), np.ones(pair.mask.shape)])
    matrix, *_ = np.linalg.lstsq(positions[:, pair.mask].T, truth[:, pair.mask].T, rcond=None)
    return np.tensordot(matrix.T, positions, 1)


def score(scorer: Scorer, call: Callable[[], tuple[NDArray[Any], Row]]) -> Row:
    """Time an estimate of the source map and score it.

    ``call`` gives the source map and what else is to stand in the row. Where it raises, or the map
    is not finite, the pair is scored as it was left.
    """
    import numpy as np

    from napari_busref.metrics.registration import pixel_grid

    start = time.process_time()
    try:
        source, facts = call()
        error = "" if np.isfinite(source).all() else "the map is not finite"
    except Exception as problem:  # whatever stopped it, the other methods are still to be measured
        facts, error = {}, " ".join(f"{type(problem).__name__}: {problem}".split())
    seconds = time.process_time() - start
    if error:
        source = pixel_grid(scorer.pair.aligned.shape)
        facts = facts | {"failed": True, "error": error}
    return {"failed": False, "error": ""} | scorer(source) | {"seconds": seconds} | facts


def call_peer(name: str, pair: SyntheticPair) -> tuple[NDArray[Any], Row]:
    """Run a peer on the grey images."""
    import numpy as np
    from peers import PEERS

    from napari_busref.images.preprocess import luma

    grey = luma(pair.fixed.astype(np.float32) / 255)
    return PEERS[name].run(grey, pair.moving.astype(np.float32)), {}


def call_model(name: str, pair: SyntheticPair) -> tuple[NDArray[Any], Row]:
    """Run one of our models by its name, as a user does: reading the weights counts."""
    import numpy as np

    from napari_busref import register
    from napari_busref.metrics.registration import pixel_grid

    result = register(pair.fixed, pair.moving.astype(np.float32), model=name, device="cpu")
    facts: Row = {"quality": result.quality.score, "reliable": result.quality.reliable}
    if result.quality.status == "not registered":
        facts |= {"failed": True, "error": "; ".join(result.quality.reasons)}
    return pixel_grid(pair.aligned.shape) + result.flow, facts


def call_oracle(pair: SyntheticPair) -> tuple[NDArray[Any], Row]:
    """Fit the truth; its seconds say nothing."""
    return best_affine(pair), {"seconds": None}


def callers(
    methods: Sequence[str], models: Sequence[str]
) -> dict[str, Callable[[SyntheticPair], tuple[NDArray[Any], Row]]]:
    """What measures each method.

    Raises
    ------
    ValueError
        For a method or model that is unknown or not installed.
    """
    from peers import PEERS

    from napari_busref import list_models

    chosen: dict[str, Callable[[SyntheticPair], tuple[NDArray[Any], Row]]] = {}
    for name in methods:
        if name == ORACLE:
            chosen[name] = call_oracle
            continue
        if name not in PEERS:
            raise ValueError(f"method must be one of {ORACLE}, {', '.join(PEERS)}, got {name!r}")
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
) -> Iterator[tuple[Row, Callable[[], SyntheticPair]]]:
    """The key of every pair and warp, and what draws it."""
    from napari_busref.data.datasets import load_pairs
    from napari_busref.metrics.registration import make_pair

    folder, reduce, ranges = SETS.get(dataset, (dataset, None, {}))
    for name, infrared, visible in load_pairs(folder, data_root, split, reduce=reduce)[:limit]:
        for seed in seeds:
            key = {"dataset": dataset, "split": split, "pair": name, "seed": seed}
            yield key, partial(make_pair, infrared / 255.0, visible, seed, **ranges)


def measure(
    out: Path,
    run: dict[str, Callable[[SyntheticPair], tuple[NDArray[Any], Row]]],
    tasks: Iterator[tuple[Row, Callable[[], SyntheticPair]]],
    facts: Row,
    console: Console,
) -> None:
    """Measure what `rows.csv` does not have yet and append it row by row."""
    from peers import PEERS

    from napari_busref.data.samples import thermal_scene
    from napari_busref.metrics.registration import Scorer, make_pair

    file = out / "rows.csv"
    before = read_rows(file)
    threads = {row["threads"] for row in before} - {str(facts["threads"])}
    if threads:
        raise ValueError(f"--threads {facts['threads']}: {file} has rows of {', '.join(threads)}")
    done = {tuple(row[name] for name in KEY) for row in before}
    sample = thermal_scene(0, (96, 128))
    warm: set[str] = set()
    for key, draw in tasks:
        left = [m for m in run if (*(key[name] for name in KEY[:-1]), m) not in done]
        if not left:
            continue
        for method in left:
            if method not in warm:  # libraries and weights load at their first call
                small = make_pair(sample.aligned / 255.0, sample.fixed, 0)
                score(Scorer(small), partial(run[method], small))
                warm.add(method)
        pair = draw()
        scorer = Scorer(pair)
        for method in left:
            row = score(scorer, partial(run[method], pair))
            package = PEERS[method].version() if method in PEERS else ""
            append_row(file, facts | key | {"method": method, "version": package} | row)
            console.print(
                f"{key['dataset']} {key['pair']} warp {key['seed']} {method}: "
                f"EPE {row['epe']:.2f} px {row['error']}",
                markup=False,
            )


def surroundings(threads: int) -> Row:
    """What every row says of where it was measured."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "threads": threads,
        "commit": described.stdout.strip() or "unknown",
        "machine": f"{platform.system()}, {processor}, {os.cpu_count()} cores",
    }


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row a data set and method, in the order in which they were first measured."""
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
    """What stands above the table: where and with what it was measured, and what is missing."""
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
        f"{name} ({peer.missing() or 'not asked for'})"
        for name, peer in PEERS.items()
        if name not in measured
    ]
    if absent:
        lines.append("Not measured: " + "; ".join(absent))
    return lines


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.startswith("share"):
        return f"{100 * value:.0f}"
    if isinstance(value, float):
        return f"{value:.4f}" if name == "mmse" else f"{value:.2f}"
    return str(value)


def report(out: Path, console: Console) -> None:
    """Write table.md, table.csv and errors.png from rows.csv, and print the table."""
    from rich.markup import escape
    from rich.table import Table

    from napari_busref.evaluation import write_table

    rows = read_rows(out / "rows.csv")
    if not rows:
        raise ValueError(f"{out / 'rows.csv'}: nothing has been measured yet")
    table = summary(rows)
    text = ["# Registration: our models and installable tools", ""]
    for line in headline(rows):
        console.print(escape(line))
        text += [line, ""]
    for dataset in dict.fromkeys(row["dataset"] for row in table):
        shown = Table(title=dataset, title_justify="left")
        text += [f"## {dataset}", "", "| " + " | ".join(HEADINGS.values()) + " |"]
        text.append("|---" * len(HEADINGS) + "|")
        for heading in HEADINGS.values():
            shown.add_column(heading, overflow="fold")
        for row in table:
            if row["dataset"] == dataset:
                cells = [_cell(name, row[name]) for name in HEADINGS]
                shown.add_row(*map(escape, cells))
                text.append("| " + " | ".join(cells) + " |")
        console.print(shown)
        text.append("")
    (out / "table.md").write_text("\n".join(text), encoding="utf-8")
    write_table(table, out / "table.csv")
    draw_errors(rows, out / "errors.png")
    console.print(escape(f"{out}: table.md, table.csv, errors.png"))


def draw_errors(rows: Sequence[Row], file: Path) -> None:
    """Draw the error of every pair: a panel a data set, a strip a method."""
    import numpy as np
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row["dataset"], row["split"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(
        figsize=((1.5 + 0.6 * len(methods)) * len(panels), 4.5), layout="constrained", dpi=150
    )
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for place, method in enumerate(methods):
            strip = [
                row
                for row in rows
                if (row["dataset"], row["split"]) == panel and row["method"] == method
            ]
            if not strip:
                continue
            errors = np.maximum(
                [row["epe"] for row in strip], 0.01
            )  # a logarithm needs more than 0
            failed = np.array([row["failed"] for row in strip])
            across = place + np.linspace(-0.3, 0.3, len(strip) + 2)[1:-1]
            axis.scatter(across[~failed], errors[~failed], s=10, alpha=0.7, color=f"C{place % 10}")
            axis.scatter(across[failed], errors[failed], s=16, marker="x", color="black")
            axis.hlines(np.median(errors), place - 0.35, place + 0.35, color="black", lw=1)
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
        typer.Option(help=f"Peer or {ORACLE}; repeat for more (default: all installed)."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"Model of ours; repeat for more (default: {', '.join(MODELS)})."),
    ] = None,
    peers_only: Annotated[
        bool, typer.Option("--peers-only", help="Measure no model of ours.")
    ] = False,
    split: Annotated[str, typer.Option(help="Split of the data sets.")] = "val",
    seeds: Annotated[str, typer.Option(help="Seeds of the warps, with commas.")] = "0,1,2",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every library.")] = 2,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets (default: ../shared/data).")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report", help="Measure nothing, only report the rows.")
    ] = False,
) -> None:
    """Measure our models and the installable registration tools; go on where a run stopped."""
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:  # the table in a file or pipe is not folded at 80 columns
        console.width = max(console.width, 180)
    try:
        drawn = [int(seed) for seed in seeds.replace(",", " ").split()]
        if not report_only:
            set_threads(threads)
            from peers import PEERS

            reasons = {name: peer.missing() for name, peer in PEERS.items()}
            for name, reason in reasons.items():
                if reason and not method:
                    console.print(f"not measured: {name} ({reason})", markup=False)
            usable = [ORACLE, *(name for name, reason in reasons.items() if reason is None)]
            run = callers(method or usable, [] if peers_only else model or MODELS)
            out.mkdir(parents=True, exist_ok=True)
            facts = surroundings(threads)
            for name in dataset or SETS:
                tasks = warps(name, split, drawn, limit, data_root)
                measure(out, run, tasks, facts, console)
        report(out, console)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
