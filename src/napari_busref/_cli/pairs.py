"""Process one pair of files, or all pairs of two folders, for the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import typer

from napari_busref._cli.console import (
    EXIT_SOME_FAILED,
    Bars,
    escape,
    interruptible,
    is_quiet,
    log,
    out,
    tell,
)
from napari_busref._cli.tasks import Task
from napari_busref.batch.files import output_folder
from napari_busref.batch.manifest import Manifest, weights_of
from napari_busref.batch.results import ResultWriter
from napari_busref.batch.run import SUMMARY, Execute, finished_rows, process_rows
from napari_busref.batch.scheduling import check_scheduler, check_shard, parse_shard
from napari_busref.data.pairing import Pair, find_pairs
from napari_busref.images.uri import holds_images
from napari_busref.runtime.holding import held


@dataclass(frozen=True)
class Workers:
    """Where the pairs of two folders are processed, and which of them.

    Attributes
    ----------
    scheduler : str, optional
        As of `check_scheduler`; None processes them here.
    retries : int
    shard : str, optional
        As of `check_shard`.
    """

    scheduler: str | None = None
    retries: int = 0
    shard: str | None = None

    def __post_init__(self) -> None:
        check_scheduler(self.scheduler)
        check_shard(self.shard)


def process_pairs(
    task: Task, fixed: Path, moving: Path, match: str = "name", workers: Workers | None = None
) -> None:
    """Process two files, or all pairs of two folders.

    The error of a single pair is raised. Of several pairs, each failure is reported and the
    others go on; ``summary.csv`` gets a row and ``manifest.jsonl`` an event for each pair as soon
    as it is done.

    Parameters
    ----------
    task : Task
        Unless its writer replaces or resumes, no results may exist.
    fixed, moving : Path
        Two files or two folders.
    match : str
        How to pair the files of folders, see `find_pairs`.
    workers : Workers, optional
        For folders, and for the tiles of a large pair.
    """
    writer, chosen = task.writer, workers or Workers()
    if writer.overwrite and writer.resume:
        raise ValueError("--resume: keeps results, which --overwrite replaces; need one of them")
    pairs, alone = find_pairs(fixed, moving, match)
    several = holds_images(fixed)
    if not several and chosen.shard:
        raise ValueError("--shard: got two files, need two folders")
    if not several and chosen.scheduler and not task.in_tiles(pairs[0]):
        raise ValueError(
            "--scheduler: got two files, need two folders, or a pair to register whose fixed "
            "image has more than 4096 x 4096 pixels"
        )
    output_folder(writer.folder)
    shard = parse_shard(chosen.shard)
    with held(writer.folder, shard.label if shard else "all") if several else nullcontext():
        here = pairs if shard is None else shard.of(pairs)
        done = finished_rows(writer, here, task.suffixes, several=several and shard is None)
        if done:
            log.info(f"{len(done)} of {len(here)} pairs are done already and kept")
        if several and fixed.samefile(moving):
            log.info(
                f"FIXED and MOVING are the same folder: {len(pairs)} of its images are FIXED by "
                f"their names, such as {pairs[0].fixed.name} for {pairs[0].moving.name}"
            )
        for path in alone:
            log.warning(f"{path}: no partner, left out")
        failed = _process_all(task, here, done, chosen, several)
    if several:
        count, summary = len(here) - len(failed), writer.folder / SUMMARY
        tell(f"{count} of {len(here)} pairs done, {escape(str(summary))}")
        if is_quiet():
            out().print(escape(str(summary)))
        if failed:
            log.error(f"{len(failed)} of {len(here)} pairs failed: {', '.join(failed)}")
            raise typer.Exit(EXIT_SOME_FAILED)


def _process_all(
    task: Task,
    pairs: list[Pair],
    done: dict[str, dict[str, str]],
    workers: Workers,
    several: bool,
) -> list[str]:
    """Process the pairs with progress bars, and return the names of those that failed."""
    writer, failed, manifest = task.writer, [], None
    if several:
        manifest = Manifest(writer.folder, parse_shard(workers.shard), writer.report_name)
        manifest.begin(writer.all_options(), weights_of(task.models), len(pairs))
    with interruptible() as cancel, Bars(files=not several) as bars, ExitStack() as stack:
        overall = bars.add("all pairs") if several else None

        def one(pair: Pair) -> Mapping[str, Any]:
            if overall is not None:
                number = pairs.index(pair)
                overall(f"{number + 1} of {len(pairs)}", number / len(pairs))
            report = task(pair, bars.add(pair.name), cancel)
            print_result(bars, writer, pair, report)
            return report

        execute = None
        left = [pair for pair in pairs if pair.name not in done]
        if workers.scheduler and left:
            execute = stack.enter_context(_on_workers(task, left, workers, cancel))
        rows = process_rows(
            writer,
            pairs,
            one,
            done,
            several=several,
            execute=execute,
            manifest=manifest,
            retries=workers.retries,
        )
        for number, (pair, row) in enumerate(rows, 1):
            if execute is not None and overall is not None:
                overall(f"{number} of {len(pairs)}", number / len(pairs))
                if pair.name not in done and row["status"] != "failed":
                    tell(f"{escape(pair.name)}: {row['status']} {row.get('score', '')}")
            if row["status"] == "failed":
                log.error(f"{pair.name} failed: {row['message']}")
                failed.append(pair.name)
    return failed


@contextmanager
def _on_workers(
    task: Task, pairs: list[Pair], workers: Workers, cancel: Event
) -> Iterator[Execute | None]:
    """Spread pairs over workers; or the tiles of each pair, where large ones are few."""
    from napari_busref.batch.cluster import connected, on_cluster, tiles_on
    from napari_busref.registration.tile_levels import tiles_by

    assert workers.scheduler is not None
    with connected(workers.scheduler, task.writer.folder, task.models) as client:
        if len(pairs) < len(client.ncores()) and _all_in_tiles(task, pairs):
            with tiles_by(tiles_on(client, workers.retries, cancel)):
                yield None
        else:
            yield on_cluster(client, task.absolute(), workers.retries, cancel)


def _all_in_tiles(task: Task, pairs: list[Pair]) -> bool:
    try:
        return all(task.in_tiles(pair) for pair in pairs)
    except Exception:  # the pair that cannot be read will fail alone
        return False


def print_result(bars: Bars, writer: ResultWriter, pair: Pair, report: Mapping[str, Any]) -> None:
    """Print the summary of a registered pair, or the path of a fused one."""
    name, quality = escape(pair.name), report.get("quality")
    if quality is None:
        path = report["outputs"]["fused"]
        bars.result(f"{name}: {escape(str(path))}", path)
        return
    bars.result(
        f"{name}: quality {quality.score:.2f}, overlap {quality.overlap:.0%}, "
        f"shift {quality.shift_px:.1f} px, rotation {quality.rotation_deg:.1f}°, "
        f"scale {quality.scale:.3f} -> {escape(str(report['outputs']['warped']))}",
        writer.folder / f"{pair.name}{writer.report_name}",
    )
    if not quality.reliable:
        reasons = "; ".join(quality.reasons)
        log.warning(f"{pair.name}: the registration may be wrong: {reasons}")
