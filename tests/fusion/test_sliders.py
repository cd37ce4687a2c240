"""The preview of the sliders."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref import fuse
from napari_busref.data.samples import thermal_scene
from napari_busref.fusion.sliders import SliderPreview


@pytest.fixture(scope="module")
def pair():
    sample = thermal_scene(shape=(96, 128))
    mask = np.ones((96, 128), bool)
    mask[:, :20] = False
    return sample.fixed, sample.aligned, mask


@pytest.mark.parametrize("sliders", [(0.5, 0.5), (0.9, 0.5), (0.2, 0.8)])
def test_small_images_are_previewed_as_they_will_be_fused(pair, sliders):
    fixed, moving, mask = pair
    preview = SliderPreview(fixed, moving, mask, model="laplacian", device="cpu")
    assert preview.step == 1
    infrared, detail = sliders
    options = {"model": "laplacian", "device": "cpu", "infrared": infrared, "detail": detail}
    fused = fuse(fixed, moving, mask=mask, **options).fused
    assert np.array_equal(preview.picture(infrared, detail), fused)


def test_larger_images_are_coarse_first(pair, monkeypatch):
    fixed, moving, mask = pair
    monkeypatch.setattr("napari_busref.fusion.sliders.PREVIEW_PIXELS", 96 * 128 // 4)
    preview = SliderPreview(fixed, moving, mask, model="average", device="cpu")
    assert preview.step == 2
    assert preview.picture().shape == (48, 64, 3)
    assert np.array_equal(preview.picture()[:, :9], fixed[::2, ::2][:, :9])
    assert not np.array_equal(preview.picture(0.9), preview.picture(0.1))


def test_nothing_to_fuse_is_no_error(pair):
    fixed, moving, mask = pair
    preview = SliderPreview(fixed, moving, ~mask & mask, model="average", device="cpu")
    assert np.array_equal(preview.picture(0.9), fixed)
