"""Large images run at half the resolution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_busref import fuse, load_model
from napari_busref.fusion import halving
from napari_busref.fusion.halving import fuse_halved, halve


def texture(seed: int, shape=(301, 259)):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def test_equal_images_stay_but_for_the_gain_of_the_finest_band():
    image = texture(0)
    fused = fuse_halved(lambda visible, infrared: visible, image, image)
    blurred = ndimage.gaussian_filter(image, 1.0)
    np.testing.assert_allclose(fused, image, atol=0.05)
    fine = image - blurred
    assert np.polyfit(fine.ravel(), (fused - image).ravel(), 1)[0] > 0


def test_the_finest_band_is_that_of_the_stronger_source():
    shape = (120, 120)
    fine = 0.1 * (np.indices(shape).sum(0) % 2 - 0.5).astype(np.float32)
    left = np.indices(shape)[1] < 60
    visible, infrared = (0.5 + np.where(area, fine, 0) for area in (left, ~left))
    fused = fuse_halved(
        lambda a, b: (a + b) / 2, *(x.astype(np.float32) for x in (visible, infrared))
    )
    expected = 0.5 + 1.16 * fine
    inner = np.s_[:, list(range(50)) + list(range(70, 120))]
    np.testing.assert_allclose(fused[inner], expected[inner], atol=0.005)


def test_strips_leave_no_seam(monkeypatch):
    pair = texture(0), texture(1)
    whole = fuse_halved(lambda a, b: (a + b) / 2, *pair)
    monkeypatch.setattr(halving, "_ROWS", 32)
    np.testing.assert_allclose(fuse_halved(lambda a, b: (a + b) / 2, *pair), whole, atol=1e-6)


def test_halves_are_means():
    image = np.arange(15, dtype=np.float32).reshape(3, 5)
    np.testing.assert_allclose(halve(image), [[3, 5, 6.5], [10.5, 12.5, 14]])


@pytest.mark.slow
def test_large_images_in_tiles_of_any_size():
    """Above 2.5 megapixels, `gaf` runs halved; tiles leave no seam of a grey level."""
    visible, infrared = texture(0, (1700, 1600)), texture(1, (1700, 1600))
    model = load_model("gaf", kind="fusion", device="cpu")
    options = {"model": model, "device": "cpu", "mask": np.ones(visible.shape, bool)}
    whole = fuse(visible, infrared, tile=None, **options).fused
    tiled = fuse(visible, infrared, tile=600, **options)
    assert tiled.parameters["tile"] == 600
    assert np.abs(tiled.fused - whole).max() < 1 / 255
