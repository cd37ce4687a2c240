"""Process one pair of files, or all pairs of two folders, for the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from napari_busref.batch.files import output_folder
from napari_busref.batch.results import ResultWriter
from napari_busref.batch.run import SUMMARY, finished_rows, process_rows
from napari_busref.data.pairing import Pair, find_pairs

#: Processes one pair, writes its files and returns its report.
ProcessPair = Callable[[Pair, Bars, Event], dict[str, Any]]


def process_pairs(
    writer: ResultWriter,
    fixed: Path,
    moving: Path,
    suffixes: Sequence[str],
    process: ProcessPair,
    match: str = "name",
) -> None:
    """Process two files, or all pairs of two folders.

    The error of a single pair is raised. Of several pairs, each failure is reported and the
    others go on; ``summary.csv`` gets a row for each pair as soon as it is done.

    Parameters
    ----------
    writer : ResultWriter
    fixed, moving : Path
        Two files or two folders.
    suffixes : sequence of str
        What the names of results have after the stem; unless `writer` replaces or resumes, none
        of them may exist.
    process : ProcessPair
    match : str
        How to pair the files of folders, see `find_pairs`.
    """
    if writer.overwrite and writer.resume:
        raise ValueError("--resume: keeps results, which --overwrite replaces; need one of them")
    pairs, alone = find_pairs(fixed, moving, match)
    output_folder(writer.folder)
    several = fixed.is_dir()
    done = finished_rows(writer, pairs, suffixes, several=several)
    if done:
        log.info(f"{len(done)} of {len(pairs)} pairs are done already and kept")
    if several and fixed.samefile(moving):
        log.info(
            f"FIXED and MOVING are the same folder: {len(pairs)} of its images are FIXED by their "
            f"names, such as {pairs[0].fixed.name} for {pairs[0].moving.name}"
        )
    for path in alone:
        log.warning(f"{path}: no partner, left out")
    failed = _process_all(writer, pairs, process, done, several)
    if several:
        count, summary = len(pairs) - len(failed), writer.folder / SUMMARY
        tell(f"{count} of {len(pairs)} pairs done, {escape(str(summary))}")
        if is_quiet():
            out().print(escape(str(summary)))
        if failed:
            log.error(f"{len(failed)} of {len(pairs)} pairs failed: {', '.join(failed)}")
            raise typer.Exit(EXIT_SOME_FAILED)


def _process_all(
    writer: ResultWriter,
    pairs: list[Pair],
    process: ProcessPair,
    done: dict[str, dict[str, str]],
    several: bool,
) -> list[str]:
    """Process the pairs with progress bars, and return the names of those that failed."""
    failed = []
    with interruptible() as cancel, Bars(files=not several) as bars:
        overall = bars.add("all pairs") if several else None

        def one(pair: Pair) -> dict[str, Any]:
            if overall is not None:
                number = pairs.index(pair)
                overall(f"{number + 1} of {len(pairs)}", number / len(pairs))
            return process(pair, bars, cancel)

        for pair, row in process_rows(writer, pairs, one, done, several=several):
            if row["status"] == "failed":
                log.error(f"{pair.name} failed: {row['message']}")
                failed.append(pair.name)
    return failed


def print_result(
    bars: Bars, writer: ResultWriter, pair: Pair, report: dict[str, Any]
) -> dict[str, Any]:
    """Print the summary of a registered pair, and return its report."""
    quality, warped = report["quality"], report["outputs"]["warped"]
    bars.result(
        f"{escape(pair.name)}: quality {quality.score:.2f}, overlap {quality.overlap:.0%}, "
        f"shift {quality.shift_px:.1f} px, rotation {quality.rotation_deg:.1f}°, "
        f"scale {quality.scale:.3f} -> {escape(str(warped))}",
        writer.folder / f"{pair.name}{writer.report_name}",
    )
    if not quality.reliable:
        reasons = "; ".join(quality.reasons)
        log.warning(f"{pair.name}: the registration may be wrong: {reasons}")
    return report
