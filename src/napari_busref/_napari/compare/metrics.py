"""The metrics of "Compare": how well two layers fit, before and after registration.

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

from napari_busref._napari.compare.pixels import Pixels, choose_region
from napari_busref._napari.layers.reading import PIXEL_BUDGET
from napari_busref.metrics.alignment import ALIGNMENT_METRICS, alignment_scores, end_point_error
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms import grids
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import onto_levels

if TYPE_CHECKING:
    from napari_busref._napari.compare.source import Comparison
    from napari_busref.runtime.progress import Progress
    from napari_busref.transforms.transform import Transform

__all__ = ["Measured", "measure"]


@dataclass(frozen=True, eq=False)
class Measured:
    """Metrics of a comparison.

    Attributes
    ----------
    after, before : mapping of str to float
        By the names of `napari_busref.metrics.alignment.ALIGNMENT_METRICS`. `before` is empty
        when the state before registration is unknown.
    layers : mapping of str to str
        Names of the layers: ``reference`` (fixed), ``tested`` (after) and, if any, ``before`` and
        ``truth``.
    shape : tuple of int
        ``(H, W)`` of the grid on which the images were compared.
    note : str
        Why there is no end-point error although a truth was given.
    """

    after: Mapping[str, float]
    before: Mapping[str, float]
    layers: Mapping[str, str]
    shape: tuple[int, int]
    note: str = ""

    def better(self, name: str) -> bool | None:
        """Whether a metric improved; None if it did not change or is unknown."""
        first, second = self.before.get(name, math.nan), self.after.get(name, math.nan)
        if not (math.isfinite(first) and math.isfinite(second)) or first == second:
            return None
        return (second > first) == ALIGNMENT_METRICS[name].higher_is_better

    def save(self, path: Path) -> Path:
        """Write a CSV file, one row a metric; unknown values are empty.

        Parameters
        ----------
        path : Path
            Replaced if it exists.

        Returns
        -------
        Path
        """
        roles = ("reference", "tested", "before", "truth")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["metric", "before", "after", "higher_is_better", "rows", "columns"]
                + [f"{role}_layer" for role in roles]
            )
            for name, metric in ALIGNMENT_METRICS.items():
                if name not in self.after:
                    continue
                numbers = [values.get(name, math.nan) for values in (self.before, self.after)]
                writer.writerow(
                    [name]
                    + [repr(number) if math.isfinite(number) else "" for number in numbers]
                    + [metric.higher_is_better, *self.shape]
                    + [self.layers.get(role, "") for role in roles]
                )
        return path


def measure(comparison: Comparison, *, progress: Progress, cancel: threading.Event) -> Measured:
    """Compute the metrics before and after registration; for a worker.

    Parameters
    ----------
    comparison : Comparison
    progress : Progress
    cancel : threading.Event

    Returns
    -------
    Measured
        Over the whole fixed plane, sampled with at most 2048 x 2048 pixels. The end-point error
        is always in pixels at full resolution.

    Raises
    ------
    Cancelled
        When `cancel` was set.
    ValueError
        As `alignment_scores` and `end_point_error`.
    """
    reporter = Reporter(progress, cancel)
    region = choose_region(comparison.fixed.plane)
    reporter.step("reading the layers", 0.0)
    fixed = Pixels.read(comparison.fixed, region, cancel)
    truth = None if comparison.truth is None else Pixels.read(comparison.truth, region, cancel)
    scores: list[dict[str, float]] = []
    for number, (compared, estimate) in enumerate(
        ((comparison.after, comparison.estimate), (comparison.before, comparison.initial))
    ):
        if compared is None:
            scores.append({})
            continue
        reporter.step("measuring", 0.2 + 0.4 * number)
        pixels = Pixels.read(compared, region, cancel)
        reporter.check()
        found = alignment_scores(
            fixed.image,
            pixels.image,
            mask=pixels.valid,
            truth=None if truth is None else truth.image,
            truth_mask=None if truth is None else truth.mask,
        )
        reporter.check()
        if comparison.true_transform is not None and estimate is not None:
            found["epe"] = _end_point_error(estimate, comparison.true_transform)
        scores.append(found)
    planes = {
        "reference": comparison.fixed,
        "tested": comparison.after,
        "before": comparison.before,
        "truth": comparison.truth,
    }
    names = {role: one.plane.name for role, one in planes.items() if one is not None}
    note = f"No EPE: {comparison.no_epe}." if comparison.no_epe else ""
    return Measured(scores[0], scores[1], names, region.shape, note)


def _end_point_error(estimate: Transform, true: Transform) -> float:
    """The end-point error in fixed pixels at full resolution.

    Where a displacement field would be too large, a coarser grid of the fixed image serves.
    """
    fixed, moving = Grid(estimate.fixed_shape), Grid(estimate.moving_shape)
    affine = estimate.displacement is None and true.displacement is None
    if not affine and fixed.shape[0] * fixed.shape[1] > grids.FIELD_BUDGET:
        fixed = fixed.coarser(PIXEL_BUDGET)
    step = fixed.step[0]  # rows and columns have the same step
    found, wanted = (onto_levels(one, fixed, moving) for one in (estimate, true))
    return step * end_point_error(found, wanted)
