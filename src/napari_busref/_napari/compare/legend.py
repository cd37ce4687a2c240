"""What the pictures of "Compare" mean, in words."""

from __future__ import annotations

from html import escape

from napari_busref._napari.compare.draw import Request

__all__ = ["legend"]

_LEGENDS = {
    "checkerboard": "Squares show {reference} and {tested} in turn: follow lines across borders",
    "swipe": "{reference}, then {tested}: drag the yellow edge in the picture, or the slider",
    "blink": "{reference} and {tested} in turn: what jumps does not fit",
    "overlay": (
        "<font color='#f0f'>■</font> {reference}<br><font color='#0f0'>■</font> {tested}<br>"
        "<font color='#999'>■</font> both are equally bright"
    ),
    "edges": (
        "<font color='#f00'>■</font> edges of {reference}<br>"
        "<font color='#0f0'>■</font> edges of {tested}<br>"
        "<font color='#ff0'>■</font> edges that coincide"
    ),
    "difference": (
        "<font color='#f22'>■</font> {tested} is brighter<br>"
        "<font color='#44f'>■</font> {tested} is darker<br>"
        "<font color='#fff'>■</font> no difference"
    ),
}


def legend(request: Request) -> str:
    """Say which colour or part of a picture is which layer, as rich text."""
    side = request.sides.after if request.tested == "after" else request.sides.before
    assert side is not None
    tested = f"<b>{escape(side.plane.name)}</b>"
    if request.tested == "before":
        tested += " (before registration)"
    text = _LEGENDS[request.options.mode].format(
        reference=f"<b>{escape(request.sides.reference.plane.name)}</b>", tested=tested
    )
    if request.part.grid.step != (1.0, 1.0):
        text += (
            f"<br><i>One pixel shown is {max(request.part.grid.step):.3g} of the reference; zoom "
            "in to see more</i>"
        )
    return text
