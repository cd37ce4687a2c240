"""Which layers a viewer shows after a run: the fused picture alone, or the warped over the fixed.

A run changes no visibility that the user changed since the run before. For that, each result layer
carries the visibilities that its run gave. Needs neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari.layers import Layer

from napari_busref._napari.layers.pair import METADATA_KEY

__all__ = [
    "hide",
    "hide_others",
    "keep_choice",
    "show_picture_alone",
    "show_sources",
    "sources_shown",
]

_OWN = "shown"  # key of the visibility that a run gave to the layer itself
_SOURCES = "sources_shown"  # of those that it gave to the fixed and the moving layer
_PICTURES = ("fused", "warped")
_COVERING = ("fused", "weights", "doubt", "magnitude", "grid", "displacement")


def show_picture_alone(layers: Sequence[Layer]) -> None:
    """Hide all new results of a run but its picture: the fused image, or else the warped one.

    Results without a picture stay as they are.
    """
    roles = [_metadata(layer).get("role") for layer in layers]
    picture = next((role for role in _PICTURES if role in roles), None)
    for layer, role in zip(layers, roles, strict=True):
        if picture is not None:
            layer.visible = role == picture
        _metadata(layer)[_OWN] = bool(layer.visible)


def hide(layer: Layer) -> None:
    """Hide a result as a run does, unless it is hidden."""
    if layer.visible:
        layer.visible = False
        _metadata(layer)[_OWN] = False


def hide_others(layers: Sequence[Layer], results: Sequence[Layer]) -> None:
    """Hide earlier fused images, maps and drawings of a pair, which a run did not update.

    Parameters
    ----------
    layers : sequence of Layer
        ``viewer.layers``.
    results : sequence of Layer
        The layers of the run, in the viewer.
    """
    pairs = {_pair(layer) for layer in results}
    for layer in layers:
        known = _metadata(layer)
        if known.get("role") in _COVERING and _pair(layer) in pairs and layer not in results:
            hide(layer)


def keep_choice(layer: Layer, wanted: bool, visible: bool, earlier: Mapping[str, Any]) -> None:
    """Show or hide a result that replaces an earlier one.

    Parameters
    ----------
    layer : Layer
        With the new content.
    wanted : bool
        The visibility that the new run gives.
    visible : bool
        The visibility of the earlier result.
    earlier : mapping
        The plugin's metadata of the earlier result.
    """
    layer.visible = wanted if earlier.get(_OWN) == visible else visible
    _metadata(layer)[_OWN] = wanted


def sources_shown(
    layers: Sequence[Layer], fixed: str, moving: str
) -> tuple[bool | None, bool | None]:
    """Return the visibilities that the last run gave to two layers, None where it gave none.

    Parameters
    ----------
    layers : sequence of Layer
        ``viewer.layers``.
    fixed, moving : str
        Names of the two layers.
    """
    records = [
        _metadata(layer)[_SOURCES]
        for layer in layers
        if _SOURCES in _metadata(layer) and _pair(layer) == (fixed, moving)
    ]
    return records[-1] if records else (None, None)


def show_sources(
    layers: Sequence[Layer],
    results: Sequence[Layer],
    sources: tuple[Layer, Layer],
    earlier: tuple[bool | None, bool | None],
    *,
    whole: bool = True,
) -> None:
    """Hide the two layers of a run where they would stick out from its picture.

    The fixed layer stays visible below a warped one. A layer that the user hid before the first
    run stays hidden. Results without a picture hide nothing.

    Parameters
    ----------
    layers : sequence of Layer
        ``viewer.layers``; a source that is no longer there stays as it is.
    results : sequence of Layer
        The layers of the run, in the viewer.
    sources : tuple of Layer
        The fixed and the moving layer.
    earlier : tuple of bool or None
        From `sources_shown`, before the run added layers.
    whole : bool
        Whether the picture covers every plane of the fixed layer. Otherwise that stays visible.
    """
    roles = {_metadata(layer).get("role") for layer in results}
    if not roles & set(_PICTURES):
        return
    wanted = ("fused" not in roles or not whole, False)
    for layer, show, before in zip(sources, wanted, earlier, strict=True):
        if layer not in layers or before not in (None, layer.visible):
            continue
        if not show or before is not None:
            layer.visible = show
    for layer in results:
        _metadata(layer)[_SOURCES] = wanted


def _pair(layer: Layer) -> tuple[Any, Any]:
    known = _metadata(layer)
    return known.get("fixed"), known.get("moving")


def _metadata(layer: Layer) -> dict[str, Any]:
    ours = layer.metadata.get(METADATA_KEY)
    return ours if isinstance(ours, dict) else {}
