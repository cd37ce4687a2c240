"""Restore the layers of a viewer to their state before a run. Needs neither Qt nor a viewer."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from napari.layers import Image, Labels, Layer, Vectors

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.planes import SPATIAL_KEYS

__all__ = ["History", "Step", "Undo"]

_CONTENT = {
    Image: (*SPATIAL_KEYS, "contrast_limits_range", "contrast_limits"),
    Labels: SPATIAL_KEYS,
    Vectors: (*SPATIAL_KEYS, "features", "edge_contrast_limits", "edge_width"),
}


class Step(Protocol):
    """What `History` can undo and redo."""

    def exchange(self, layers: MutableSequence[Layer]) -> Step:
        """Restore what held before, and return the step that leads back."""


class Undo:
    """State of a viewer's layers before a run, and how to restore it.

    Create one before the run changes layers, and call `done` afterwards.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``. Arrays are not copied, because a run replaces them.
    touched : sequence of Layer, optional
        Layers of any type whose position or plugin metadata the run changes.
    """

    def __init__(self, layers: Sequence[Layer], touched: Sequence[Layer] = ()) -> None:
        self._before = list(layers)
        self._touched = [_TouchedLayer.of(layer) for layer in touched]
        self._results = [
            _ResultLayer.of(layer) for layer in layers if METADATA_KEY in layer.metadata
        ]
        self._added: list[Layer] = []
        self._removed: list[Layer] = []
        self._visible = [(layer, bool(layer.visible)) for layer in layers]

    @property
    def touched(self) -> list[Layer]:
        """Layers whose position or plugin metadata the run changes."""
        return [one.layer for one in self._touched]

    def done(self, layers: Sequence[Layer]) -> None:
        """Record the layers that the run added, removed, hid and showed."""
        self._added = [layer for layer in layers if layer not in self._before]
        self._removed = [layer for layer in self._before if layer not in layers]
        self._visible = [
            (layer, before) for layer, before in self._visible if layer.visible != before
        ]

    def also(self, layers: Sequence[Layer]) -> None:
        """Record layers that the same run added later."""
        recorded = self._before + self._added
        self._added += [layer for layer in layers if layer not in recorded]

    def exchange(self, layers: MutableSequence[Layer]) -> Undo:
        """Restore the layers, and return the step that leads back."""
        back = Undo(layers, touched=self.touched)
        self.restore(layers)
        back.done(layers)
        return back

    def restore(self, layers: MutableSequence[Layer]) -> None:
        """Remove added layers, put removed ones back, and restore the content of the others.

        Layers that the user added or removed since, and their display settings, stay.

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
        for result in self._results:
            if result.layer in layers:
                result.restore(layers)
        for touched in self._touched:
            if touched.layer in layers:
                touched.restore()
        for layer, before in self._visible:
            layer.visible = before


class History:
    """The steps of a panel that can be undone and redone.

    Each step has a note, such as what the panel said before it.
    """

    _RUNS = 5  # because each keeps the arrays that it replaced
    _STEPS = 100  # of all kinds

    def __init__(self) -> None:
        self._done: list[tuple[Step, Any]] = []
        self._undone: list[tuple[Step, Any]] = []

    @property
    def last(self) -> Undo | None:
        """The last run that can be undone."""
        steps = (step for step, _ in reversed(self._done))
        return next((step for step in steps if isinstance(step, Undo)), None)

    @property
    def counts(self) -> tuple[int, int]:
        """The number of steps that can be undone, and of those that can be redone."""
        return len(self._done), len(self._undone)

    def add(self, step: Step, note: Any = None) -> None:
        """Add a step; those that were undone are forgotten."""
        self._undone.clear()
        self._done = [*self._done, (step, note)][-self._STEPS :]
        runs = [entry for entry in self._done if isinstance(entry[0], Undo)]
        for oldest in runs[: -self._RUNS]:
            self._done.remove(oldest)

    def forget(self, kind: type[Any]) -> None:
        """Drop the steps of a kind, which cannot be undone any more."""
        for steps in (self._done, self._undone):
            steps[:] = [entry for entry in steps if not isinstance(entry[0], kind)]

    def undo(self, layers: MutableSequence[Layer], note: Any = None) -> Any:
        """Undo the last step.

        Parameters
        ----------
        layers : LayerList
        note : object
            What holds now.

        Returns
        -------
        object
            The note of the step: what held before it.
        """
        return _exchange(self._done, self._undone, layers, note)

    def redo(self, layers: MutableSequence[Layer], note: Any = None) -> Any:
        """Redo the step that was undone last; parameters and result as of `undo`."""
        return _exchange(self._undone, self._done, layers, note)


def _exchange(
    source: list[tuple[Step, Any]],
    target: list[tuple[Step, Any]],
    layers: MutableSequence[Layer],
    note: Any,
) -> Any:
    """Restore the last step of a list, and add the step back to the other list."""
    step, earlier = source.pop()
    target.append((step.exchange(layers), note))
    return earlier


@dataclass(frozen=True, eq=False)
class _TouchedLayer:
    """Position and plugin metadata of a layer."""

    layer: Layer
    affine: Any
    units: tuple[Any, ...]
    metadata: dict[str, Any]

    @classmethod
    def of(cls, layer: Layer) -> _TouchedLayer:
        metadata = {key: value for key, value in layer.metadata.items() if _is_ours(key)}
        return cls(layer, copy(layer.affine), tuple(layer.units), metadata)

    def restore(self) -> None:
        self.layer.affine, self.layer.units = self.affine, self.units
        for key in [key for key in self.layer.metadata if _is_ours(key)]:
            del self.layer.metadata[key]
        self.layer.metadata.update(self.metadata)


def _is_ours(key: Any) -> bool:
    return str(key).startswith(METADATA_KEY)


@dataclass(frozen=True, eq=False)
class _ResultLayer:
    """Content of a layer that an earlier run made."""

    layer: Layer
    data: Any
    attributes: dict[str, Any]
    metadata: dict[str, Any]
    layer_data: tuple[Any, dict[str, Any], str] | None
    """Creates a replacement of a layer whose content cannot be set."""

    @classmethod
    def of(cls, layer: Layer) -> _ResultLayer:
        names = next((n for kind, n in _CONTENT.items() if isinstance(layer, kind)), None)
        return cls(
            layer,
            layer.data,
            {name: copy(getattr(layer, name)) for name in names or () if hasattr(layer, name)},
            dict(layer.metadata[METADATA_KEY]),
            layer.as_layer_data_tuple() if names is None else None,
        )

    def _same_content(self) -> bool:
        before, now = list(self.data), list(self.layer.data)
        return len(before) == len(now) and all(map(np.array_equal, before, now))

    def restore(self, layers: MutableSequence[Layer]) -> None:
        if self.layer_data is not None and not self._same_content():
            position = layers.index(self.layer)
            layers.remove(self.layer)
            layers.insert(position, Layer.create(*self.layer_data))
            return
        if self.layer_data is None:
            self.layer.data = self.data
        for name, value in self.attributes.items():
            setattr(self.layer, name, value)
            if name == "features" and "magnitude" in value:
                self.layer.edge_color = "magnitude"  # computes the colours from the new arrows
        self.layer.metadata[METADATA_KEY] = dict(self.metadata)
        self.layer.refresh()
