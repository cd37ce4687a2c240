"""Synthetic warps on the device against the protocol, and the reconstructible mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_busref.geometry import base_grid, inside, invert_affine, warp
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.batches.warps import Warps, draw_warps, fixed_to_moving
from napari_busref.training.recipe import DataConfig, WarpConfig

SHAPE = (96, 144)


@pytest.fixture
def warps() -> Warps:
    torch.manual_seed(0)
    return draw_warps(WarpConfig(), 6, SHAPE, torch.zeros(1))


def _pixels(difference: Tensor) -> Tensor:
    return (difference * torch.tensor([SHAPE[1] / 2, SHAPE[0] / 2])).square().sum(-1).sqrt()


def test_draws_stay_in_the_ranges_of_the_protocol() -> None:
    torch.manual_seed(1)
    drawn = draw_warps(WarpConfig(), 200, SHAPE, torch.zeros(1))
    extent = torch.tensor([float(SHAPE[1]), float(SHAPE[0])])
    linear = drawn.theta[:, :, :2] * extent[None, :, None] / extent[None, None, :]
    angle = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
    scale = linear[:, :, 0].norm(dim=1)
    assert angle.abs().max() <= 10.001 and angle.abs().max() > 8
    assert 0.9 - 1e-4 <= scale.min() < 0.92 and 1.08 < scale.max() <= 1.1 + 1e-4
    assert 0.14 < drawn.theta[:, :, 2].abs().max() <= 0.16 + 1e-6
    largest = _pixels(drawn.elastic.permute(0, 2, 3, 1)).amax((1, 2)) / min(SHAPE)
    assert largest.min() >= 0.02 - 1e-4 and largest.max() <= 0.04 + 1e-4


def test_inverse_returns_to_where_it_started(warps: Warps) -> None:
    points = base_grid(*SHAPE, warps.theta)
    back = warps.aligned_points(warps.source_points(points, iterations=30))
    assert _pixels(back - points).max() < 0.02


def test_coarse_inverse_is_good_to_a_fraction_of_a_pixel(warps: Warps) -> None:
    points = base_grid(*SHAPE, warps.theta)
    exact = warps.source_points(points, iterations=30)
    assert _pixels(fixed_to_moving(warps, SHAPE) - exact).mean() < 0.05


def test_paper_inverse_is_near_but_not_exact(warps: Warps) -> None:
    """``-phi`` is an approximation of the inverse field: off by less than the field itself."""
    points = base_grid(*SHAPE, warps.theta)
    error = _pixels(warps.approximate_source_points(points) - warps.source_points(points))
    assert 0.005 < error.mean() < _pixels(warps.elastic.permute(0, 2, 3, 1)).mean()


def test_affine_inverse_is_the_papers() -> None:
    theta = torch.tensor([[[1.1, 0.2, 0.3], [-0.1, 0.9, -0.2]]])
    inverse = invert_affine(theta)
    a, d = theta[0, :, :2].double(), theta[0, :, 2].double()
    np.testing.assert_allclose(inverse[0, :, :2].numpy(), np.linalg.inv(a.numpy()), rtol=1e-5)
    np.testing.assert_allclose(
        inverse[0, :, 2].numpy(), -np.linalg.inv(a.numpy()) @ d.numpy(), rtol=1e-5
    )


def test_moving_images_undo_to_the_aligned_ones(store: PairStore) -> None:
    """Resampling the drawn moving image at the true positions gives the aligned image back."""
    torch.manual_seed(3)
    crops = store.draw_warped(4, DataConfig(crop_side=64), WarpConfig(beyond=0.0))
    size = (crops.fixed.shape[-2], crops.fixed.shape[-1])
    truth = fixed_to_moving(crops.warps, size)
    again = warp(crops.moving, truth)
    # one interpolation more than the aligned image, and the border of the moving one is cut
    mask = inside(truth, *size) & (warp(crops.valid, truth) > 0.999)
    assert mask.float().mean() > 0.6
    assert (again - crops.aligned).abs()[mask].mean() < 0.01


def test_valid_marks_the_empty_border(store: PairStore) -> None:
    torch.manual_seed(4)
    crops = store.draw_warped(8, DataConfig(crop_side=64), WarpConfig(beyond=0.0, shift=0.08))
    assert float(crops.moving[crops.valid == 0].abs().max()) == 0
    assert 0 < float((crops.valid == 0).float().mean()) < 0.5


def test_positions_carry_no_information(store: PairStore) -> None:
    """Fixed and moving crops are displaced against each other: no pair is aligned."""
    torch.manual_seed(5)
    crops = store.draw_warped(16, DataConfig(crop_side=64), WarpConfig())
    size = (crops.fixed.shape[-2], crops.fixed.shape[-1])
    shift = (fixed_to_moving(crops.warps, size) - base_grid(*size, crops.fixed)).square().sum(-1)
    assert float(shift.mean((1, 2)).sqrt().median()) > 0.05
