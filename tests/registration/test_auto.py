"""The default model, by `register`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_busref import Transform, load_sample, register
from synthetic_pairs import SHAPE, moved, texture

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.mark.parametrize("name", ["thermal", "stain"])
def test_auto_on_the_samples(name):
    sample = load_sample(name)
    result = register(sample.fixed, sample.moving, device="cpu")
    points = np.argwhere(sample.truth.mask())[::97]
    truth = sample.truth.points(points)
    assert np.hypot(*(result.transform.points(points) - truth).T).mean() < 5
    if name == "thermal":  # what the score is calibrated for
        assert result.quality.reliable
    evidence = result.quality.evidence
    # the edges confirm the network's proposal for the thermal pair
    assert "busref" in evidence.candidates and "superfusion" not in evidence.candidates
    assert ("search" in evidence.candidates) == (name == "stain")
    assert {"busref", "judge", "refine", "agreement"} <= set(result.timings)
    assert result.quality.min_jacobian > 0


def test_images_that_share_nothing_stay_where_they_are():
    result = register(texture(seed=1), texture(seed=2), device="cpu")
    assert not result.quality.reliable
    assert result.transform == Transform.identity(SHAPE)
    assert "an initial transform may help" in result.quality.reasons[0]


def test_start_from_points():
    truth = moved(row=40, col=-50, angle=25)
    image = texture()
    moving = truth.inverse().apply(image, cval=0)
    fixed_points = np.array([[20.0, 30], [100, 40], [60, 150], [120, 160]])
    result = register(
        image,
        moving,
        initial=(fixed_points, truth.points(fixed_points) + 2),
        model="identity",
        refine="affine",
        device="cpu",
    )
    assert result.parameters["initial"] == "points"
    points = np.argwhere(truth.mask())[::53]
    off = np.hypot(*(result.transform.points(points) - truth.points(points)).T)
    assert off.mean() < 1


def test_different_pixel_sizes():
    truth = moved(row=6, col=-9, angle=4)
    image = texture()
    moving = ndimage.zoom(truth.inverse().apply(image, cval=0), 2, order=1)
    result = register(image, moving, device="cpu")
    grown = (moving.shape[0] - 1) / (SHAPE[0] - 1)
    points = np.argwhere(truth.mask())[::53]
    off = np.hypot(*(result.transform.points(points) / grown - truth.points(points)).T)
    assert off.mean() < 2


def test_half_empty_images():
    truth = moved(row=6, col=-9)
    image = texture()
    moving = truth.inverse().apply(image, cval=0)
    moving[:, :90] = np.nan
    result = register(image, moving, device="cpu")
    assert np.isfinite(result.flow).all()
    points = np.argwhere(result.mask)[::53]
    if result.quality.reliable:
        off = np.hypot(*(result.transform.points(points) - truth.points(points)).T)
        assert off.mean() < 5
