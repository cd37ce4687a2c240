"""Structure before a bright sky."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_busref import fuse
from napari_busref.fusion.skies import settle_skies

SHAPE = (160, 200)
AT, OFF = 100, 5  # column of a branch, and how far beside it the infrared image shows it


def branch(sky: float, branch: float, column: int):
    rng = np.random.default_rng(0)
    image = np.full(SHAPE, sky) + 0.01 * rng.standard_normal(SHAPE)
    image[:, column : column + 3] = branch
    return ndimage.gaussian_filter(image, 0.7).clip(0, 1).astype(np.float32)


def line(image: np.ndarray, column: int) -> float:
    """How much brighter a branch is than its surroundings."""
    profile = image.mean(0)
    return float((profile - ndimage.gaussian_filter1d(profile, 4))[column + 1])


def test_a_bare_branch_is_one_line():
    visible, infrared = branch(0.9, 0.1, AT), branch(0.2, 0.8, AT + OFF)
    lines = [line(image, AT + OFF) for image in (infrared, settle_skies(visible, infrared))]
    assert lines[0] > 0.4
    assert abs(lines[1]) < 0.15
    fused = fuse(visible, infrared, model="gaf", device="cpu").fused
    assert line(fused, AT) < -0.5
    assert line(fused, AT + OFF) < 0.15  # without the decision .30


def test_aligned_structure_stays():
    visible, infrared = branch(0.9, 0.1, AT), branch(0.2, 0.8, AT)
    np.testing.assert_allclose(settle_skies(visible, infrared), infrared, atol=0.02)


@pytest.mark.parametrize("sky", [0.3, 0.5])
def test_without_a_bright_sky_nothing_changes(sky):
    visible, infrared = branch(sky, 0.9, AT), branch(0.2, 0.8, AT + OFF)
    assert settle_skies(visible, infrared) is infrared


def test_what_only_the_infrared_image_shows_stays():
    """A warm bird before an empty sky."""
    visible = np.full(SHAPE, 0.9, np.float32)
    infrared = branch(0.2, 0.8, AT)
    np.testing.assert_allclose(settle_skies(visible, infrared), infrared, atol=0.02)
