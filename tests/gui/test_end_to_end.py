"""The panel with the shipped weights on a built-in sample, nothing replaced."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_busref.samples import thermal_scene

from napari_busref.models import card


def weights_are_shipped():
    try:
        return bool(card("busref")) and bool(card("gaf"))
    except (ValueError, OSError, KeyError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not weights_are_shipped(), reason="no trained weights are in this checkout")
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
