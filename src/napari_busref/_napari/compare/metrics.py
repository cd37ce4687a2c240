"""The numbers of "Compare": how well two layers lie on each other, before and after.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

import csv
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_busref._napari.compare.pixels import Pixels, choose_part
from napari_busref._napari.layers.grids import Grid
from napari_busref._napari.layers.reading import PIXEL_BUDGET
from napari_busref.metrics.alignment import ALIGNMENT_METRICS, alignment_scores, end_point_error
from napari_busref.runtime.progress import Reporter

if TYPE_CHECKING:
    from napari_busref._napari.compare.source import Sides
    from napari_busref._napari.layers.grids import Rescaled
    from napari_busref.runtime.progress import Progress

__all__ = ["Measured", "measure"]


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers of a comparison.

    Attributes
    ----------
    after, before : mapping of str to float
        By the names of `napari_busref.metrics.alignment.ALIGNMENT_METRICS`; `before` is empty
        when there is nothing to compare with.
    layers : mapping of str to str
        Names of the layers: ``reference``, ``tested`` and, if there are, ``before`` and ``truth``.
    shape : tuple of int
        Pixels that the images were compared on.
    note : str
        Why there is no end-point error, though a truth was given.
    """

    after: Mapping[str, float]
    before: Mapping[str, float]
    layers: Mapping[str, str]
    shape: tuple[int, int]
    note: str = ""

    def better(self, name: str) -> bool | None:
        """Whether a number got better; None where that cannot be said."""
        first, second = self.before.get(name, math.nan), self.after.get(name, math.nan)
        if not (math.isfinite(first) and math.isfinite(second)) or first == second:
            return None
        return (second > first) == ALIGNMENT_METRICS[name].higher_is_better

    def save(self, path: Path) -> Path:
        """Write a CSV file, one row a metric; numbers that are not known are left empty.

        Parameters
        ----------
        path : Path
            Replaced if it is there.

        Returns
        -------
        Path
        """
        sides = ("reference", "tested", "before", "truth")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["metric", "before", "after", "higher_is_better", "rows", "columns"]
                + [f"{side}_layer" for side in sides]
            )
            for name, metric in ALIGNMENT_METRICS.items():
                if name not in self.after:
                    continue
                numbers = [values.get(name, math.nan) for values in (self.before, self.after)]
                writer.writerow(
                    [name]
                    + [repr(number) if math.isfinite(number) else "" for number in numbers]
                    + [metric.higher_is_better, *self.shape]
                    + [self.layers.get(side, "") for side in sides]
                )
        return path


def measure(sides: Sides, *, progress: Progress, cancel: threading.Event) -> Measured:
    """Measure how the images lie on each other, before and after; for a worker.

    Parameters
    ----------
    sides : Sides
    progress : Progress
    cancel : threading.Event

    Returns
    -------
    Measured
        On the whole plane of the reference, at most 2048 x 2048 pixels of it; the end-point error
        always in pixels at full resolution.

    Raises
    ------
    Cancelled
        When `cancel` was set.
    ValueError
        As `alignment_scores` and `end_point_error`.
    """
    reporter = Reporter(progress, cancel)
    part = choose_part(sides.reference.plane)
    reporter.step("reading the layers", 0.0)
    reference = Pixels.read(sides.reference, part, cancel)
    truth = None if sides.truth is None else Pixels.read(sides.truth, part, cancel)
    names = {"reference": sides.reference.plane.name, "tested": sides.after.plane.name}
    if sides.truth is not None:
        names["truth"] = sides.truth.plane.name
    scores: list[dict[str, float]] = []
    for number, (side, estimate) in enumerate(
        ((sides.after, sides.estimate), (sides.before, sides.start))
    ):
        if side is None:
            scores.append({})
            continue
        reporter.step("measuring", 0.2 + 0.4 * number)
        pixels = Pixels.read(side, part, cancel)
        reporter.check()
        found = alignment_scores(
            reference.image,
            pixels.image,
            mask=pixels.valid,
            truth=None if truth is None else truth.image,
            truth_mask=None if truth is None else truth.covered,
        )
        reporter.check()
        if sides.true is not None and estimate is not None:
            found["epe"] = _error(estimate, sides.true)
        scores.append(found)
    if sides.before is not None:
        names["before"] = sides.before.plane.name
    note = f"No EPE: {sides.no_error}." if sides.no_error else ""
    return Measured(scores[0], scores[1], names, part.shape, note)


def _error(estimate: Rescaled, true: Rescaled) -> float:
    """The end-point error in fixed pixels at full resolution.

    Where a field would be too large there, both are compared on a coarser grid of the fixed image.
    """
    fixed, moving = Grid(estimate.fixed_shape), Grid(estimate.moving_shape)
    if not (estimate.fits and true.fits):
        fixed = fixed.coarser(PIXEL_BUDGET)
    step = fixed.step[0]  # and of the columns: the grid of the pixels has squares
    return step * end_point_error(estimate.onto(fixed, moving), true.onto(fixed, moving))
