"""The panel with the real pipeline, nothing replaced."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref.samples import thermal_scene


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


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (np.full((40, 50), np.nan), "moving"),
        (np.zeros((8, 8), np.uint8), "16"),
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
    from napari_busref.transform import Transform

    return Transform.equal_field_of_view(
        sample.truth.fixed_shape, sample.truth.moving_shape
    ).flow()
