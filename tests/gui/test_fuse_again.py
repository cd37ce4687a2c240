"""The button "Fuse again" and the live sliders, with models that need no weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari")
from napari.components import ViewerModel

from napari_busref import fuse, registration
from napari_busref._napari.register.panel import RegisterAndFuse
from napari_busref._napari.register.settings import Settings

QUICK = Settings(
    model="identity", search="none", refine="none", device="cpu", fusion_model="average"
)


@pytest.fixture
def viewer(plugin, plugin_settings):
    return ViewerModel()


@pytest.fixture
def panel(viewer, qtbot):
    widget = RegisterAndFuse(viewer)
    qtbot.addWidget(widget)
    for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
        event.connect(widget.reset_choices)  # as the window does
    rng = np.random.default_rng(0)
    viewer.add_image(rng.integers(0, 255, (40, 56, 3), np.uint8), name="vis", rgb=True)
    viewer.add_image(rng.integers(0, 255, (40, 56), np.uint8), name="ir", colormap="inferno")
    widget.settings = QUICK
    return widget


def run_to_the_end(panel, qtbot, start):
    with qtbot.waitSignal(panel.idle, timeout=120_000):
        assert start()


def expected(viewer, **options):
    images = viewer.layers["vis"].data, viewer.layers["ir warped"].data
    mask = viewer.layers["ir mask"].data
    return fuse(*images, mask=mask, device="cpu", **({"model": "average"} | options)).fused


def test_fuse_again_registers_nothing(viewer, panel, qtbot, monkeypatch):
    assert not panel.fuse_button.isEnabled()
    assert not panel.fuse_again()
    run_to_the_end(panel, qtbot, panel.run)
    assert panel.fuse_button.isEnabled()
    layers = list(viewer.layers)
    monkeypatch.setattr(registration, "register", None)
    panel.settings = replace(QUICK, fusion_model="maximum")
    run_to_the_end(panel, qtbot, panel.fuse_again)
    assert list(viewer.layers) == layers
    assert np.array_equal(viewer.layers["vis fused"].data, expected(viewer, model="maximum"))
    assert panel.stage.text().startswith("fused again in")
    assert panel.verdict.text.text()  # that of the registration stays
    assert panel.undo()
    assert np.array_equal(viewer.layers["vis fused"].data, expected(viewer))
    assert panel.redo()
    assert np.array_equal(viewer.layers["vis fused"].data, expected(viewer, model="maximum"))


def test_another_style(viewer, panel, qtbot):
    run_to_the_end(panel, qtbot, panel.run)
    panel.settings = replace(QUICK, style="msx", palette="iron")
    run_to_the_end(panel, qtbot, panel.fuse_again)
    picture = expected(viewer, style="msx", palette="iron")
    assert np.array_equal(viewer.layers["vis fused"].data, picture)
    assert viewer.layers["ir warped"].data.dtype == np.uint8


def test_only_the_registered_pair_is_fused_again(viewer, panel, qtbot):
    run_to_the_end(panel, qtbot, panel.run)
    panel.swap.click()
    assert not panel.fuse_button.isEnabled()
    assert not panel.fuse_again()
    panel.swap.click()
    assert panel.fuse_button.isEnabled()


def test_sliders_show_what_they_do_and_fuse_when_they_rest(viewer, panel, qtbot):
    run_to_the_end(panel, qtbot, panel.run)
    before = viewer.layers["vis fused"].data
    slider = panel.advanced.controls["infrared"]
    slider.value = 0.9
    brighter = expected(viewer, infrared=0.9)
    with qtbot.waitSignal(panel.idle, timeout=120_000):  # at rest
        qtbot.waitUntil(lambda: np.array_equal(viewer.layers["vis fused"].data, brighter))
    qtbot.waitUntil(lambda: panel.result.fusion.parameters["infrared"] == 0.9)
    slider.value = 0.2  # the preview is ready: at once
    assert np.array_equal(viewer.layers["vis fused"].data, expected(viewer, infrared=0.2))
    panel.undo()
    assert np.array_equal(viewer.layers["vis fused"].data, before)


def test_sliders_move_the_picture_of_the_chosen_pair(viewer, panel, qtbot):
    """Two pairs share the fixed layer."""
    run_to_the_end(panel, qtbot, panel.run)
    first = viewer.layers["vis fused"]
    kept = first.data.copy()
    other = viewer.layers["ir"].data[::-1].copy()
    panel.moving.value = viewer.add_image(other, name="ir 2", colormap="inferno")
    run_to_the_end(panel, qtbot, panel.run)
    second = next(
        layer
        for layer in viewer.layers
        if layer.name.startswith("vis fused") and layer is not first
    )
    before = second.data.copy()
    with qtbot.waitSignal(panel.idle, timeout=120_000):
        panel.advanced.controls["infrared"].value = 0.9
    assert np.array_equal(first.data, kept)
    assert not np.array_equal(second.data, before)
