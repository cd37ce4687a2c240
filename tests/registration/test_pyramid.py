"""Pyramid levels, working sizes and resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_busref.geometry import (
    Estimate,
)
from napari_busref.registration.bsplines import KNOT_SPACING, MAX_CONTROL_POINTS, spline_design
from napari_busref.registration.pyramid import (
    downsample,
    pixel_scale,
    pyramid_schedule,
    resample,
    working_size,
)
from synthetic_pairs import SHAPE, texture, view

pytestmark = pytest.mark.usefixtures("without_gradients")


def test_working_sizes():
    assert working_size((480, 640), 128) == (112, 144)
    assert working_size((100, 60), 2048) == (96, 64)  # multiples of 8, not enlarged else
    assert min(working_size((20, 400), 128)) >= 48


def test_pixel_scale():
    theta = torch.tensor([[[0.5, 0, 0], [0, 0.25, 0]]])
    assert float(pixel_scale(theta, (100, 100), (400, 200))) == pytest.approx(1.0)


def test_moving_images_shrink_by_the_factor():
    image = view(texture())
    rows, cols = image.shape
    assert downsample(image, 1.1) is image
    assert downsample(image, 1.2).shape == (round(rows / 1.2), round(cols / 1.2))
    assert downsample(image, 1e3).shape == (16, 16)


def test_resample_says_where_the_moving_image_ends():
    shifted = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]])
    seen = resample(view(texture()), Estimate(shifted), SHAPE)
    assert seen.valid[0, 0, :, :140].all()
    assert not seen.valid[0, 0, :, 146:].any()


def test_large_images_are_refined_step_by_step():
    plan = pyramid_schedule("dense", "affine", (2048, 2048))
    assert [level.side for level in plan if level.model == "dense"] == [512, 1024, 2048]
    assert [level.side for level in plan if level.model == "affine"] == [128, 128, 192, 288]
    assert pyramid_schedule("dense", "homography", (400, 400))[-2].model == "homography"
    small = pyramid_schedule("affine", "affine", (90, 90))
    assert [(level.model, level.side) for level in small] == [("affine", 90.0)] * 2
    assert pyramid_schedule("none", "affine", (90, 90)) == ()


def test_a_near_start_is_looked_at_closely_at_once():
    plan = pyramid_schedule("dense", "affine", (400, 400), near=True)
    assert [(level.model, level.side) for level in plan] == [("affine", 192), ("dense", 400)]
    flat = pyramid_schedule("dense", "homography", (400, 400), near=True)
    assert [level.side for level in flat] == [192, 288, 400]


@pytest.mark.parametrize("shape", [(16, 4000), (400, 16), (16, 200), (64, 1600), (17, 20000)])
@pytest.mark.parametrize("side", [64, 128, 200, 288, 640])
def test_a_strip_is_as_much_work_as_a_square(shape, side):
    rows, cols = working_size(shape, side)
    assert min(rows, cols) >= 48
    wanted = max(min(side**2, shape[0] * shape[1]), 48**2)
    assert rows * cols <= 4 * wanted + 8 * max(rows, cols)


@pytest.mark.parametrize("shape", [(16, 20), (480, 640), (300, 1200), (90, 30)])
def test_ordinary_sizes_keep_their_aspect(shape):
    for side in (64, 128, 288, 640):
        factor = max(min(side / (shape[0] * shape[1]) ** 0.5, 1.0), 48 / min(shape))
        assert working_size(shape, side) == tuple(round(n * factor / 8) * 8 for n in shape)


def test_control_points_of_a_strip_are_bounded():
    position = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    for aspect, few in ((1, 256), (4, MAX_CONTROL_POINTS), (30, MAX_CONTROL_POINTS)):
        basis, counts = spline_design(position, (1.0, aspect), KNOT_SPACING)
        assert basis.shape == (50, counts[0] * counts[1])
        assert counts[0] * counts[1] <= few
        np.testing.assert_allclose(basis.sum(1), 1)
    assert spline_design(position, (1.0, 4.0), KNOT_SPACING)[1] == (16, 56)
