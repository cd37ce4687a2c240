"""Process one pair of files, or all pairs of two folders, and write the results."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import typer

from napari_busref._cli.console import (
    EXIT_SOME_FAILED,
    Bars,
    escape,
    interruptible,
    is_quiet,
    log,
    one_line,
    out,
    tell,
)
from napari_busref._cli.files import (
    mask_picture,
    output_folder,
    output_suffix,
    plain,
    refuse_existing,
    write_json,
)
from napari_busref._cli.options import Format
from napari_busref._cli.reading import on_grid
from napari_busref.data.pairing import Pair, find_pairs
from napari_busref.runtime.progress import Cancelled

if TYPE_CHECKING:
    from napari_busref.images.io import ImageFile
    from napari_busref.registration import RegistrationResult

#: Processes one pair, writes its files and returns its report.
ProcessPair = Callable[[Pair, Bars, Event], dict[str, Any]]


@dataclass(frozen=True)
class ResultWriter:
    """Writes the results of pairs into one folder.

    Attributes
    ----------
    folder : Path
    overwrite : bool
        Replace existing results.
    file_format : str, optional
        Extension of the images; by default that of the fixed image, where it fits.
    flow : bool
        Also write the flow of each registration.
    resume : bool
        Keep the results of finished pairs, and replace those of others.
    options : dict
        What the results depend on, for the reports. `finished` compares it.
    report_name : str
        What the name of a report has after the stem.
    """

    folder: Path
    overwrite: bool = False
    file_format: Format | None = None
    flow: bool = False
    resume: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    report_name: str = "_report.json"

    def existing(self, pair: Pair, suffixes: list[str]) -> dict[str, list[Path]]:
        """Find results of this pair that exist already, whatever their image format.

        Parameters
        ----------
        pair : Pair
        suffixes : list of str
            What the names of results have after the stem.

        Returns
        -------
        dict
            From each suffix to its files.
        """
        found: dict[str, list[Path]] = {}
        for name in suffixes + (["_flow.npy"] if self.flow else []):
            extensions = [""] if "." in name else [".tif", ".tiff", ".png", ".npy"]
            candidates = (self.folder / f"{pair.name}{name}{each}" for each in extensions)
            found[name] = [path for path in candidates if path.exists()]
        return found

    def finished(self, pair: Pair, suffixes: list[str]) -> dict[str, str] | None:
        """Return the row of the summary of a finished pair, None for an unfinished one.

        The report is written last. A pair without a whole one is unfinished.

        Raises
        ------
        FileExistsError
            When the results are those of other images, options or versions.
        """
        existing = self.existing(pair, suffixes)
        if not all(existing.values()):
            return None
        path = existing[self.report_name][0]
        row = {"status": "ok"}
        try:
            report = json.loads(path.read_text("utf-8"))
            made_of = [Path(report[name]).name for name in ("fixed", "moving")]
            before = dict(report["options"])
            if quality := report.get("quality"):
                score, overlap = (float(quality[name] or 0) for name in ("score", "overlap"))
                row = _quality_row(score, overlap, [str(one) for one in quality["reasons"]])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if made_of != [pair.fixed.name, pair.moving.name]:
            raise FileExistsError(
                f"--resume: {path} holds the results of {' and '.join(made_of)}, not of "
                f"{pair.fixed.name} and {pair.moving.name}; choose another --output"
            )
        changes = [
            f"{name} {before.get(name)} and not {value}"
            for name, value in self.all_options().items()
            if before.get(name) != value
        ]
        if changes:
            raise FileExistsError(
                f"--resume: {path} was made with {', '.join(changes)}; repeat the options of that "
                "run, choose another --output, or replace all with --overwrite"
            )
        return {"name": pair.name} | row

    def all_options(self) -> dict[str, Any]:
        """What the results depend on, as JSON has it: the options and the version."""
        from napari_busref.runtime.version import package_version

        options = {"version": package_version(), "format": self.file_format, **self.options}
        return dict(json.loads(json.dumps(plain(options))))

    def image(self, pair: Pair, fixed: ImageFile, what: str, image: Any) -> Path:
        """Write an image on the grid of the fixed one, with its pixel size."""
        from napari_busref.images.io import write_image

        suffix = output_suffix(pair.fixed, image, self.file_format)
        if image.dtype == bool:
            image = mask_picture(image, suffix)
        path = self.folder / f"{pair.name}_{what}{suffix}"
        refuse_existing([path], self.overwrite or self.resume)
        write_image(path, image, metadata=fixed.metadata)
        return path

    def registration(
        self, pair: Pair, fixed: ImageFile, moving: ImageFile, result: RegistrationResult
    ) -> dict[str, Path]:
        """Write warped image, mask, transform and flow; return their paths by name."""
        import numpy as np

        from napari_busref.runtime.atomic_write import replacing

        missing = result.parameters.get("missing_value", moving.metadata.get("nodata"))
        paths = {
            "warped": self.image(pair, on_grid(fixed, missing), "warped", result.warped),
            "mask": self.image(pair, on_grid(fixed, None), "mask", result.mask),
            "transform": self.folder / f"{pair.name}.busref.h5",
        }
        metadata = {
            "fixed": pair.fixed.name,
            "moving": pair.moving.name,
            "fixed_image": plain(fixed.metadata),  # `apply` writes the pixel size of the grid
            "moving_image": plain(moving.metadata),
            "quality": plain(result.quality),
            "parameters": plain(result.parameters),
        }
        result.transform.save(paths["transform"], metadata=metadata)
        if self.flow:
            paths["flow"] = self.folder / f"{pair.name}_flow.npy"
            with replacing(paths["flow"]) as temporary:
                np.save(temporary, result.flow, allow_pickle=False)
        return paths

    def report(
        self,
        pair: Pair,
        bars: Bars,
        paths: dict[str, Path],
        result: RegistrationResult,
        **more: Any,
    ) -> dict[str, Any]:
        """Write the report of a registered pair, print its summary and return it."""
        report = {
            "fixed": pair.fixed,
            "moving": pair.moving,
            "outputs": paths,
            "quality": result.quality,
            "timings": result.timings,
            "parameters": result.parameters,
            "options": self.all_options(),
            "transform": {
                "affine": result.transform.affine,
                "fixed_shape": result.transform.fixed_shape,
                "moving_shape": result.transform.moving_shape,
            },
            **more,
        }
        path = self.folder / f"{pair.name}{self.report_name}"
        write_json(path, report)
        quality = result.quality
        bars.result(
            f"{escape(pair.name)}: quality {quality.score:.2f}, overlap {quality.overlap:.0%}, "
            f"shift {quality.shift_px:.1f} px, rotation {quality.rotation_deg:.1f}°, "
            f"scale {quality.scale:.3f} -> {escape(str(paths['warped']))}",
            path,
        )
        if not quality.reliable:
            reasons = "; ".join(quality.reasons)
            log.warning(f"{pair.name}: the registration may be wrong: {reasons}")
        return report


def process_pairs(
    writer: ResultWriter,
    fixed: Path,
    moving: Path,
    suffixes: list[str],
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
    suffixes : list of str
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
    summary = writer.folder / "summary.csv" if several else None
    done = _finished_pairs(writer, pairs, suffixes, summary)
    order = [pair.name for pair in pairs]
    if several and fixed.samefile(moving):
        log.info(
            f"FIXED and MOVING are the same folder: {len(pairs)} of its images are FIXED by their "
            f"names, such as {pairs[0].fixed.name} for {pairs[0].moving.name}"
        )
    for path in alone:
        log.warning(f"{path}: no partner, left out")
    failed = []
    rows_of = _Summary(summary, order)
    with interruptible() as cancel, Bars(files=not several) as bars, rows_of as rows:
        rows.add(*done.values())
        overall = bars.add("all pairs") if several else None
        for number, pair in enumerate(pairs):
            if overall is not None:
                overall(f"{number + 1} of {len(pairs)}", number / len(pairs))
            if pair.name in done:
                continue
            row = _summary_row(pair, bars, cancel, process, may_raise=not several)
            rows.add(row)
            failed += [pair.name] if row["status"] == "failed" else []
    if summary is not None:
        count = len(pairs) - len(failed)
        tell(f"{count} of {len(pairs)} pairs done, {escape(str(summary))}")
        if is_quiet():
            out().print(escape(str(summary)))
        if failed:
            log.error(f"{len(failed)} of {len(pairs)} pairs failed: {', '.join(failed)}")
            raise typer.Exit(EXIT_SOME_FAILED)


def _finished_pairs(
    writer: ResultWriter, pairs: list[Pair], suffixes: list[str], summary: Path | None
) -> dict[str, dict[str, str]]:
    """Find the rows of finished pairs to keep, by name; without ``resume``, refuse any results."""
    if writer.resume:
        rows = {pair.name: writer.finished(pair, suffixes) for pair in pairs}
        done = {name: row for name, row in rows.items() if row is not None}
        if done:
            log.info(f"{len(done)} of {len(pairs)} pairs are done already and kept")
        return done
    expected = [
        path
        for pair in pairs
        for paths in writer.existing(pair, suffixes).values()
        for path in paths
    ]
    refuse_existing(expected if summary is None else [*expected, summary], writer.overwrite)
    return {}


def _summary_row(
    pair: Pair, bars: Bars, cancel: Event, process: ProcessPair, *, may_raise: bool
) -> dict[str, str]:
    """Process one pair and return its row of the summary."""
    row = {"name": pair.name}
    start = time.perf_counter()
    try:
        quality = process(pair, bars, cancel).get("quality")
    except Cancelled:
        raise
    except Exception as error:
        if may_raise:
            raise
        log.error(f"{pair.name} failed: {one_line(error)}")
        row |= {"status": "failed", "message": one_line(error)}
    else:
        row["status"] = "ok"
        if quality is not None:
            row |= _quality_row(quality.score, quality.overlap, quality.reasons)
    return row | {"seconds": f"{time.perf_counter() - start:.2f}"}


def _quality_row(score: float, overlap: float, reasons: Sequence[str]) -> dict[str, str]:
    """The cells of the summary that a quality fills; any reason makes a pair doubtful."""
    return {
        "status": "doubtful" if reasons else "ok",
        "score": f"{score:.4f}",
        "overlap": f"{overlap:.4f}",
        "message": "; ".join(reasons),
    }


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
        from napari_busref.runtime.atomic_write import replacing

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
