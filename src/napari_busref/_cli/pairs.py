"""Process one pair of files, or all pairs of two folders, and write the results."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from napari_busref._cli.console import (
    EXIT_SOME_FAILED,
    Bars,
    err,
    interruptible,
    one_line,
    out,
    warning,
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
    """

    folder: Path
    overwrite: bool = False
    file_format: Format | None = None
    flow: bool = False

    def existing(self, pair: Pair, suffixes: list[str]) -> list[Path]:
        """Find results of this pair that exist already, whatever their image format."""
        found: list[Path] = []
        for name in suffixes + (["_flow.npy"] if self.flow else []):
            extensions = [""] if "." in name else [".tif", ".tiff", ".png", ".npy"]
            candidates = (self.folder / f"{pair.name}{name}{each}" for each in extensions)
            found += [path for path in candidates if path.exists()]
        return found

    def image(self, pair: Pair, fixed: ImageFile, what: str, image: Any) -> Path:
        """Write an image on the grid of the fixed one, with its pixel size."""
        from napari_busref.images.io import write_image

        suffix = output_suffix(pair.fixed, image, self.file_format)
        if image.dtype == bool:
            image = mask_picture(image, suffix)
        path = self.folder / f"{pair.name}_{what}{suffix}"
        refuse_existing([path], self.overwrite)
        write_image(path, image, metadata=fixed.metadata)
        return path

    def registration(
        self, pair: Pair, fixed: ImageFile, moving: ImageFile, result: RegistrationResult
    ) -> dict[str, Path]:
        """Write warped image, mask, transform and flow; return their paths by name."""
        import numpy as np

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
            np.save(paths["flow"], result.flow, allow_pickle=False)
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
            "transform": {
                "affine": result.transform.affine,
                "fixed_shape": result.transform.fixed_shape,
                "moving_shape": result.transform.moving_shape,
            },
            **more,
        }
        write_json(self.folder / f"{pair.name}_report.json", report)
        quality = result.quality
        bars.result(
            f"{escape(pair.name)}: quality {quality.score:.2f}, overlap {quality.overlap:.0%}, "
            f"shift {quality.shift_px:.1f} px, rotation {quality.rotation_deg:.1f}°, "
            f"scale {quality.scale:.3f} -> {escape(str(paths['warped']))}"
        )
        if not quality.reliable:
            reasons = "; ".join(quality.reasons)
            bars.note(warning(f"{pair.name}: the registration may be wrong: {reasons}"))
        return report


def process_pairs(
    writer: ResultWriter, fixed: Path, moving: Path, suffixes: list[str], process: ProcessPair
) -> None:
    """Process two files, or all pairs of two folders.

    The error of a single pair is raised. Of several pairs, each failure is reported and the
    others go on; ``summary.csv`` then holds a row for each pair.

    Parameters
    ----------
    writer : ResultWriter
    fixed, moving : Path
        Two files or two folders.
    suffixes : list of str
        What the names of results have after the stem; none of them may exist.
    process : ProcessPair
    """
    pairs, alone = find_pairs(fixed, moving)
    output_folder(writer.folder)
    several = fixed.is_dir()
    expected = [path for pair in pairs for path in writer.existing(pair, suffixes)]
    summary = writer.folder / "summary.csv"
    refuse_existing([*expected, summary] if several else expected, writer.overwrite)
    for path in alone:
        err().print(warning(f"{path}: no partner of the same stem, left out"))
    rows: list[dict[str, Any]] = []
    try:
        with interruptible() as cancel, Bars() as bars:
            overall = bars.add("all pairs") if several else None
            for number, pair in enumerate(pairs):
                if overall is not None:
                    overall(f"{number + 1} of {len(pairs)}", number / len(pairs))
                rows.append(_summary_row(pair, bars, cancel, process, may_raise=not several))
    finally:
        if several and rows:  # after Ctrl+C: the pairs that are done
            _write_summary(summary, rows)
    if several:
        failed = [row["name"] for row in rows if row["status"] == "failed"]
        out().print(f"{len(rows) - len(failed)} of {len(rows)} pairs done, {escape(str(summary))}")
        if failed:
            err().print(f"[red]Failed:[/] {escape(', '.join(failed))}")
            raise typer.Exit(EXIT_SOME_FAILED)


def _summary_row(
    pair: Pair, bars: Bars, cancel: Event, process: ProcessPair, *, may_raise: bool
) -> dict[str, Any]:
    """Process one pair and return its row of the summary."""
    row: dict[str, Any] = {"name": pair.name}
    start = time.perf_counter()
    try:
        quality = process(pair, bars, cancel).get("quality")
    except Cancelled:
        raise
    except Exception as error:
        if may_raise:
            raise
        bars.note(f"[red]{escape(pair.name)} failed:[/] {escape(one_line(error))}")
        row |= {"status": "failed", "message": one_line(error)}
    else:
        row["status"] = "ok" if quality is None or quality.reliable else "doubtful"
        if quality is not None:
            row |= {"score": f"{quality.score:.4f}", "overlap": f"{quality.overlap:.4f}"}
            row["message"] = "; ".join(quality.reasons)
    return row | {"seconds": f"{time.perf_counter() - start:.2f}"}


def _write_summary(path: Path, rows: list[dict[str, Any]]) -> None:
    fields = ["name", "status", "score", "overlap", "seconds", "message"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        writer.writerows(rows)
