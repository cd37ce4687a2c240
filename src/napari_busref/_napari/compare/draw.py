"""Drawing the pictures of "Compare" in its worker thread. Needs neither Qt nor a viewer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.compare.pixels import Part, Pixels
from napari_busref._napari.compare.source import Sides
from napari_busref.images.comparison import checkerboard, difference, edge_overlay, edges, overlay
from napari_busref.runtime.progress import Reporter

if TYPE_CHECKING:
    from napari_busref.runtime.progress import Progress

__all__ = ["MODES", "Options", "Prepared", "Request", "draw_comparison"]

#: The modes, with what a chooser calls them.
MODES = {
    "checkerboard": "Checkerboard",
    "swipe": "Swipe",
    "blink": "Blink",
    "overlay": "Green / magenta",
    "edges": "Edges, red / green",
    "difference": "Difference",
}

_TILES = 8  # of a checkerboard along the longer side, when nothing else is said


@dataclass(frozen=True)
class Options:
    """How to draw.

    Parameters
    ----------
    mode : str
        One of `MODES`.
    coloured : bool
        As the viewer shows the layers, and not in grey; where the mode has colours to spare.
    tile : int
        Side of the squares of a checkerboard in pixels of the reference; 0 for a suitable one.
    sigma : float
        Width of edges in pixels of the picture.
    """

    mode: str = "overlay"
    coloured: bool = True
    tile: int = 0
    sigma: float = 1.5


@dataclass(frozen=True, eq=False)
class Request:
    """A comparison to be drawn, fixed when it was asked for.

    Parameters
    ----------
    sides : Sides
    part : Part
    tested : str
        ``"after"`` or ``"before"``.
    options : Options
    pixels : mapping of str to Pixels
        What was read before, by ``"reference"``, ``"after"`` and ``"before"``.
    """

    sides: Sides
    part: Part
    tested: str
    options: Options
    pixels: Mapping[str, Pixels]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What came out.

    Attributes
    ----------
    request : Request
    pixels : mapping of str to Pixels
        Those of the request and what was read in addition.
    pictures : tuple of ndarray of uint8, shape (H, W, 3)
        One; or two, to swipe or blink between.
    """

    request: Request
    pixels: Mapping[str, Pixels]
    pictures: tuple[NDArray[np.uint8], ...]


def draw_comparison(request: Request, *, progress: Progress, cancel: threading.Event) -> Prepared:
    """Read what is missing and draw.

    Parameters
    ----------
    request : Request
    progress : Progress
    cancel : threading.Event

    Raises
    ------
    Cancelled
        When `cancel` was set.
    ValueError
        When an image has no content.
    """
    reporter = Reporter(progress, cancel)
    pixels = dict(request.pixels)
    sides = {
        "reference": request.sides.reference,
        "after": request.sides.after,
        "before": request.sides.before,
    }
    for number, name in enumerate(("reference", request.tested)):
        reporter.step("reading", number / 3)
        side = sides[name]
        if name not in pixels and side is not None:
            pixels[name] = Pixels.read(side, request.part, cancel)
    reporter.step("drawing", 2 / 3)
    pictures = _draw(pixels["reference"], pixels[request.tested], request.options, request.part)
    reporter.check()
    return Prepared(request, pixels, pictures)


def _draw(
    first: Pixels, second: Pixels, options: Options, part: Part
) -> tuple[NDArray[np.uint8], ...]:
    if options.mode in ("checkerboard", "swipe", "blink"):
        one, other = (
            (first.coloured, second.coloured)
            if options.coloured
            else (first.uncoloured, second.uncoloured)
        )
        if options.mode != "checkerboard":
            return one, other
        tile = options.tile / max(part.grid.step) or max(part.shape) / _TILES
        return (checkerboard(one, other, max(1, round(tile))),)
    if options.mode == "overlay":
        return (overlay(first.grey, second.grey),)
    if options.mode == "edges":
        salient = (edges(side.grey, side.valid, options.sigma) for side in (first, second))
        return (edge_overlay(*salient),)
    return (difference(first.grey, second.grey, first.valid & second.valid),)
