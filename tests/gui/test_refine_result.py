"""The button "Refine at full resolution", with parts that need no registration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari")
from napari.components import ViewerModel

from napari_busref import Transform
from napari_busref._napari.register import result_refiner as module
from napari_busref._napari.register.panel import RegisterAndFuse
from napari_busref._napari.register.run import outcome_of
from napari_busref._napari.register.settings import Settings
from napari_busref.runtime.progress import Cancelled

KEY = "napari-busref"
QUICK = Settings(
    model="identity", search="none", refine="none", device="cpu", fusion_model="average"
)


@pytest.fixture
def panel(plugin, plugin_settings, qtbot):
    viewer = ViewerModel()
    widget = RegisterAndFuse(viewer)
    qtbot.addWidget(widget)
    rng = np.random.default_rng(0)
    viewer.add_image(rng.integers(0, 255, (40, 56, 3), np.uint8), name="vis", rgb=True)
    viewer.add_image(rng.integers(0, 255, (40, 56), np.uint8), name="ir", colormap="inferno")
    widget.reset_choices()
    widget.settings = QUICK
    run_to_the_end(widget, qtbot, widget.run)
    return widget


def run_to_the_end(panel, qtbot, start):
    with qtbot.waitSignal(panel.idle, timeout=120_000):
        assert start()


def moved(request, pixels):
    """An outcome with the infrared image moved to the left."""
    affine = np.eye(3)
    affine[1, 2] = pixels
    transform = Transform(affine, fixed_shape=(40, 56), moving_shape=(40, 56))
    (position,) = request.result.planes
    planes = {position: replace(request.result.planes[position], transform=transform)}
    parameters = {"levels": [{"step": 1, "tiles": 1, "kept": 1, "median_move_px": pixels}]}
    registration = replace(request.result.registration, parameters=parameters)
    known = {"registration": registration, "transform": transform, "planes": planes}
    return outcome_of(replace(request.result, **known), request.run)


def parts_of(*pixels, end=None):
    """A refinement that sends some parts, and then returns or raises."""

    def refine(request, on_result, *, progress, cancel):
        assert request.view is None or all(part.stop > part.start for part in request.view)
        outcome = None
        for one in pixels:
            outcome = moved(request, one)
            on_result(outcome)
        if end is not None:
            raise end
        return outcome

    return refine


def shift(viewer):
    return viewer.layers["ir warped"].metadata[KEY]["transform"].affine[1, 2]


def test_a_result_at_full_resolution_is_not_refined(panel):
    assert panel.refine_button.isHidden()
    assert not panel.refine()
    assert "registered at full resolution" in panel.stage.text()
    assert panel.result is not None


@pytest.mark.parametrize("end", [None, Cancelled(), ValueError("no pixels")])
def test_parts_are_one_step_of_undo_and_stay_after_cancel(panel, qtbot, monkeypatch, end):
    viewer, before = panel._viewer, panel.result
    monkeypatch.setattr(module, "can_refine", lambda _: True)
    monkeypatch.setattr(module, "refine", parts_of(2, 3, end=end))
    panel._show_state()
    assert not panel.refine_button.isHidden() and panel.refine_button.isEnabled()
    run_to_the_end(panel, qtbot, panel.refine)
    said = {None: "refined at full", Cancelled: "cancelled; what was", ValueError: "no pixels"}
    assert panel.stage.text().startswith(said[end and type(end)])
    assert shift(viewer) == panel.result.transform.affine[1, 2] == 3
    assert panel.verdict.outcome.result is panel.result
    assert panel.undo() and shift(viewer) == 0
    assert panel.result is before and panel.can_fuse_again
    assert panel.redo() and shift(viewer) == 3


def test_undo_keeps_a_layer_that_was_opened_meanwhile(panel, qtbot, monkeypatch):
    viewer = panel._viewer
    monkeypatch.setattr(module, "can_refine", lambda _: True)
    monkeypatch.setattr(module, "refine", parts_of(2, 3))
    inner, shown = module.update_layers, []

    def update(layers, new):
        if shown:
            viewer.add_points(np.zeros((1, 2)), name="mine")
        shown.append(new)
        return inner(layers, new)

    monkeypatch.setattr(module, "update_layers", update)
    run_to_the_end(panel, qtbot, panel.refine)
    assert len(shown) == 2
    assert panel.undo() and shift(viewer) == 0
    assert "mine" in viewer.layers


def test_parts_of_an_abandoned_refinement_are_dropped(panel, qtbot, monkeypatch):
    monkeypatch.setattr(module, "can_refine", lambda _: True)
    monkeypatch.setattr(module, "refine", parts_of(2))
    run_to_the_end(panel, qtbot, panel.refine)
    parts = panel._refiner._parts
    late = moved(type("Request", (), {"result": panel.result, "run": panel._last}), 9)
    parts.arrived.emit(late)
    assert shift(panel._viewer) == 2
