"""The panel 'Compare' in a real viewer."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from napari_busref.metrics.alignment import ALIGNMENT_METRICS
from napari_busref.transforms.transform import Transform

KEY = "napari-busref"
SHAPE = (48, 64)


def picture(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


@pytest.fixture
def panel(viewer):
    _, widget = viewer.window.add_plugin_dock_widget("napari-busref", "Compare")
    return widget


@pytest.fixture
def layers(viewer):
    """A fixed and a moving layer, and the warped layer that 'Register and fuse' would add."""
    displacement = np.empty((2, *SHAPE), np.float32)
    displacement[0], displacement[1] = 3, -2
    transform = Transform(np.eye(3), displacement, fixed_shape=SHAPE, moving_shape=SHAPE)
    moving = picture(seed=1)
    known = {"role": "warped", "fixed": "vis", "moving": "ir", "transform": transform}
    vis = viewer.add_image(picture((*SHAPE, 3)), name="vis", rgb=True)
    ir = viewer.add_image(
        moving, name="ir", colormap="inferno", metadata={KEY: {"truth": transform}}
    )
    warped = viewer.add_image(
        transform.apply(moving), name="ir warped", colormap="inferno", metadata={KEY: known}
    )
    return vis, ir, warped


def shown(viewer):
    return [layer.name for layer in viewer.layers if layer.visible]


def test_a_truth_is_asked_for_in_the_trade_general_alone(viewer, panel, layers):
    from napari_busref._napari.layers.trades import TRADES, set_trade

    for name in TRADES:
        set_trade(name)
        assert panel.truth.native.isVisibleTo(panel) == (name == "general"), name
    panel.truth.value = layers[1]
    set_trade("thermal")
    assert panel.truth.native.isVisibleTo(panel)


def test_all_modes_of_one_comparison(viewer, panel, layers, qtbot, notes, tmp_path):
    from napari_busref._napari.compare.draw import MODE_TITLES

    assert (panel.fixed.value, panel.moving.value) == (layers[0], layers[2])
    assert not panel.before.isEnabled()
    pictures = {}
    assert panel.compare()
    assert panel.button.text().replace("&", "") == "Clear"
    for mode in MODE_TITLES:
        panel.mode.value = mode
        panel.wait()
        assert shown(viewer) == ["comparison"]
        assert panel.layer.data.shape == (*SHAPE, 3)
        pictures[mode] = np.array(panel.layer.data)
        assert "vis" in panel.legend.text() or mode == "difference"
        assert "ir warped" in panel.legend.text()
        for options, control in (
            (("checkerboard",), panel.tile),
            (("swipe",), panel.position),
            (("swipe",), panel.direction.native),
            (("blink",), panel.rate),
            (("edges",), panel.sigma),
            (("checkerboard", "swipe", "blink"), panel.coloured),
        ):
            assert control.isVisibleTo(panel) == (mode in options)
    assert len({image.tobytes() for image in pictures.values()}) == len(MODE_TITLES)
    np.testing.assert_array_equal(pictures["checkerboard"][:8, :8], layers[0].data[:8, :8])
    np.testing.assert_array_equal(pictures["blink"], layers[0].data)

    # every change of an option is seen
    panel.mode.value = "checkerboard"
    panel.tile.setValue(4)
    panel.wait()
    np.testing.assert_array_equal(panel.layer.data[:4, :4], layers[0].data[:4, :4])
    assert (panel.layer.data[:4, 4:8] != layers[0].data[:4, 4:8]).any()
    panel.coloured.setChecked(False)
    panel.wait()
    assert (panel.layer.data == panel.layer.data[..., :1]).all()

    # before and after
    panel.mode.value = "overlay"
    panel.before.setChecked(True)
    panel.wait()
    assert (panel.layer.data != pictures["overlay"]).any()
    assert "before registration" in panel.legend.text()
    panel.before.setChecked(False)
    panel.wait()
    np.testing.assert_array_equal(panel.layer.data, pictures["overlay"])

    # a new run updates the warped layer, and the comparison follows
    layers[2].data = 255 - layers[2].data
    panel.wait()
    assert (panel.layer.data != pictures["overlay"]).any()

    # numbers
    with pytest.raises(ValueError, match="press Measure first"):
        panel.save_csv(tmp_path / "none")
    panel.measure_button.click()
    panel.wait()
    rows = [panel.table.item(row, 0).text() for row in range(0, panel.table.rowCount(), 2)]
    assert rows == [metric.title for metric in ALIGNMENT_METRICS.values()]
    below = [panel.table.item(row, 0).text() for row in range(1, panel.table.rowCount(), 2)]
    for text, metric in zip(below, ALIGNMENT_METRICS.values(), strict=True):
        assert text.startswith(metric.meaning) and text.endswith("er is better.")
    assert panel.table.item(10, 1).text() == "3.61"  # 3 down and 2 to the left
    assert float(panel.table.item(10, 2).text()) < 1e-3
    assert panel.table.item(10, 3).text() == "better"
    assert "better" in panel.table.item(10, 0).toolTip()
    saved = panel.save_csv(tmp_path / "numbers")
    assert saved.name == "numbers.csv"
    assert saved.read_text().startswith("metric,before,after")

    panel.button.click()
    assert [layer.name for layer in viewer.layers] == ["vis", "ir", "ir warped"]
    assert shown(viewer) == ["vis", "ir", "ir warped"]
    assert not [note for note in notes if note[0] in ("error", "warning")]


def test_the_edge_follows_the_mouse_and_the_slider(viewer, panel, layers, qtbot):
    panel.mode.value = "swipe"
    panel.compare()
    panel.wait()
    data = panel.layer.data
    np.testing.assert_array_equal(data[:, :30], layers[0].data[:, :30])
    panel.position.setValue(250)
    assert panel.layer.data is data  # in place: only what the edge passed was written
    assert (data[:, 20:30] != layers[0].data[:, 20:30]).any()

    # a drag in the canvas, as napari reports it
    def at(column):
        return panel.layer.data_to_world((10, column))

    event = SimpleNamespace(type="mouse_press", button=1, position=at(16), handled=False)
    steps = viewer.mouse_drag_callbacks[-1](viewer, event)
    next(steps)
    assert event.handled  # so that napari does not pan
    event.type, event.position = "mouse_move", at(47.5)
    next(steps)
    assert panel.position.value() == 750
    np.testing.assert_array_equal(data[:, :40], layers[0].data[:, :40])
    event.type = "mouse_release"
    assert list(steps) == []
    panel.direction.value = 0
    panel.wait()
    np.testing.assert_array_equal(panel.layer.data[:30], layers[0].data[:30])


def test_blinking_stops_with_the_comparison(viewer, panel, layers, qtbot):
    panel.mode.value = "blink"
    panel.rate.setValue(5)
    panel.compare()
    panel.wait()
    first = np.array(panel.layer.data)
    qtbot.waitUntil(lambda: (panel.layer.data != first).any(), timeout=10_000)
    qtbot.waitUntil(lambda: (panel.layer.data == first).all(), timeout=10_000)
    assert len([layer for layer in viewer.layers if layer.name == "comparison"]) == 1
    viewer.layers.remove("comparison")  # as a user may
    assert not panel._blink.isActive()
    assert not panel.showing
    assert shown(viewer) == ["vis", "ir", "ir warped"]

    panel.compare()
    panel.wait()
    assert panel._blink.isActive()
    viewer.layers.remove("ir warped")
    assert not panel._blink.isActive()
    assert panel.layer is None
    assert shown(viewer) == ["vis", "ir"]
    assert panel.compare()  # what is left: the moving layer where it lies
    panel.wait()
    assert panel.moving.value == layers[1]
    assert not panel.before.isEnabled()
    assert "not made by" in panel.before.toolTip()


def test_what_cannot_be_compared_is_said_in_words(viewer, panel, notes, qtbot):
    for _ in range(2):
        panel.button.click()
        assert notes.pop()[1] == (
            "Compare: open two image layers, a visible one and an infrared or a warped one"
        )
        assert "open two image layers" in panel.hint.text()
        viewer.add_image(picture((4, *SHAPE)), name="vis")
    panel.fixed.value = panel.moving.value
    assert not panel.compare()
    assert "choose two different layers" in notes.pop()[1]
    panel.fixed.value, panel.moving.value = viewer.layers
    viewer.layers[1].translate = (0, 500, 0)
    assert not panel.measure()
    assert "do not overlap" in notes.pop()[1]
    viewer.layers[1].translate = (0, 5, 0)
    assert panel.compare()
    panel.wait()
    first = np.array(panel.layer.data)
    viewer.dims.set_current_step(0, 2)  # the comparison follows
    panel.wait()
    np.testing.assert_allclose(panel.layer.translate, (2, 0, 0))
    assert (panel.layer.data != first).any()
    viewer.dims.ndisplay = 3
    panel.wait()
    assert "switch it to 2D" in notes.pop()[1]
    viewer.dims.ndisplay = 2
    panel.wait()
    assert panel.hint.text() == ""
    panel.mode.value = "edges"
    viewer.layers["vis"].data = np.full((4, *SHAPE), np.nan)
    panel.wait()
    assert "layer 'vis': all pixels are NaN" in notes.pop()[1]
    panel.clear()
    assert shown(viewer) == ["vis", "vis [1]"]


def test_a_closed_panel_leaves_no_trace(viewer, panel, layers, qtbot):
    from qtpy.QtWidgets import QApplication

    panel.mode.value = "blink"
    panel.compare()
    panel.wait()
    viewer.window.remove_dock_widget(panel)
    assert shown(viewer) == ["vis", "ir", "ir warped"]
    viewer.window.add_dock_widget(panel)
    assert panel.compare()  # and now in the middle of a job
    with qtbot.waitSignal(panel.destroyed, timeout=5000):
        panel.deleteLater()
    viewer.add_image(picture(), name="later")  # would call a dead widget if it were connected
    viewer.layers["vis"].contrast_limits = (0, 9)
    QApplication.processEvents()
    assert shown(viewer) == ["vis", "ir", "ir warped", "later"]


def test_a_viewer_closes_on_a_running_comparison(viewer, panel, layers, qtbot):
    panel.mode.value = "blink"
    panel.compare()
    panel.wait()
    panel.measure()
    viewer.close()


def test_large_pyramids_are_compared_where_they_are_looked_at(viewer, panel, qtbot, monkeypatch):
    from napari_busref._napari.compare import panel as compare_widget

    small = partial(compare_widget.choose_region, pixels=64 * 64)
    monkeypatch.setattr(compare_widget, "choose_region", small)
    fine = picture((256, 256), seed=3)
    viewer.add_image([fine, fine[::2, ::2]], name="vis", multiscale=True, contrast_limits=(0, 255))
    viewer.add_image(fine, name="ir", contrast_limits=(0, 255))
    panel.mode.value = "swipe"
    panel.direction.value = 0
    assert panel.compare()
    panel.wait()
    assert "One pixel shown is 4 pixels of the visible layer; zoom in" in panel.legend.text()
    assert panel.layer.data.shape == (64, 64, 3)
    np.testing.assert_allclose(panel.layer.scale, (4, 4))
    # as napari reports it when the user has zoomed in
    panel.fixed.value.data_level = 0
    panel.fixed.value.corner_pixels = np.array([[100, 120], [139, 159]])
    viewer.scene.camera.zoom *= 2
    panel.wait()
    np.testing.assert_allclose(panel.layer.scale, (1, 1))
    np.testing.assert_allclose(panel.layer.translate, (95, 115))
    np.testing.assert_array_equal(panel.layer.data[:20, :, 0], fine[95:115, 115:165])
    assert "zoom in" not in panel.legend.text()


def test_opening_the_panel_does_not_load_torch(viewer):
    import subprocess

    code = "import sys, napari_busref._napari.compare.panel;print('torch' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "False"


def test_numbers_go_when_the_layers_or_the_plane_are_others(viewer, panel, qtbot):
    fixed = viewer.add_image(picture((3, *SHAPE)), name="vis")
    moving = viewer.add_image(picture((3, *SHAPE), seed=1), name="ir")
    viewer.dims.set_current_step(0, 1)

    def measure():
        panel.measure()
        panel.wait()
        assert panel.table.measured is not None and panel.save_button.isEnabled()

    def change_plane():
        viewer.dims.set_current_step(0, 2)

    def change_values():
        moving.data = picture((3, *SHAPE), seed=2)

    def change_place():
        moving.translate = (0, 1, 1)

    def change_layer():
        panel.moving.value, panel.fixed.value = fixed, moving

    def remove_layer():
        viewer.layers.remove(moving)

    for change in (change_plane, change_values, change_place, change_layer, remove_layer):
        measure()
        change()
        assert panel.table.measured is None and panel.table.rowCount() == 0, change.__name__
        assert not panel.save_button.isEnabled()


def test_numbers_of_a_plane_that_was_left_meanwhile_are_not_shown(viewer, panel, qtbot):
    viewer.add_image(picture((3, *SHAPE)), name="vis")
    viewer.add_image(picture((3, *SHAPE), seed=1), name="ir")
    panel.measure()
    viewer.dims.set_current_step(0, 2)
    panel.wait()
    assert panel.table.measured is None
    assert "measure again" in panel.note.text()
