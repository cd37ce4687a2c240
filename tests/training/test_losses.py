"""Losses against their definitions."""

from __future__ import annotations

import numpy as np
import torch

from napari_busref.metrics.registration import normalised_cross_correlation
from napari_busref.training.losses.busref import (
    endpoint_loss,
    fusion_gradient_loss,
    gradient_target,
    guide_loss,
    masked_correlation,
    matching_loss,
    reconstruction_loss,
    similarity_loss,
    smoothness_loss,
)


def _images(count: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.rand(2, 1, 24, 30) for _ in range(count)]


def test_perfect_reconstruction_costs_nothing() -> None:
    image, other = _images()
    assert reconstruction_loss(image, image, 1.0) < 2e-3
    assert reconstruction_loss(image, other, 1.0) > 0.5


def test_similarity_is_zero_for_one_image() -> None:
    image, other = _images()
    assert abs(float(similarity_loss(image, image, image))) < 1e-5
    assert similarity_loss(other, image, image) > 0.5


def test_gradient_target_takes_the_stronger_and_bends_it() -> None:
    visible, infrared = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    visible[..., 2, 2], infrared[..., 6, 6] = 0.5, -0.3
    target = gradient_target(visible, infrared, 0.7)
    plain = gradient_target(visible + infrared, torch.zeros_like(visible), 1.0)
    strong = plain.abs() > 0.01
    expected = plain.sign() * plain.abs() ** 0.7
    torch.testing.assert_close(target[strong], expected[strong], atol=1e-3, rtol=0)
    weak = strong & (plain.abs() < 0.9)
    assert weak.any() and (target.abs()[weak] > plain.abs()[weak]).all()


def test_fusion_gradient_loss_prefers_the_sharper_image() -> None:
    visible, infrared = _images()
    sharp = visible + 0
    blurred = torch.nn.functional.avg_pool2d(visible, 3, 1, 1)
    flat = torch.full_like(infrared, 0.5)
    assert fusion_gradient_loss(sharp, visible, flat, 0.7) < fusion_gradient_loss(
        blurred, visible, flat, 0.7
    )


def test_masked_correlation_is_ncc_over_the_mask() -> None:
    a, b = _images()
    mask = (torch.rand(2, 1, 24, 30) > 0.4).float()
    expected = np.mean(
        [
            normalised_cross_correlation(a[i][mask[i] > 0].numpy(), b[i][mask[i] > 0].numpy())
            for i in range(2)
        ]
    )
    # the loss guards its denominator, hence the tolerance
    np.testing.assert_allclose(float(masked_correlation(a, b, mask)), expected, atol=1e-4)
    assert abs(float(masked_correlation(a, 1 - 2 * a, mask)) + 1) < 1e-4


def test_guide_loss_ignores_what_lies_outside_the_mask() -> None:
    a, b = _images()
    mask = torch.zeros_like(a)
    mask[..., 6:18, 6:18] = 1
    half = torch.where(mask > 0, a, b)
    inner = torch.zeros_like(a)
    inner[..., 8:16, 8:16] = 1  # away from the border by the Laplacian's reach
    assert guide_loss(half, a, inner) < 2e-3
    assert guide_loss(b, a, inner) > 0.05


def test_endpoint_loss_is_in_cells() -> None:
    truth = torch.zeros(1, 24, 40, 2)
    estimated = truth + torch.tensor([2 * 3 / 40, 2 * 4 / 24])  # 3 px right, 4 px down
    loss = endpoint_loss(estimated, torch.ones(1, 1, 24, 40), truth, (24, 40))
    np.testing.assert_allclose(float(loss), 5 / 8, rtol=1e-3)


def test_smoothness_of_a_ramp_is_its_slope() -> None:
    phi = torch.zeros(1, 2, 10, 12)
    assert smoothness_loss(phi + 3) < 1e-10
    phi[:, 0] = 0.5 * torch.arange(12.0)
    assert smoothness_loss(phi) > smoothness_loss(phi / 2) > 0


def test_matching_loss_rewards_the_true_match() -> None:
    height, width = 4, 5
    rows, cols = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    target = torch.stack([cols + 1, rows], -1)[None]
    mask = torch.ones(1, height, width, dtype=torch.bool)
    cells = height * width
    right = torch.zeros(1, cells, cells)
    for i in range(cells):
        if i % width < width - 1:
            right[0, i, i + 1] = 1
    temperature = torch.tensor(0.1)
    assert matching_loss(right, temperature, target, mask) < 0.01
    assert matching_loss(torch.eye(cells)[None], temperature, target, mask) > 5
