"""Normalised coordinates against plain pixel arithmetic."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from napari_busref import Transform
from napari_busref.geometry import (
    Estimate,
    base_grid,
    compose,
    compose_affine,
    compose_displacement,
    estimate_to_pixels,
    identity_theta,
    isotropic_to_normalised,
    pixels_to_estimate,
    sampling_grid,
    transform_points,
    warp,
)

SHAPE = (30, 41)


def _estimate() -> Estimate:
    torch.manual_seed(1)
    theta = identity_theta(1, torch.zeros(1)) + 0.05 * torch.randn(1, 2, 3)
    return Estimate(theta, 0.03 * torch.randn(1, 2, *SHAPE))


def test_pixels_and_grid_sample_agree() -> None:
    """scipy with the pixel form equals grid_sample with the normalised form."""
    image = torch.rand(1, 1, *SHAPE)
    estimate = _estimate()
    by_torch = warp(image, sampling_grid(estimate, *SHAPE), padding="border")[0, 0]
    affine, displacement = estimate_to_pixels(estimate, SHAPE)[0]
    assert displacement is not None
    points = np.mgrid[: SHAPE[0], : SHAPE[1]] + displacement
    source = np.einsum("ij,jrc->irc", affine[:2, :2], points) + affine[:2, 2, None, None]
    by_scipy = ndimage.map_coordinates(image[0, 0].numpy(), source, order=1, mode="nearest")
    np.testing.assert_allclose(by_torch.numpy(), by_scipy, atol=2e-4)


def test_composition_is_application_in_turn() -> None:
    torch.manual_seed(2)
    outer, inner = (
        identity_theta(1, torch.zeros(1)) + 0.1 * torch.randn(1, 2, 3) for _ in range(2)
    )
    points = base_grid(*SHAPE, outer)
    torch.testing.assert_close(
        transform_points(compose_affine(outer, inner), points),
        transform_points(outer, transform_points(inner, points)),
    )


def test_displacements_compose_exactly_when_constant() -> None:
    first, second = torch.zeros(1, 2, 8, 9), torch.zeros(1, 2, 8, 9)
    first[:, 0], second[:, 1] = 0.1, -0.2
    torch.testing.assert_close(compose_displacement(first, second), first + second)


def test_isotropic_rotation_keeps_lengths_in_pixels() -> None:
    angle = torch.tensor(0.3)
    delta = torch.zeros(1, 2, 3)
    delta[0, :, :2] = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    ) - torch.eye(2)
    affine, _ = estimate_to_pixels(Estimate(isotropic_to_normalised(delta, *SHAPE)), SHAPE)[0]
    np.testing.assert_allclose(affine[:2, :2] @ affine[:2, :2].T, np.eye(2), atol=1e-6)
    centre = np.array([(SHAPE[0] - 1) / 2, (SHAPE[1] - 1) / 2, 1])
    np.testing.assert_allclose((affine @ centre)[:2], centre[:2], atol=1e-5)


def test_pixels_and_back():
    displacement = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    given = Transform(
        [[1.1, 0.2, 3], [-0.1, 0.9, -5], [0, 0, 1]],
        displacement,
        fixed_shape=SHAPE,
        moving_shape=(70, 90),
    )
    device = torch.device("cpu")
    estimate = pixels_to_estimate(given.affine, given.displacement, SHAPE, (70, 90), device)
    affine, field = estimate_to_pixels(estimate, SHAPE, (70, 90))[0]
    np.testing.assert_allclose(affine, given.affine, atol=1e-4)
    np.testing.assert_allclose(field, displacement, atol=1e-4)


def test_compose_is_one_after_the_other():
    rng = np.random.default_rng(1)
    fields = [
        torch.from_numpy(
            ndimage.gaussian_filter(rng.standard_normal((1, 2, 40, 50)), (0, 0, 6, 6))
        )
        for _ in range(2)
    ]
    thetas = [torch.tensor([[[0.9, 0.1, 0.05], [-0.1, 1.1, 0.1]]]), torch.eye(2, 3)[None] * 0.8]
    outer, inner = (
        Estimate(theta.float(), field.float() * 0.3)
        for theta, field in zip(thetas, fields, strict=True)
    )
    once = sampling_grid(compose(outer, inner), 40, 50)
    middle = sampling_grid(inner, 40, 50)
    added = torch.nn.functional.grid_sample(
        outer.phi, middle, padding_mode="border", align_corners=False
    )
    reached = middle + added.permute(0, 2, 3, 1)
    twice = reached @ outer.theta[0, :, :2].T + outer.theta[0, :, 2]
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=0)
