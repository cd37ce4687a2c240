"""The panel with the real pipeline."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref.data.samples import thermal_scene

pytest.importorskip("napari")

from napari_busref._napari.register.settings import Settings


def run_to_the_end(panel, qtbot):
    panel.device.value = "cpu"
    with qtbot.waitSignal(panel.idle, timeout=300_000):
        assert panel.run()


def use_untrained_models(panel):
    panel.model.value, panel.fusion_model.value = "identity", "laplacian"


def test_models_without_weights_run_in_the_panel(viewer, panel, qtbot):
    sample = thermal_scene(seed=1, shape=(96, 128))
    viewer.add_image(sample.fixed, name="visible", rgb=True)
    viewer.add_image(sample.moving[::2, ::2].astype(">u2") * 100, name="infrared")
    use_untrained_models(panel)
    run_to_the_end(panel, qtbot)
    assert panel.result is not None, panel.quality.text()
    warped = viewer.layers["infrared warped"]
    assert warped.data.shape == (96, 128)
    assert warped.data.dtype == np.uint16
    assert viewer.layers["visible fused"].data.shape == (96, 128, 3)
    assert viewer.layers["infrared displacement"].metadata["napari-busref"]["timings"]["fusion"]
    assert "edge agreement" in panel.quality.text()


def test_the_weights_of_refusions_loss_become_a_layer(viewer, panel, qtbot):
    sample = thermal_scene(seed=1, shape=(64, 96))
    viewer.add_image(sample.fixed, name="visible", rgb=True)
    viewer.add_image(sample.moving, name="infrared")
    panel.model.value, panel.fusion_model.value = "identity", "refusion"
    panel.advanced.controls["weights"].value = True
    run_to_the_end(panel, qtbot)
    weights = viewer.layers["infrared weights of the loss"].data
    assert weights.shape == (64, 96)
    assert 0 < weights.max() <= 1
    assert weights.std() > 0


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (np.full((40, 50), np.nan), "moving"),
        (np.zeros((8, 8), np.uint8), "16"),
        (np.zeros((1, 1), np.uint8), "1 x 1 px"),
    ],
)
def test_what_cannot_be_registered_is_notified(viewer, panel, notes, qtbot, data, expected):
    sample = thermal_scene(seed=1, shape=(64, 64))
    viewer.add_image(sample.fixed, name="visible", rgb=True)
    viewer.add_image(data, name="infrared")
    use_untrained_models(panel)
    run_to_the_end(panel, qtbot)
    assert panel.result is None
    assert notes[-1][0] == "error"
    assert expected in notes[-1][1]
    assert len(viewer.layers) == 2
    assert panel.button.isEnabled()


def test_events_are_served_while_the_real_work_runs_beside_the_main_thread(viewer, panel, qtbot):
    import threading

    from qtpy.QtCore import QTimer

    from napari_busref import registration

    sample = thermal_scene(seed=1, shape=(128, 128))
    viewer.add_image(sample.fixed, name="visible", rgb=True)
    viewer.add_image(sample.moving, name="infrared")
    threads, beats = [], []
    original = registration.register

    def register(*args, **kwargs):
        threads.append(threading.current_thread())
        return original(*args, **kwargs)

    timer = QTimer()
    timer.timeout.connect(lambda: beats.append(panel.stage.text().split(" · ")[0]))
    timer.start(1)
    panel.settings = Settings(
        model="identity", refine="affine", device="cpu", fused=False, displacement="lengths"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "register", register)
        with qtbot.waitSignal(panel.idle, timeout=300_000):
            assert panel.run()
    timer.stop()
    assert len(threads) == 1 and threads[0] is not threading.main_thread()
    assert len(set(beats)) > 2  # in several stages, not only before and after
    assert [layer.metadata["napari-busref"]["role"] for layer in list(viewer.layers)[2:]] == [
        "warped",
        "mask",
        "magnitude",
    ]
    for number in ("shift", "rotation", "scale", "largest displacement", "overlap"):
        assert number in panel.quality.text()


@pytest.mark.slow
def test_the_panel_registers_and_fuses_with_the_shipped_weights(viewer, panel, qtbot):
    sample = thermal_scene(seed=0, shape=(192, 256))
    viewer.add_image(sample.fixed, name="visible", rgb=True)
    viewer.add_image(sample.moving, name="infrared")
    panel.device.value = "cpu"
    with qtbot.waitSignal(panel.idle, timeout=300_000):
        assert panel.run()
    assert panel.result is not None, panel.quality.text()
    assert [layer.name for layer in viewer.layers][2:] == [
        "infrared warped",
        "infrared mask",
        "visible fused",
        "infrared displacement",
    ]
    found = panel.result.registration
    inside = found.mask & sample.truth.mask()
    start = flow_at_the_start(sample)
    error = np.hypot(*(found.flow - sample.truth.flow()))[inside].mean()
    before = np.hypot(*(start - sample.truth.flow()))[inside].mean()
    assert error < before / 2
    fused = viewer.layers["visible fused"].data
    assert fused.shape == sample.fixed.shape
    assert np.isfinite(fused).all()
    assert np.array_equal(fused[~found.mask], sample.fixed[~found.mask])


def flow_at_the_start(sample):
    from napari_busref.transforms.transform import Transform

    return Transform.equal_field_of_view(
        sample.truth.fixed_shape, sample.truth.moving_shape
    ).flow()
