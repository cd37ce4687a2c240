"""The panel 'Register and fuse' in a real viewer, with a pipeline that needs no model."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from napari_busref.transform import Transform

KEY = "napari-busref"
RESULTS = ["ir warped", "ir mask", "vis fused", "ir displacement"]


def picture(shape=(24, 36), seed=0, dtype=np.uint8):
    data = np.random.default_rng(seed).integers(0, 2 if dtype is bool else 200, shape)
    return data.astype(dtype)


@pytest.fixture
def pair(viewer):
    """A grey infrared and a colour layer."""
    fixed = viewer.add_image(picture((24, 36, 3)), name="vis", rgb=True)
    moving = viewer.add_image(picture(seed=1), name="ir", colormap="inferno")
    return moving, fixed


def names(viewer):
    return [layer.name for layer in viewer.layers]


def run_to_the_end(panel, qtbot):
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        assert panel.run()


def hold(panel, fake, qtbot):
    """Start a run and come back while it is in the middle."""
    fake.hold = True
    assert panel.run()
    qtbot.waitUntil(fake.holding.is_set, timeout=30_000)


# -- choosing ---------------------------------------------------------------------------------


def test_layers_are_guessed_and_never_the_same(viewer, panel):
    assert "two image layers" in panel.hint.text()
    first = viewer.add_image(picture(), name="thermal")
    assert "two image layers" in panel.hint.text()
    second = viewer.add_image(picture((24, 36, 3)), name="photo", rgb=True)
    assert (panel.moving.value, panel.fixed.value) == (first, second)
    assert panel.hint.text() == ""
    viewer.add_labels(picture(), name="labels")
    assert panel.moving.choices == (first, second)


def test_what_the_user_chose_is_kept_when_layers_come_and_go(viewer, panel, pair):
    moving, fixed = pair
    panel.moving.value, panel.fixed.value = fixed, moving
    third = viewer.add_image(picture((24, 36, 3)), name="visible rgb", rgb=True)
    assert (panel.moving.value, panel.fixed.value) == (fixed, moving)
    viewer.layers.remove(fixed)
    assert (panel.moving.value, panel.fixed.value) == (third, moving)
    moving.name = "renamed"
    assert panel.fixed.value == moving


def test_the_same_layer_twice_is_refused_in_words(viewer, panel, pair, fake, notes):
    panel.moving.value = pair[1]
    assert "'vis' is chosen as the infrared and as the visible layer" in panel.hint.text()
    assert not panel.run()
    assert notes[-1][0] == "error"
    assert "choose two different layers" in notes[-1][1]
    assert names(viewer) == ["vis", "ir"]
    assert not fake.calls
    panel.moving.value = pair[0]
    assert panel.hint.text() == ""


def test_no_layers_and_one_layer_are_refused_in_words(viewer, panel, fake, notes, qtbot):
    for _ in range(2):
        panel.button.click()
        assert notes.pop() == (
            "error",
            "Register and fuse: open two image layers, an infrared and a visible one",
        )
        assert not panel.running
        viewer.add_image(picture(), name="vis")


def test_models_and_devices_are_offered(panel):
    from napari_busref.models import list_models

    assert panel.model.choices == tuple(list_models("registration"))
    assert panel.fusion_model.choices == tuple(list_models("fusion"))
    assert (panel.model.value, panel.fusion_model.value) == ("auto", "gaf")
    assert panel.device.choices == ("auto", "cpu", "cuda", "mps")
    for control in (panel.moving, panel.fixed, panel.model, panel.fusion_model, panel.device):
        assert control.tooltip
        assert control.native.toolTip()


# -- a run ------------------------------------------------------------------------------------


def test_a_run_adds_four_layers_on_the_fixed_one(viewer, panel, pair, fake, qtbot):
    from napari.layers import Image, Labels, Vectors

    moving, fixed = pair
    fixed.scale, fixed.translate, fixed.rotate = (0.5, 0.25), (4, 6), 15
    fixed.units, fixed.axis_labels = ("um", "um"), ("y", "x")
    moving.scale, moving.translate = (0.5, 0.25), (4, 6)
    moving.units = ("um", "um")
    moving.contrast_limits = (10, 150)
    run_to_the_end(panel, qtbot)
    assert names(viewer) == ["vis", "ir", *RESULTS]
    warped, mask, fused, arrows = list(viewer.layers)[2:]
    assert [type(layer) for layer in (warped, mask, fused, arrows)] == [
        Image,
        Labels,
        Image,
        Vectors,
    ]
    for layer in (warped, mask, fused, arrows):
        assert layer.units == fixed.units
        assert layer.axis_labels == ("y", "x")
        for point in ((0, 0), (5, 11)):
            np.testing.assert_allclose(
                layer.data_to_world(point), fixed.data_to_world(point), atol=1e-6
            )
        known = layer.metadata[KEY]
        assert known["transform"] == panel.result.registration.transform
        assert known["quality"].score == 0.9
        assert known["parameters"]["fusion"] == {"model": "fake"}
        assert known["timings"]["registration"] == {"network": 0.01}
    assert warped.colormap.name == "inferno"
    assert tuple(warped.contrast_limits) == (10, 150)
    assert fused.rgb
    assert arrows.data.shape[1:] == (2, 2)
    assert "magnitude" in arrows.features
    start = fake.calls[0]["initial"]
    point = np.array([3.0, 8.0])
    np.testing.assert_allclose(
        start.points(point), moving.world_to_data(fixed.data_to_world(point)), atol=1e-6
    )


def test_the_work_runs_beside_the_main_thread_with_the_chosen_options(
    viewer, panel, pair, fake, qtbot
):
    panel.model.value, panel.fusion_model.value, panel.device.value = "identity", "average", "cpu"
    hold(panel, fake, qtbot)
    assert fake.threads[0] is not threading.main_thread()
    qtbot.waitUntil(lambda: panel.stage.text().startswith("aligning"), timeout=5000)
    assert panel.bar.value() == 250
    assert panel.button.text() == "Cancel"
    assert panel.running
    assert names(viewer) == ["vis", "ir"]
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        fake.go.set()
    call = fake.calls[0]
    assert (call["model"], call["fusion_model"], call["device"]) == ("identity", "average", "cpu")
    np.testing.assert_array_equal(call["fixed"], pair[1].data)
    np.testing.assert_array_equal(call["moving"], pair[0].data)
    assert call["initial"] == Transform.identity((24, 36))
    assert panel.button.text() == "Register and fuse"
    assert panel.bar.value() == panel.bar.maximum()
    assert panel.stage.text().startswith("done")


def test_a_second_run_updates_the_same_layers(viewer, panel, pair, fake, qtbot):
    run_to_the_end(panel, qtbot)
    first = list(viewer.layers)
    assert (panel.moving.value, panel.fixed.value) == pair  # not the results
    first[2].colormap = "viridis"
    fake.shift = (0.0, 1.0)
    panel.device.value = "cpu"
    run_to_the_end(panel, qtbot)
    assert list(viewer.layers) == first
    assert first[2].colormap.name == "viridis"
    np.testing.assert_allclose(first[5].data[:, 1], np.tile([0.0, 1.0], (len(first[5].data), 1)))
    assert fake.calls[1]["device"] == "cpu"


def test_the_quality_is_said_in_words(viewer, panel, pair, fake, notes, qtbot):
    run_to_the_end(panel, qtbot)
    assert "looks right" in panel.quality.text()
    assert "0.20 → 0.50" in panel.quality.text()
    reliable = panel.quality.styleSheet()
    assert not [note for note in notes if note[0] == "warning"]
    fake.reliable = False
    run_to_the_end(panel, qtbot)
    assert "Check the result" in panel.quality.text()
    assert "edges &lt;do not&gt; agree" in panel.quality.text()
    assert panel.quality.styleSheet() not in ("", reliable)
    assert notes[-1][0] == "warning"
    assert "edges <do not> agree" in notes[-1][1]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float64])
def test_layers_of_any_type(viewer, panel, fake, qtbot, dtype):
    viewer.add_image(picture(dtype=dtype), name="vis")
    viewer.add_image(picture((30, 50), seed=1, dtype=dtype), name="ir")
    run_to_the_end(panel, qtbot)
    assert names(viewer) == ["vis", "ir", *RESULTS]
    assert viewer.layers["ir warped"].data.dtype == dtype
    assert viewer.layers["ir warped"].data.shape == (24, 36)
    assert fake.calls[0]["initial"] is None  # nothing is known about where they lie


def test_the_shown_plane_of_a_stack_and_of_a_pyramid(viewer, panel, fake, qtbot):
    stack = viewer.add_image(picture((4, 24, 36)), name="vis", scale=(5, 1, 1))
    full = picture((4, 24, 36), seed=1)
    pyramid = viewer.add_image(
        [full, full[:, ::2, ::2]], name="ir", scale=(5, 1, 1), multiscale=True
    )
    viewer.dims.set_current_step(0, 2)
    run_to_the_end(panel, qtbot)
    np.testing.assert_array_equal(fake.calls[0]["fixed"], stack.data[2])
    np.testing.assert_array_equal(fake.calls[0]["moving"], pyramid.data[0][2])
    for name in RESULTS:
        layer = viewer.layers[name]
        assert layer.ndim == 3
        np.testing.assert_allclose(layer.data_to_world((0, 1, 1)), stack.data_to_world((2, 1, 1)))
    viewer.dims.ndisplay = 3
    assert not panel.run()
    assert "switch it to 2D" in panel.quality.text()


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("moving: got only NaN"), "moving: got only NaN"),
        (RuntimeError("mat1 and mat2"), "RuntimeError: mat1 and mat2"),
        (RuntimeError("CUDA out of memory"), "choose the cpu device"),
        (MemoryError(), "not enough memory"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_an_error_is_notified_and_changes_nothing(
    viewer, panel, pair, fake, notes, qtbot, error, expected
):
    fake.error = error
    run_to_the_end(panel, qtbot)
    assert notes[-1][0] == "error"
    assert expected in notes[-1][1]
    assert expected in panel.quality.text()
    assert names(viewer) == ["vis", "ir"]
    assert panel.result is None
    assert panel.button.isEnabled()
    fake.error = None
    run_to_the_end(panel, qtbot)
    assert names(viewer) == ["vis", "ir", *RESULTS]
    assert "not enough memory" not in panel.quality.text()


def test_an_error_leaves_earlier_results_as_they_are(viewer, panel, pair, fake, qtbot):
    run_to_the_end(panel, qtbot)
    before = viewer.layers["ir warped"].data
    fake.error, fake.shift = RuntimeError("no"), (5.0, 5.0)
    run_to_the_end(panel, qtbot)
    assert len(viewer.layers) == 6
    assert viewer.layers["ir warped"].data is before


def test_an_error_while_layers_are_added_is_notified(
    viewer, panel, pair, fake, notes, qtbot, monkeypatch
):
    def broken(*args):
        raise OSError("disk")

    monkeypatch.setattr("napari_busref._napari.register_widget.result_layers", broken)
    run_to_the_end(panel, qtbot)
    assert notes[-1] == ("error", "Register and fuse: disk")
    assert names(viewer) == ["vis", "ir"]


def test_a_warning_in_the_worker_becomes_a_notification(viewer, panel, pair, fake, notes, qtbot):
    fake.warning = "half of the pixels are NaN"
    run_to_the_end(panel, qtbot)
    assert any("half of the pixels" in text for kind, text in notes if kind == "warning")
    assert len(viewer.layers) == 6


def test_layers_that_do_not_overlap_are_refused(viewer, panel, pair, fake, notes):
    pair[0].translate = (10_000, 0)
    assert not panel.run()
    assert "'ir' and 'vis' do not overlap" in notes[-1][1]
    assert not fake.calls
    assert not panel.running


# -- stopping ---------------------------------------------------------------------------------


def test_cancel_stops_and_changes_nothing(viewer, panel, pair, fake, notes, qtbot):
    hold(panel, fake, qtbot)
    with qtbot.waitSignal(panel.idle, timeout=5000):
        panel.button.click()
        assert panel.button.text() == "Cancelling…"
    assert fake.cancelled.is_set()
    assert names(viewer) == ["vis", "ir"]
    assert panel.button.text() == "Register and fuse"
    assert panel.button.isEnabled()
    assert "cancelled" in panel.stage.text()
    assert not [note for note in notes if note[0] == "error"]
    fake.hold = False
    run_to_the_end(panel, qtbot)
    assert len(viewer.layers) == 6


def test_cancel_that_comes_too_late_still_adds_nothing(viewer, panel, pair, fake, qtbot):
    """The call returns a result although it was asked to stop."""
    fake.hold = True
    original = fake.result

    def slow(*args):
        panel._stopper.job.cancel.wait(10)
        return original(*args)

    fake.result = slow
    hold(panel, fake, qtbot)
    fake.go.set()
    with qtbot.waitSignal(panel.idle, timeout=5000):
        panel.cancel()
    assert names(viewer) == ["vis", "ir"]
    assert "cancelled" in panel.stage.text()


def test_a_second_press_does_not_start_a_second_run(viewer, panel, pair, fake, notes, qtbot):
    hold(panel, fake, qtbot)
    assert not panel.run()
    assert "a run is going on" in notes[-1][1]
    with qtbot.waitSignal(panel.idle, timeout=5000):
        fake.go.set()
    assert len(fake.calls) == 1
    assert len(viewer.layers) == 6


@pytest.mark.parametrize("removed", [("ir",), ("vis",), ("ir", "vis")])
def test_layers_removed_during_the_run(viewer, panel, pair, fake, notes, qtbot, removed):
    pair[1].scale = pair[0].scale = (2, 3)
    hold(panel, fake, qtbot)
    for name in removed:
        viewer.layers.remove(name)
    with qtbot.waitSignal(panel.idle, timeout=5000):
        fake.go.set()
    assert [name for name in names(viewer) if name not in ("ir", "vis")] == RESULTS
    np.testing.assert_array_equal(viewer.layers["ir warped"].scale, (2, 3))
    for name in removed:
        assert any(f"'{name}' was removed" in text for _, text in notes)


def test_closing_the_panel_stops_its_run(viewer, panel, pair, fake, qtbot):
    from qtpy.QtWidgets import QApplication

    hold(panel, fake, qtbot)
    viewer.window.remove_dock_widget(panel)
    panel.deleteLater()
    del panel
    qtbot.waitUntil(fake.cancelled.is_set, timeout=5000)
    viewer.add_image(picture(), name="later")  # would call a dead widget if it were connected
    QApplication.processEvents()
    assert names(viewer) == ["vis", "ir", "later"]


def test_closing_the_viewer_stops_the_run(viewer, panel, pair, fake, qtbot):
    hold(panel, fake, qtbot)
    viewer.close()
    qtbot.waitUntil(fake.cancelled.is_set, timeout=5000)


def test_a_finished_job_keeps_no_images(viewer, panel, pair, fake, qtbot):
    fake.hold = True
    assert panel.run()
    job = panel._stopper.job
    qtbot.waitUntil(fake.holding.is_set, timeout=30_000)
    with qtbot.waitSignal(panel.idle, timeout=5000):
        fake.go.set()
    assert job._call is None
    assert panel._request is None


def test_wait_serves_the_window_until_the_end(viewer, panel, pair, fake):
    panel.wait()  # nothing runs: returns at once
    assert panel.run()
    panel.wait()
    assert not panel.running
    assert len(viewer.layers) == 6
