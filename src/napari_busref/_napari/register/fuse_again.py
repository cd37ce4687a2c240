"""Fuse what is registered once more, by other settings. Needs neither Qt nor a viewer."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_busref._napari.layers.lazy import Source
from napari_busref._napari.layers.plane_pairs import Position
from napari_busref._napari.layers.reading import choose_reading
from napari_busref._napari.layers.result import LayersResult
from napari_busref._napari.register.result_layers import result_layers
from napari_busref._napari.register.run import RegisterOutcome, RegisterRequest
from napari_busref._napari.register.stack_fusion import Fuser, RegisteredPair
from napari_busref.images.dtypes import checked_fill
from napari_busref.runtime.progress import Progress, Reporter

if TYPE_CHECKING:
    from napari_busref.fusion.sliders import SliderPreview

__all__ = ["fuse_again", "slider_preview"]


def fuse_again(
    request: RegisterRequest, result: LayersResult, *, progress: Progress, cancel: threading.Event
) -> RegisterOutcome:
    """Fuse the planes of a result by the settings of a request, and make the layers.

    Parameters
    ----------
    request : RegisterRequest
        Of the run that gave the result, with other settings.
    result : LayersResult
        Its transforms and masks are kept.
    progress : Progress
        Called with the stage and the fraction done.
    cancel : threading.Event
        Set it to stop.

    Returns
    -------
    RegisterOutcome
        Its layers are the fused one and, if there are any, the weights of the loss.

    Raises
    ------
    Cancelled, TypeError, ValueError, ArithmeticError, MemoryError
        As `napari_busref.fuse`.
    """
    reporter = Reporter(progress, cancel)
    fuser = _fuser(request, result, cancel)
    each = result.mode == "each"
    positions = list(result.planes if each else fuser.pairs.by_position)
    first = None
    for number, position in enumerate(positions):
        part = reporter.part(number / len(positions), (number + 1) / len(positions))
        pair = _pair(result, position)
        if pair.quality.status == "not registered":
            fuser.keep_fixed(position, pair)
            continue
        fused = fuser.fuse(position, pair, _fill(request, result), part)
        first = first or fused
    again = replace(
        result,
        fusion=first or result.fusion,
        fused=fuser.fused,
        fused_grid=fuser.grid,
        fused_pairs=fuser.pairs,
        weights=fuser.weights,
        cancelled=False,
    )
    layers = result_layers(again, request.fixed, request.moving, roles={"fused", "weights"})
    return RegisterOutcome(again, layers, {})


def slider_preview(
    request: RegisterRequest, result: LayersResult, *, progress: Progress, cancel: threading.Event
) -> SliderPreview:
    """Prepare to show the sliders on the shown planes of a result."""
    from napari_busref.fusion.sliders import SliderPreview

    fuser = _fuser(request, result, cancel)
    fixed, moving, mask = fuser.images(
        result.pairs.shown, _pair(result, result.pairs.shown), _fill(request, result)
    )
    options = request.fusion()
    known = {name: options[name] for name in ("model", "task")}
    return SliderPreview(fixed, moving, mask, device=request.settings.device, **known)


def _fuser(request: RegisterRequest, result: LayersResult, cancel: threading.Event) -> Fuser:
    readings = choose_reading(request.fixed), choose_reading(request.moving)
    options = {"device": request.settings.device, **request.fusion()}
    return Fuser(result.pairs, readings, options, cancel)


def _pair(result: LayersResult, position: Position) -> RegisteredPair:
    plane = result.planes.get(position) or result.planes[result.pairs.shown]
    moving = result.pairs.by_position[position][1]
    registration = replace(result.registration, mask=plane.mask)
    return RegisteredPair(registration, plane.transform, plane.quality, Source(moving), None)


def _fill(request: RegisterRequest, result: LayersResult) -> float:
    fill = request.settings.registration()["fill_value"]
    return checked_fill(fill, result.registration.warped.dtype, "fill_value")
