"""Draws the pictures of "Compare" in its worker thread. Needs neither Qt nor a viewer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.compare.pixels import Pixels, Region
from napari_busref._napari.compare.source import Comparison
from napari_busref.images.comparison import checkerboard, difference, edge_overlay, edges, overlay
from napari_busref.runtime.progress import Reporter

if TYPE_CHECKING:
    from napari_busref.runtime.progress import Progress

__all__ = ["MODE_TITLES", "DrawOptions", "DrawRequest", "Drawing", "draw_comparison"]

#: The modes and their titles in a chooser.
MODE_TITLES = {
    "checkerboard": "Checkerboard",
    "swipe": "Swipe",
    "blink": "Blink",
    "overlay": "Overlay",
    "edges": "Edges",
    "difference": "Difference",
}

_DEFAULT_TILES = 8  # of a checkerboard along the longer side


@dataclass(frozen=True)
class DrawOptions:
    """How to draw.

    Parameters
    ----------
    mode : str
        One of `MODE_TITLES`.
    coloured : bool
        Checkerboard, swipe and blink: as the viewer draws the layers, instead of in grey.
    tile : int
        Side of the squares of a checkerboard in pixels of the fixed layer; 0: automatic.
    sigma : float
        Standard deviation of the gradient that finds edges, in pixels of the picture.
    """

    mode: str = "overlay"
    coloured: bool = True
    tile: int = 0
    sigma: float = 1.5


@dataclass(frozen=True, eq=False)
class DrawRequest:
    """A comparison to draw.

    Parameters
    ----------
    comparison : Comparison
    region : Region
    state : str
        ``"after"`` or ``"before"`` registration.
    options : DrawOptions
    pixels : mapping of str to Pixels
        Pixels that were already read, by ``"fixed"``, ``"after"`` and ``"before"``.
    """

    comparison: Comparison
    region: Region
    state: str
    options: DrawOptions
    pixels: Mapping[str, Pixels]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A comparison that was drawn.

    Attributes
    ----------
    request : DrawRequest
    pixels : mapping of str to Pixels
        Those of the request and those read for it.
    pictures : tuple of ndarray of uint8, shape (H, W, 3)
        Two for swipe and blink, one for the other modes.
    """

    request: DrawRequest
    pixels: Mapping[str, Pixels]
    pictures: tuple[NDArray[np.uint8], ...]


def draw_comparison(
    request: DrawRequest, *, progress: Progress, cancel: threading.Event
) -> Drawing:
    """Read missing pixels and draw.

    Parameters
    ----------
    request : DrawRequest
    progress : Progress
    cancel : threading.Event

    Raises
    ------
    Cancelled
        When `cancel` was set.
    ValueError
        When an image is empty.
    """
    reporter = Reporter(progress, cancel)
    pixels = dict(request.pixels)
    for number, name in enumerate(("fixed", request.state)):
        reporter.step("reading", number / 3)
        if name not in pixels:
            compared = getattr(request.comparison, name)
            pixels[name] = Pixels.read(compared, request.region, cancel)
    reporter.step("drawing", 2 / 3)
    pictures = _draw(pixels["fixed"], pixels[request.state], request.options, request.region)
    reporter.check()
    return Drawing(request, pixels, pictures)


def _draw(
    fixed: Pixels, moving: Pixels, options: DrawOptions, region: Region
) -> tuple[NDArray[np.uint8], ...]:
    if options.mode in ("checkerboard", "swipe", "blink"):
        pictures = (
            (fixed.coloured, moving.coloured)
            if options.coloured
            else (fixed.uncoloured, moving.uncoloured)
        )
        if options.mode != "checkerboard":
            return pictures
        tile = options.tile / max(region.grid.step) or max(region.shape) / _DEFAULT_TILES
        return (checkerboard(*pictures, max(1, round(tile))),)
    if options.mode == "overlay":
        return (overlay(fixed.grey, moving.grey),)
    if options.mode == "edges":
        strengths = (edges(one.grey, one.valid, options.sigma) for one in (fixed, moving))
        return (edge_overlay(*strengths),)
    return (difference(fixed.grey, moving.grey, fixed.valid & moving.valid),)
