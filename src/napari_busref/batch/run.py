"""Process pairs of files: rows of a summary, failures, retries, resuming."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from napari_busref.batch.files import refuse_existing
from napari_busref.batch.manifest import Manifest, is_current, last_events, worker_name
from napari_busref.batch.maps import start_on_map
from napari_busref.batch.results import (
    REGISTERED,
    ResultWriter,
    fill_value_of,
    is_unread,
    quality_row,
    record,
)
from napari_busref.data.pairing import Pair
from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.errors import one_line
from napari_busref.runtime.progress import Cancelled

if TYPE_CHECKING:
    from napari_busref.images.io import ImageFile
    from napari_busref.runtime.progress import Progress

__all__ = [
    "SUMMARY",
    "Execute",
    "Outcome",
    "ProcessPair",
    "attempt",
    "check_streamed_options",
    "finished_rows",
    "process_rows",
    "results_of",
    "run_files",
    "write_large_fusion",
]

#: Name of the table of all pairs, in the folder of the results.
SUMMARY = "summary.csv"

#: Errors that come again: of the input, or of a file that is not there.
_LASTING = (ValueError, TypeError, ModuleNotFoundError, FileNotFoundError, FileExistsError)

#: Processes one pair, writes its files and returns its report.
ProcessPair = Callable[[Pair], Mapping[str, Any]]


def finished_rows(
    writer: ResultWriter, pairs: Sequence[Pair], suffixes: Sequence[str], *, several: bool = True
) -> dict[str, dict[str, str]]:
    """Find the rows of finished pairs to keep, by name.

    Parameters
    ----------
    writer : ResultWriter
    pairs : sequence of Pair
    suffixes : sequence of str
        What the names of results have after the stem.
    several : bool
        Whether there is a summary.

    Returns
    -------
    dict
        Empty unless the writer resumes.

    Raises
    ------
    FileExistsError
        When there are any results, and the writer neither resumes nor overwrites.
    """
    if writer.resume:
        events, rows = last_events(writer.folder, writer.report_name), {}
        for pair in pairs:
            row, event = writer.finished(pair, suffixes), events.get(pair.name)
            if row is None or (event and not is_current(event, pair, writer.folder)):
                continue  # folders of earlier versions have no events
            rows[pair.name] = row if event is None else dict(event["row"])
        return rows
    expected = [
        path
        for pair in pairs
        for paths in writer.existing(pair, suffixes).values()
        for path in paths
    ]
    summary = [writer.folder / SUMMARY] if several else []
    refuse_existing([*expected, *summary], writer.overwrite)
    return {}


def process_rows(
    writer: ResultWriter,
    pairs: Sequence[Pair],
    process: ProcessPair,
    done: Mapping[str, dict[str, str]],
    *,
    several: bool = True,
    execute: Execute | None = None,
    manifest: Manifest | None = None,
    retries: int = 0,
) -> Iterator[tuple[Pair, dict[str, str]]]:
    """Process pairs, and yield the row of each once it is written; those of `done` come first.

    Parameters
    ----------
    writer : ResultWriter
    pairs : sequence of Pair
    process : callable
        Processes a pair.
    done : mapping
        From `finished_rows`: pairs to leave alone.
    several : bool
        False raises the error of a pair. True reports it in the row, goes on, and writes each
        row into the summary.
    execute : callable, optional
        Processes several pairs; by default one after the other, here. See
        `napari_busref.batch.cluster.on_cluster`.
    manifest : Manifest, optional
        Gets an event for each pair.
    retries : int
        How often a pair is tried again after an error that is not of its input.

    Yields
    ------
    pair : Pair
    row : dict of str to str
        ``name``, ``status`` (``"ok"``, ``"doubtful"`` or ``"failed"``), and where they are known
        ``score``, ``overlap``, ``seconds`` and ``message``.

    Raises
    ------
    Cancelled
        From `process`. The rows so far are in the summary.
    """
    sharded = manifest is not None and manifest.shard is not None
    summary = writer.folder / SUMMARY if several and not sharded else None
    with _Summary(summary, [pair.name for pair in pairs]) as rows:
        rows.add(*done.values())  # what a killed run leaves is true
        yield from ((pair, done[pair.name]) for pair in pairs if pair.name in done)
        left = [pair for pair in pairs if pair.name not in done]
        if execute is None:
            execute = partial(_one_by_one, process, retries, not several)
        for pair, outcome in execute(left):
            if manifest is not None:
                outputs = outcome.report.get("outputs", {})
                manifest.add(pair, outcome.row, outputs, outcome.worker)
            rows.add(outcome.row)
            yield pair, outcome.row
    if sharded:
        _write_summary(writer)


def run_files(
    writer: ResultWriter,
    pair: Pair,
    files: tuple[ImageFile, ImageFile],
    options: Mapping[str, Any],
    *,
    fuse: bool = True,
    ignore_map: bool = False,
    progress: Progress | None = None,
    cancel: Event | None = None,
) -> dict[str, Any]:
    """Register and fuse the images of a pair, and write the results.

    Parameters
    ----------
    writer : ResultWriter
    pair : Pair
    files : tuple of ImageFile
        The fixed and the moving image.
    options : mapping
        Of `napari_busref.register_and_fuse`; without fusion of `napari_busref.register`.
    fuse : bool
        Whether to fuse them, too.
    ignore_map : bool
        Whether to leave out the map positions. Else the registration starts there, unless
        `options` has an initial transform.
    progress : Progress, optional
    cancel : threading.Event, optional

    Returns
    -------
    dict
        The report.
    """
    from napari_busref.pipeline import register_and_fuse
    from napari_busref.registration import register

    fixed, moving = files
    fill = fill_value_of(moving, options.get("fill_value"))
    common = {"progress": progress, "cancel": cancel, **options, "fill_value": fill}
    on_map = None
    if not ignore_map and options.get("initial") is None:
        on_map = common["initial"] = start_on_map(pair, fixed, moving)
    if is_unread(fixed) or is_unread(moving):
        return _run_large(writer, pair, files, common, fuse=fuse, on_map=on_map is not None)
    if not fuse:
        result = register(fixed.data, moving.data, **common)
        record(result, fixed, moving, on_map=on_map is not None)
        return writer.report(pair, writer.registration(pair, fixed, moving, result), result)
    both = register_and_fuse(fixed.data, moving.data, **common)
    assert both.fusion is not None  # a cancelled call raises
    record(both.registration, fixed, moving, on_map=on_map is not None)
    paths = writer.registration(pair, fixed, moving, both.registration)
    paths["fused"] = writer.image(pair, fixed, "fused", both.fusion.fused)
    fusion = {"timings": both.fusion.timings, "parameters": both.fusion.parameters}
    return writer.report(pair, paths, both.registration, fusion=fusion)


def _run_large(
    writer: ResultWriter,
    pair: Pair,
    files: tuple[ImageFile, ImageFile],
    options: dict[str, Any],
    *,
    fuse: bool,
    on_map: bool,
) -> dict[str, Any]:
    """Register a large pair, and write images of any size block by block."""
    from napari_busref.registration import register

    fixed, moving = files
    chosen = {name: options.pop(name) for name in _FUSION_OPTIONS if name in options}
    if fuse:
        check_streamed_options(chosen)
    result = register(fixed.data, moving.data, **options)
    record(result, fixed, moving, on_map=on_map)
    paths = writer.registration(pair, fixed, moving, result, options)
    if not fuse:
        return writer.report(pair, paths, result)
    how = {name: options.get(name) for name in ("device", "progress", "cancel")}
    pictures = fixed.data, paths["warped"], paths["mask"]
    paths["fused"] = write_large_fusion(writer, pair, pictures, chosen, how)
    return writer.report(pair, paths, result, fusion={"parameters": chosen})


_FUSION_OPTIONS = (
    "fusion_model",
    "task",
    "infrared",
    "detail",
    "style",
    "palette",
    "opacity",
    "above",
    "below",
    "scale_bar",
    "unit",
)


def check_streamed_options(options: Mapping[str, Any]) -> None:
    """Refuse what cannot be fused block by block.

    Raises
    ------
    ValueError
        Naming the option.
    """
    fixed = {"infrared": 0.5, "style": "natural"}
    for name, value in fixed.items():
        if options.get(name, value) != value:
            raise ValueError(
                f"--{name}: got {options[name]}, need {value}: images above 4096 x 4096 px are "
                "fused block by block; --format png keeps the whole image in memory"
            )


def write_large_fusion(
    writer: ResultWriter,
    pair: Pair,
    pictures: tuple[Any, Any, Any],
    options: Mapping[str, Any],
    how: Mapping[str, Any],
    **more: Any,
) -> Path:
    """Fuse a large pair block by block.

    Parameters
    ----------
    writer : ResultWriter
    pair : Pair
    pictures : tuple
        The fixed and the moving image, and the mask or None.
    options : mapping
        ``fusion_model``, ``task`` and ``detail``, as of `napari_busref.register_and_fuse`.
    how : mapping
        ``device``, ``progress`` and ``cancel``.
    **more
        Further options of `napari_busref.write_fused`.

    Returns
    -------
    Path
    """
    from napari_busref.fusion.streaming import write_fused

    check_streamed_options(options)
    path, replaced = writer.streamed(pair, "fused")
    fixed, moving, mask = pictures
    chosen = {name: options[name] for name in ("task", "detail") if name in options}
    return write_fused(
        path,
        fixed,
        moving,
        mask=mask,
        model=options.get("fusion_model"),
        **chosen,
        **how,
        **replaced,
        **more,
    )


def results_of(fuse: bool) -> tuple[str, ...]:
    """What the names of the results of `run_files` have after the stem."""
    return (*REGISTERED, "_fused") if fuse else REGISTERED


@dataclass(frozen=True)
class Outcome:
    """What became of a pair.

    Attributes
    ----------
    row : dict of str to str
        Of the summary.
    report : mapping
        Empty when it failed.
    worker : str
        The computer and the process.
    """

    row: dict[str, str]
    report: Mapping[str, Any]
    worker: str


#: Processes several pairs, in any order.
Execute = Callable[[Sequence[Pair]], Iterator[tuple[Pair, Outcome]]]


def attempt(
    process: ProcessPair, pair: Pair, *, retries: int = 0, may_raise: bool = False
) -> Outcome:
    """Process one pair, and again after an error that is not of its input.

    Parameters
    ----------
    process : callable
    pair : Pair
    retries : int
    may_raise : bool
        Whether to raise the error of a pair; else it stands in the row.

    Raises
    ------
    Cancelled
        From `process`.
    """
    row = {"name": pair.name}
    report: Mapping[str, Any] = {}
    start = time.perf_counter()
    for left in reversed(range(retries + 1)):
        try:
            report = process(pair)
        except Cancelled:
            raise
        except Exception as error:
            if left and not isinstance(error, _LASTING):
                continue
            if may_raise:
                raise
            row |= {"status": "failed", "message": one_line(error)}
        else:
            row["status"] = "ok"
            if (quality := report.get("quality")) is not None:
                row |= quality_row(quality.score, quality.overlap, quality.reasons)
        break
    row["seconds"] = f"{time.perf_counter() - start:.2f}"
    return Outcome(row, report, worker_name())


def _one_by_one(
    process: ProcessPair, retries: int, may_raise: bool, pairs: Sequence[Pair]
) -> Iterator[tuple[Pair, Outcome]]:
    for pair in pairs:
        yield pair, attempt(process, pair, retries=retries, may_raise=may_raise)


def _write_summary(writer: ResultWriter) -> None:
    """Write the summary of all shards so far, by name."""
    events = last_events(writer.folder, writer.report_name)
    with _Summary(writer.folder / SUMMARY, sorted(events)) as rows:
        rows.add(*(events[name]["row"] for name in sorted(events)))


class _Summary:
    """``summary.csv``, written row by row: what a killed batch leaves is true.

    At the end the rows are in the order of the pairs. Nothing is written without a path, or
    without a row.
    """

    _FIELDS = ("name", "status", "score", "overlap", "seconds", "message")

    def __init__(self, path: Path | None, order: Sequence[str]) -> None:
        self._path = path
        self._order = order
        self._rows: dict[str, dict[str, str]] = {}

    def __enter__(self) -> _Summary:
        return self

    def __exit__(self, *exc: object) -> None:
        done = [name for name in self._order if name in self._rows]
        if done != list(self._rows):
            self._write([self._rows[name] for name in done])

    def add(self, *rows: dict[str, str]) -> None:
        """Write the rows of finished pairs."""
        if self._path is None or not rows:
            return
        first = not self._rows
        self._rows |= {row["name"]: row for row in rows}
        if first:
            self._write(rows)
        else:
            self._to(self._path, "a", rows)

    def _write(self, rows: Sequence[dict[str, str]]) -> None:
        assert self._path is not None  # there are rows
        with replacing(self._path) as temporary:
            self._to(temporary, "w", rows)

    def _to(self, path: Path, mode: str, rows: Sequence[dict[str, str]]) -> None:
        # names that are no UTF-8 are escaped
        with path.open(mode, newline="", encoding="utf-8", errors="backslashreplace") as stream:
            writer = csv.DictWriter(stream, self._FIELDS)
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)
