"""The legend of a comparison, as rich text."""

from __future__ import annotations

from html import escape

from napari_busref._napari.compare.draw import DrawRequest

__all__ = ["legend"]

_LEGENDS = {
    "checkerboard": "Squares alternate {fixed} and {moving}: follow lines across borders",
    "swipe": "{fixed}, then {moving}: drag the yellow divider in the picture, or the slider",
    "blink": "{fixed} and {moving} in turn: what jumps does not fit",
    "overlay": (
        "<font color='#f0f'>■</font> {fixed}<br><font color='#0f0'>■</font> {moving}<br>"
        "<font color='#999'>■</font> both are equally bright"
    ),
    "edges": (
        "<font color='#f00'>■</font> edges of {fixed}<br>"
        "<font color='#0f0'>■</font> edges of {moving}<br>"
        "<font color='#ff0'>■</font> edges that coincide"
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
        text += (
            f"<br><i>One pixel shown is {step:.3g} pixels of the fixed layer; zoom in to see "
            "more</i>"
        )
    return text
