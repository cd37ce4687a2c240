"""Undo and redo of several runs, without Qt."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import LayerList
from napari.layers import Image, Shapes

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.undo import History, Undo


def ours(name, value):
    return Image(np.full((4, 4), value), name=name, metadata={METADATA_KEY: {"value": value}})


def run(history, layers, value, note):
    """A run: it adds a layer, or updates the one of an earlier run, and hides the source."""
    undo = Undo(layers)
    known = next((layer for layer in layers if METADATA_KEY in layer.metadata), None)
    if known is None:
        layers.append(ours("warped", value))
    else:
        known.data = np.full((4, 4), value)
        known.metadata[METADATA_KEY]["value"] = value
    grid = [layer for layer in layers if isinstance(layer, Shapes)]
    for old in grid:
        layers.remove(old)
    layers.append(
        Shapes(
            [np.array([[0, 0], [value, value]])],
            shape_type="path",
            name=f"grid {value}",
            metadata={METADATA_KEY: {"role": "grid"}},
        )
    )
    layers[0].visible = False
    undo.done(layers)
    history.add(undo, note)


def state(layers):
    return [(layer.name, layer.visible) for layer in layers], [
        float(layer.data.max()) for layer in layers if isinstance(layer, Image)
    ]


def test_several_runs_are_undone_and_redone_in_order():
    layers, history = LayerList([Image(np.zeros((4, 4)), name="ir")]), History()
    states = [state(layers)]
    for value in (1, 2, 3):
        run(history, layers, value, f"before {value}")
        states.append(state(layers))
    assert states[1] == ([("ir", False), ("warped", True), ("grid 1", True)], [0.0, 1.0])
    for value in (3, 2, 1):
        assert history.undo(layers, f"after {value}") == f"before {value}"
        assert state(layers) == states[value - 1]
    assert history.counts == (0, 3)
    for value in (1, 2, 3):
        assert history.redo(layers, f"before {value}") == f"after {value}"
        assert state(layers) == states[value]
    assert history.undo(layers) == "before 3"
    run(history, layers, 7, "before 7")  # another way on: nothing to redo
    assert history.counts == (3, 0)
    assert layers["warped"].metadata[METADATA_KEY]["value"] == 7


def test_the_number_of_steps_is_limited():
    layers, history = LayerList(), History()
    for _ in range(30):
        undo = Undo(layers)
        undo.done(layers)
        history.add(undo)
    assert history.counts == (5, 0)


class Small:
    """A step that keeps no arrays."""

    def exchange(self, layers):
        return self


def test_steps_without_arrays_do_not_push_runs_out():
    layers, history = LayerList([Image(np.zeros((4, 4)), name="ir")]), History()
    for value in range(1, 8):
        run(history, layers, value, value)
        history.add(Small())
    assert history.counts == (12, 0)  # five runs and seven steps
    notes = [history.undo(layers) for _ in range(12)]
    assert [note for note in notes if note is not None] == [7, 6, 5, 4, 3]
    history.forget(Small)
    assert history.counts == (0, 5)
    assert history.last is None
    for _ in range(150):
        history.add(Small())
    assert history.counts == (100, 0)
