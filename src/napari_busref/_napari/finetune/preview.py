"""Layers that preview a training on a held-out pair. Needs no Qt."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.trades import worded
from napari_busref.images.comparison import FIXED_COLOUR, MOVING_COLOUR

if TYPE_CHECKING:
    from napari.components import LayerList
    from napari.layers import Layer

    from napari_busref.training.finetuning.result import Preview

__all__ = ["PreviewLayers"]

_ROLES = {
    "fixed": "held-out {fixed}",
    "moving": "held-out {moving}",
    "before": "before training",
    "now": "training now",
}
_SHOWN = ("fixed", "now")


class PreviewLayers:
    """The two held-out images, and the results of the model before training and now.

    Further previews update the layers in place. Layers that the user removes are not added again.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``.
    """

    def __init__(self, layers: LayerList) -> None:
        self._layers = layers
        self._own: dict[str, Image] = {}
        self._kind = ""

    def begin(self) -> None:
        """Prepare for a training; reuses the layers of an earlier one."""
        known = {layer.metadata.get(METADATA_KEY, {}).get("role"): layer for layer in self._layers}
        self._own = {
            role: known[f"preview-{role}"] for role in _ROLES if f"preview-{role}" in known
        }
        self._kind = ""

    def show(self, preview: Preview) -> None:
        """Show a preview: fused pictures as they are, a registration in blue and orange."""
        position = None
        for role, name in _ROLES.items():
            data = getattr(preview, role)
            layer = self._own.get(role)
            if layer is None and self._kind == "":
                position = position or _cover(self._layers, data.shape)
                layer = Image(
                    data,
                    name=worded(name),
                    contrast_limits=(0, 1),
                    visible=role in _SHOWN,
                    metadata={METADATA_KEY: {"role": f"preview-{role}"}},
                    **position,
                )
                self._own[role] = layer
                self._layers.append(layer)
            elif layer is None or layer not in self._layers:
                continue
            elif layer.data.shape == data.shape:
                layer.data = data
            else:
                size = np.array(layer.scale[-2:]) * layer.data.shape
                layer.data = data
                layer.scale = (*layer.scale[:-2], *(size / data.shape))
            layer.metadata[METADATA_KEY].update(
                kind=preview.kind, step=preview.step, pair=preview.pair
            )
        if preview.kind != self._kind:
            self._kind = preview.kind
            self._colour(preview.kind == "registration")

    def _colour(self, overlay: bool) -> None:
        for role, layer in self._own.items():
            over = overlay and role != "fixed"
            layer.blending = "additive" if over else "translucent_no_depth"
            colour = FIXED_COLOUR if role == "fixed" else MOVING_COLOUR
            layer.colormap = colour if overlay else "gray"


def _cover(layers: MutableSequence[Layer], shape: tuple[int, ...]) -> dict[str, Any]:
    """Position and scale that cover the extent of all layers, in their units."""
    if not layers:
        return {}
    first, last = layers.extent.world[:, -2:]  # type: ignore[attr-defined]
    size = last - first
    if not np.isfinite(size).all() or size.min() <= 0:
        return {}
    step = float(min(size / np.array(shape)))
    units = layers[0].units[-2:]
    return {"scale": (step, step), "translate": tuple(first + step / 2), "units": units}
