"""The legend of a comparison, as rich text."""

from __future__ import annotations

from html import escape

from napari_busref._napari.compare.draw import DrawRequest
from napari_busref._napari.layers.trades import worded
from napari_busref.images.comparison import FIXED_COLOUR, MOVING_COLOUR

__all__ = ["legend"]

_LEGENDS = {
    "checkerboard": "Squares alternate {fixed} and {moving}: follow lines across borders",
    "swipe": "{fixed}, then {moving}: drag the yellow divider in the picture, or the slider",
    "blink": "{fixed} and {moving} in turn: what jumps does not fit",
    "overlay": (
        f"<font color='{FIXED_COLOUR}'>■</font> {{fixed}}<br>"
        f"<font color='{MOVING_COLOUR}'>■</font> {{moving}}<br>"
        "<font color='#999'>■</font> both are equally bright"
    ),
    "edges": (
        f"<font color='{FIXED_COLOUR}'>■</font> edges of {{fixed}}<br>"
        f"<font color='{MOVING_COLOUR}'>■</font> edges of {{moving}}<br>"
        "<font color='#fff'>■</font> edges that coincide"
    ),
    "difference": (
        "<font color='#f22'>■</font> {moving} is brighter<br>"
        "<font color='#44f'>■</font> {moving} is darker<br>"
        "<font color='#fff'>■</font> no difference"
    ),
}


def legend(request: DrawRequest) -> str:
    """Explain which colour or area of a picture shows which layer, as rich text."""
    comparison = request.comparison
    compared = comparison.after if request.state == "after" else comparison.before
    assert compared is not None
    moving = f"<b>{escape(compared.plane.name)}</b>"
    if request.state == "before":
        moving += " (before registration)"
    fixed = f"<b>{escape(comparison.fixed.plane.name)}</b>"
    text = _LEGENDS[request.options.mode].format(fixed=fixed, moving=moving)
    step = max(request.region.grid.step)
    if request.region.grid.step != (1.0, 1.0):
        layer = worded("{fixed} layer")
        text += (
            f"<br><i>One pixel shown is {step:.3g} pixels of the {layer}; zoom in to see more</i>"
        )
    return text
