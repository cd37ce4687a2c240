"""The grid on which a large fixed image is registered."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_busref import register
from napari_busref.geometry import Estimate, identity_theta
from napari_busref.registration.prepare import _working_shape, prepare_pair
from napari_busref.transforms.transform import Transform


@pytest.mark.parametrize(
    ("fixed", "moving", "working"),
    [
        ((3000, 4000), (120, 160), (480, 640)),  # 4 pixels for each of the drone's
        ((3000, 4000), (3000, 4000), (1776, 2368)),
        ((3000, 4000), (512, 640), (1776, 2368)),
        ((900, 1200), (30, 40), (440, 592)),  # 512 px on each side at least
        ((480, 640), (120, 160), (480, 640)),
        ((480, 640), (60, 80), (440, 592)),
        ((500, 500), (20, 20), (500, 500)),
        ((2048, 2048), (512, 512), (2048, 2048)),
        ((1024, 1280), (512, 640), (1024, 1280)),
        ((240, 320), (480, 640), (240, 320)),
    ],
)
def test_the_working_grid_suits_the_coarser_image(fixed, moving, working):
    initial = Transform.equal_field_of_view(fixed, moving)
    assert _working_shape(fixed, initial) == working


def pattern(shape):
    rows, cols = ((np.arange(n) + 0.5) * 7 / n for n in shape)
    return 0.5 + 0.4 * np.sin(rows[:, None] ** 1.5) * np.cos(cols**1.3)


def test_a_reduced_pair_keeps_what_it_shows():
    fixed, moving = pattern((600, 800)), pattern((30, 40))
    fixed[:100] = np.nan
    pair = prepare_pair(fixed, moving)
    assert pair.shape == (600, 800)
    rows, cols = pair.fixed.shape
    assert (rows, cols) == (440, 592)
    assert pair.warped.shape == pair.warped_mask.shape == pair.fixed.shape
    edge = 100 * rows / 600
    assert not pair.fixed.valid[: int(edge)].any()
    assert pair.fixed.valid[int(edge) + 2 :].all()
    assert not pair.fixed.grey[~pair.fixed.valid].any()
    inside = pair.warped_mask & pair.fixed.valid
    np.testing.assert_allclose(pair.fixed.grey[inside], pair.warped[inside], atol=0.06)


def test_scattered_pixels_that_are_no_numbers_leave_no_hole_in_any_level():
    fixed, moving = pattern((96, 128)), pattern((96, 128))
    clean = prepare_pair(fixed, moving)
    rng = np.random.default_rng(0)
    for image in (fixed, moving):
        image[rng.random(image.shape) < 0.1] = np.nan
        image[rng.random(image.shape) < 0.02] = np.inf
        image[rng.random(image.shape) < 0.02] = -np.inf
        image[:, 20], image[40:52, 60:75] = np.nan, np.nan  # a dead column, and a true hole
    use = np.ones(moving.shape, bool)
    use[70, 70] = False
    pair = prepare_pair(fixed, moving, moving_mask=use)
    hole = np.zeros(fixed.shape, bool)
    hole[40:52, 60:75] = True
    assert not (pair.fixed.valid & hole).any() and pair.fixed.valid.mean() > 0.97
    assert pair.moving.valid[:, 20].all() and not pair.moving.valid[70, 70]
    np.testing.assert_array_equal(pair.moving_valid, np.isfinite(moving) & use)
    apart = np.abs(pair.moving.grey - clean.moving.grey)[pair.moving.valid]
    assert apart.mean() < 0.02


def test_a_transform_on_the_working_grid_agrees_at_its_pixels():
    shape, moving = (600, 800), (30, 40)
    pair = prepare_pair(pattern(shape), pattern(moving))
    rows, cols = np.mgrid[: shape[0], : shape[1]] / 60
    bent = np.stack([np.sin(cols), np.cos(rows)]).astype(np.float32)
    initial = Transform.equal_field_of_view(shape, moving)
    given = Transform(initial.affine, 5 * bent, fixed_shape=shape, moving_shape=moving)
    working = pair.on_working_grid(given)
    grid = np.stack(np.indices(pair.fixed.shape), -1).reshape(-1, 2)
    step = np.array(shape) / pair.fixed.shape
    there = given.points((grid + 0.5) * step - 0.5)
    np.testing.assert_allclose(working.points(grid), there, atol=1e-4)
    same = prepare_pair(pattern((60, 80)), pattern((60, 80)))
    assert same.on_working_grid(same.initial) is same.initial


def test_the_result_has_the_grid_of_the_fixed_image():
    class Tenth(torch.nn.Module):
        def forward(self, fixed, moving, moving_valid=None, reporter=None):
            theta = identity_theta(1, fixed)
            theta[0, 0, 2] = 0.2
            return Estimate(theta, fixed.new_zeros(1, 2, 8, 8))

    shape = (600, 800)
    result = register(pattern(shape), pattern((30, 40)), model=Tenth(), device="cpu")
    assert result.warped.shape == result.mask.shape == shape
    assert result.transform.displacement is not None
    assert result.quality.shift_px == pytest.approx(80, abs=0.1)
    assert result.quality.overlap == pytest.approx(result.mask.mean(), abs=0.01)
    assert result.parameters["fixed_shape"] == [600, 800]
    expected = Transform.equal_field_of_view(shape, (30, 40)).points([[300, 400 + 80]])
    np.testing.assert_allclose(result.transform.points([[300, 400]]), expected, atol=1e-3)
