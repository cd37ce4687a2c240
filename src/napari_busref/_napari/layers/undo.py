"""Undo of a run: the layers as they were before. Needs neither Qt nor a viewer."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from napari.layers import Image, Labels, Layer, Vectors

from napari_busref._napari.layers.pair import METADATA_KEY

__all__ = ["Undo"]

_SPATIAL = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
_CONTENT = {
    Image: (*_SPATIAL, "contrast_limits_range", "contrast_limits"),
    Labels: _SPATIAL,
    Vectors: (*_SPATIAL, "features", "edge_contrast_limits", "edge_width"),
}


class Undo:
    """What a run changes in a viewer, and the way back.

    Make one before the results are put into the viewer, and call `done` after that.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``. Arrays are kept and not copied: a run puts others in their place.
    touched : sequence of Layer, optional
        Layers of any kind whose place the run changes, or what this plugin notes in their
        metadata.
    """

    def __init__(self, layers: Sequence[Layer], touched: Sequence[Layer] = ()) -> None:
        self._before = list(layers)
        self._notes = [_Note.of(layer) for layer in touched]
        self._states = [_State.of(layer) for layer in layers if METADATA_KEY in layer.metadata]
        self._added: list[Layer] = []
        self._removed: list[Layer] = []
        self._hidden: list[Layer] = []

    def done(self, layers: Sequence[Layer]) -> None:
        """Take note of the layers that the run has added, removed and hidden."""
        self._added = [layer for layer in layers if layer not in self._before]
        self._removed = [layer for layer in self._before if layer not in layers]
        self._hidden = [
            state.layer for state in self._states if state.visible and not state.layer.visible
        ]

    def also(self, layers: Sequence[Layer]) -> None:
        """Take note of layers that were put into the viewer for the same run later on."""
        known = self._before + self._added
        self._added += [layer for layer in layers if layer not in known]

    def restore(self, layers: MutableSequence[Layer]) -> None:
        """Remove what the run added, bring back what it removed, give the others their content.

        Layers that came or went since then stay as they are, and so does how the user has made
        layers look.

        Parameters
        ----------
        layers : LayerList
            ``viewer.layers``.
        """
        for layer in self._added:
            if layer in layers:
                layers.remove(layer)
        for layer in self._removed:
            if layer not in layers:
                layers.insert(min(self._before.index(layer), len(layers)), layer)
        for state in self._states:
            if state.layer in layers:
                state.restore(layers)
        for note in self._notes:
            if note.layer in layers:
                note.restore()
        for layer in self._hidden:
            layer.visible = True


@dataclass(frozen=True, eq=False)
class _Note:
    """Where a layer was, and what this plugin had noted about it."""

    layer: Layer
    affine: Any
    units: tuple[Any, ...]
    metadata: dict[str, Any]

    @classmethod
    def of(cls, layer: Layer) -> _Note:
        known = {key: value for key, value in layer.metadata.items() if _is_ours(key)}
        return cls(layer, copy(layer.affine), tuple(layer.units), known)

    def restore(self) -> None:
        self.layer.affine, self.layer.units = self.affine, self.units
        for key in [key for key in self.layer.metadata if _is_ours(key)]:
            del self.layer.metadata[key]
        self.layer.metadata.update(self.metadata)


def _is_ours(key: Any) -> bool:
    return str(key).startswith(METADATA_KEY)


@dataclass(frozen=True, eq=False)
class _State:
    """One layer of an earlier run."""

    layer: Layer
    data: Any
    attributes: dict[str, Any]
    metadata: dict[str, Any]
    visible: bool
    whole: tuple[Any, dict[str, Any], str] | None
    """To make the layer anew, where its content cannot be exchanged."""

    @classmethod
    def of(cls, layer: Layer) -> _State:
        names = next((n for kind, n in _CONTENT.items() if isinstance(layer, kind)), None)
        return cls(
            layer,
            layer.data,
            {name: copy(getattr(layer, name)) for name in names or () if hasattr(layer, name)},
            dict(layer.metadata[METADATA_KEY]),
            bool(layer.visible),
            layer.as_layer_data_tuple() if names is None else None,
        )

    def restore(self, layers: MutableSequence[Layer]) -> None:
        if self.whole is not None:
            position = layers.index(self.layer)
            layers.remove(self.layer)
            layers.insert(position, Layer.create(*self.whole))
            return
        self.layer.data = self.data
        for name, value in self.attributes.items():
            setattr(self.layer, name, value)
            if name == "features" and "magnitude" in value:
                self.layer.edge_color = "magnitude"  # the colours were those of the other arrows
        self.layer.metadata[METADATA_KEY] = dict(self.metadata)
        self.layer.refresh()
