"""Refine a result at full resolution, the part in view first. Needs neither Qt nor a viewer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from napari_busref._napari.layers.lazy import Source
from napari_busref._napari.layers.plane_image import PlaneImage
from napari_busref._napari.layers.plane_pairs import Position
from napari_busref._napari.layers.planes import Plane
from napari_busref._napari.layers.reading import choose_reading
from napari_busref._napari.layers.result import LayersResult
from napari_busref._napari.register.fuse_again import fuse_again
from napari_busref._napari.register.masks import mask_on
from napari_busref._napari.register.run import RegisterOutcome, RegisterRequest, outcome_of
from napari_busref._napari.register.stack_warp import Warp
from napari_busref.images.dtypes import checked_fill
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Window

__all__ = ["RefineRequest", "can_refine", "refine"]

_FUSED = 0.95  # share of the progress at which the last fusion begins


@dataclass(frozen=True, eq=False)
class RefineRequest:
    """What to refine.

    Parameters
    ----------
    run : RegisterRequest
        Of the run that gave the result.
    result : LayersResult
    position : tuple of int
        Of the plane that is refined, among `result.planes`.
    view : tuple of slice or None
        Rows and columns of the fixed plane that come first; None for all.
    """

    run: RegisterRequest
    result: LayersResult
    position: Position
    view: Window | None

    @property
    def planes(self) -> tuple[Plane, Plane]:
        """The fixed and the moving plane."""
        return self.result.pairs.by_position[self.position]


def can_refine(result: LayersResult) -> bool:
    """Whether a displacement field was found on a coarser level of the fixed layer."""
    coarse = not result.fixed_grid.full
    found = result.quality.status == "registered"
    return coarse and found and result.registration.parameters.get("refine") == "dense"


def refine(
    request: RefineRequest,
    on_result: Callable[[RegisterOutcome], None],
    *,
    progress: Progress,
    cancel: threading.Event,
) -> RegisterOutcome:
    """Refine the transform in tiles, to full resolution, and make the layers.

    Parameters
    ----------
    request : RefineRequest
    on_result : callable
        Receives what is done: the part in view, and then piece by piece of the rest. The picture
        is fused again for the part in view and at the end.
    progress : Progress
    cancel : threading.Event
        Set it to stop.

    Returns
    -------
    RegisterOutcome
        With everything.

    Raises
    ------
    ValueError
        When no pixels are finer than those that were registered.
    Cancelled, MemoryError, ArithmeticError
        As `napari_busref.register`.
    """
    from napari_busref.registration.large import refine_large

    reporter = Reporter(progress, cancel)
    fixed, moving = request.planes
    source, work = _source(moving, cancel), _Work(request, cancel)
    whole = slice(0, fixed.shape[0]), slice(0, fixed.shape[1])
    parts = refine_large(
        PlaneImage(fixed),
        PlaneImage(moving),
        request.result.planes[request.position].transform,
        request.view or whole,
        masks=work.masks,
        device=request.run.settings.device,
        progress=reporter.part(0.0, _FUSED),
        cancel=cancel,
    )
    outcome = None
    for found, complete in parts:
        result = work.result_with(found.transform, found.levels, source, reporter)
        if complete and request.run.settings.fused:
            # the fraction stays until the rest is done
            part = reporter.part(0.0, _FUSED).named("fusing the images")
            result = fuse_again(request.run, result, progress=part, cancel=cancel).result
        outcome = outcome_of(result, request.run)
        on_result(outcome)
    assert outcome is not None  # a part is never empty
    reporter.step("refined", 1.0)
    return outcome


def _source(moving: Plane, cancel: threading.Event) -> Source:
    """The moving plane, with a coarse copy in memory where it has no coarser levels."""
    reading = choose_reading(moving)
    if len(moving.levels) > 1 or reading.grid.full:
        return Source(moving)
    return Source(moving, ((reading.grid, reading.read(cancel=cancel)),))


@dataclass(frozen=True, eq=False)
class _Work:
    """What all parts of a request share."""

    request: RefineRequest
    cancel: threading.Event

    def masks(self, fixed: Grid, moving: Grid) -> tuple[Any, Any]:
        """Valid pixels of both planes on coarse grids."""
        run = self.request.run
        found: list[NDArray[Any] | None] = []
        for labels, plane, grid in zip(
            (run.fixed_mask, run.moving_mask), self.request.planes, (fixed, moving), strict=True
        ):
            near = None if labels is None else labels.nearest(plane.centre(), plane.world_units)
            found.append(None if near is None else mask_on(near, plane, grid, cancel=self.cancel))
        return found[0], found[1]

    def result_with(
        self, transform: Any, levels: list[dict[str, Any]], source: Source, reporter: Reporter
    ) -> LayersResult:
        """The result with another transform, and the moving layer warped by it."""
        result, position = self.request.result, self.request.position
        shown = position == result.pairs.shown
        planes = dict(result.planes)
        planes[position] = replace(planes[position], transform=transform)
        parameters = {**result.registration.parameters, "levels": levels}
        registration = replace(result.registration, parameters=parameters)
        moving = result.pairs.by_position[result.pairs.shown][1]
        main = transform if shown else result.transform
        fill = checked_fill(
            self.request.run.settings.registration()["fill_value"],
            registration.warped.dtype,
            "fill_value",
        )
        warp = Warp(
            result.pairs, result.mode, source if shown else Source(moving), main, planes, fill
        )
        return replace(
            result,
            registration=registration,
            transform=main,
            planes=planes,
            warped=warp.layer(reporter),
        )
