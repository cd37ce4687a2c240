"""MAP fits to block likelihoods."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from napari_busref.geometry import (
    offsets,
)
from napari_busref.registration.em_fit import (
    BlockLikelihoods,
    fit_affine,
    fit_bspline_field,
    fit_homography,
)

pytestmark = pytest.mark.usefixtures("without_gradients")

PIXEL = 0.02


WINDOW = offsets(10, torch.zeros(1)).double().numpy() * PIXEL


def likely(peaks, weights, spread=(1.0, 1.0)):
    """Blocks whose likelihoods are mixtures of Gaussians at the peaks (N, P, 2)."""
    scaled = (WINDOW[None, None] - peaks[:, :, None]) / (np.array(spread) * PIXEL)
    log = np.log((weights[..., None] * np.exp(-0.5 * (scaled**2).sum(-1))).sum(1) + 1e-6)
    return BlockLikelihoods(grid(), WINDOW, log.astype(np.float32), np.ones(len(peaks)), PIXEL)


FIELD = {
    "half": (1.0, 1.0),
    "spacing": 0.4,
    "bending_sigma": 0.05,
    "displacement_sigma": 0.5,
    "affine_sigma": 0.05,
    "bandwidths": tuple(w * PIXEL for w in (8, 6, 4, 3, 2)),
}


def displaced(found, axis):
    """Where affine and field together displace the crossings of an axis with itself."""
    affine, field = found
    place = np.stack(np.meshgrid(axis, axis), -1)
    return place @ (affine[:2, :2] - np.eye(2)).T + affine[:2, 2] + field.on_grid(axis, axis)


def wave(position):
    return 0.06 * np.sin(2 * position[:, ::-1])


def grid():
    axis = np.linspace(-0.95, 0.95, 20)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def astray(truth, share=0.3, seed=0):
    """Blocks that see the truth, but for a share that sees something else."""
    rng = np.random.default_rng(seed)
    lost = rng.random(len(truth)) < share
    return np.where(lost[:, None], rng.uniform(-0.19, 0.19, truth.shape), truth)[:, None]


STIFF = tuple(w * PIXEL for w in (8, 6, 5))


def test_affine_despite_blocks_that_are_astray():
    truth = np.array([[1.05, 0.03, 0.05], [-0.04, 0.98, -0.03], [0, 0, 1]])
    shift = grid() @ (truth[:2, :2] - np.eye(2)).T + truth[:2, 2]
    found = fit_affine(likely(astray(shift), np.ones((400, 1))), STIFF)
    np.testing.assert_allclose(found, truth, atol=0.5 * PIXEL)


def test_homography():
    truth = np.array([[1.02, 0.03, 0.03], [-0.02, 1.0, -0.02], [0.06, -0.04, 1]])
    u = np.column_stack([grid(), np.ones(400)]) @ truth.T
    shift = u[:, :2] / u[:, 2:] - grid()
    data = likely(astray(shift, 0.2), np.ones((400, 1)))
    found = fit_homography(data, STIFF, ridge=1e-6)
    np.testing.assert_allclose(found / found[2, 2], truth, atol=8e-3)
    stiff = fit_affine(data, STIFF)  # which an affine cannot follow
    assert np.abs(stiff - truth).max() > 0.03


def test_one_round_comes_close_to_a_homography():
    """Its two steps need the right derivatives; later rounds would hide wrong ones."""
    truth = np.array([[1, 0, 0], [0, 1, 0], [0.12, -0.072, 1]])
    u = np.column_stack([grid(), np.ones(400)]) @ truth.T
    data = likely((u[:, :2] / u[:, 2:] - grid())[:, None], np.ones((400, 1)))
    found = fit_homography(data, (8 * PIXEL,), ridge=1e-6)
    np.testing.assert_allclose(found / found[2, 2], truth, atol=2e-3)


@pytest.mark.parametrize("bandwidth", [1, 4])
def test_moments_of_one_peak_are_those_of_gaussians(bandwidth):
    peak, around, spread = np.array([3, -2]), np.array([1, 1]), np.array([2, 3])
    data = likely(np.tile(peak * PIXEL, (400, 1, 1)), np.ones((400, 1)), spread)
    data = dataclasses.replace(data, weight=np.full(400, 0.5))
    found = data.e_step(np.tile(around * PIXEL, (400, 1)), bandwidth * PIXEL)
    variance = 1 / (spread**-2.0 + bandwidth**-2.0)  # of the product of two Gaussians
    mean = variance * (peak / spread**2 + around / bandwidth**2)
    floor = 0.08  # pixels², of any displacement
    precision, expected = 1 / (variance + floor), 1 / (bandwidth**2 + floor)
    information = 0.5 * np.diag(precision - expected) / PIXEL**2
    moment = 0.5 * (precision * mean - expected * around) / PIXEL
    np.testing.assert_allclose(found[0][7], information, rtol=3e-3, atol=1)
    np.testing.assert_allclose(found[1][7], moment, rtol=3e-3)


def test_an_edge_counts_across_only():
    # nothing is known along x
    peaks = np.tile([[0.1, 0.1]], (400, 1))[:, None]
    data = likely(peaks, np.ones((400, 1)), spread=(1e3, 1.0))
    field = displaced(fit_bspline_field(data, **FIELD), np.zeros(1))
    assert field[0, 0, 1] == pytest.approx(0.1, abs=5e-3)
    assert abs(field[0, 0, 0]) < 0.02


def test_the_field_tells_which_peak_is_right():
    """Each block likes two places better than its own; only the smooth one is common."""
    rng = np.random.default_rng(0)
    truth = wave(grid())
    others = rng.uniform(-0.19, 0.19, (2, 400, 2))
    data = likely(np.stack([truth, *others], 1), np.array([[0.6, 1.0, 0.9]]).repeat(400, 0))
    axis = np.linspace(-0.9, 0.9, 15)
    x, y = np.meshgrid(axis, axis)
    wanted = 0.06 * np.stack([np.sin(2 * y), np.sin(2 * x)], -1)
    found = displaced(fit_bspline_field(data, **FIELD), axis)
    assert np.abs(found - wanted).mean() < 0.4 * PIXEL
    # the best of each block alone is far off
    best = WINDOW[data.log.argmax(1)]
    assert np.abs(best - truth).mean() > 2 * PIXEL


def test_what_is_straight_is_not_bent():
    """Blocks that are off by a pixel each bend nothing when all that moved is an affine."""
    truth = np.array([[1.02, 0.02, 0.03], [-0.01, 0.99, -0.02], [0, 0, 1]])
    shift = grid() @ (truth[:2, :2] - np.eye(2)).T + truth[:2, 2]
    noise = np.random.default_rng(0).normal(0, PIXEL, shift.shape)
    data = likely((shift + noise)[:, None], np.ones((400, 1)))
    affine, field = fit_bspline_field(data, **FIELD)
    np.testing.assert_allclose(affine, truth, atol=0.2 * PIXEL)
    axis = np.linspace(-0.9, 0.9, 15)
    assert np.abs(field.on_grid(axis, axis)).max() < 0.2 * PIXEL
    # the same noise on a wave leaves the wave
    _, bent = fit_bspline_field(
        likely((wave(grid()) + noise)[:, None], np.ones((400, 1))), **FIELD
    )
    assert np.abs(bent.on_grid(axis, axis)).max() > 2 * PIXEL


def test_the_earlier_field_is_part_of_the_result():
    """What is seen after resampling with half the field is the other half."""

    def earlier(position):
        return 0.5 * wave(position)

    position = grid()
    seen = wave(position) - earlier(position)
    for _ in range(10):  # earlier(x + seen) + seen = wave(x)
        seen = wave(position) - earlier(position + seen)
    data = likely(seen[:, None], np.ones((400, 1)))
    axis = np.linspace(-0.9, 0.9, 15)
    x, y = np.meshgrid(axis, axis)
    wanted = 0.06 * np.stack([np.sin(2 * y), np.sin(2 * x)], -1)
    found = displaced(fit_bspline_field(data, **FIELD, earlier=earlier), axis)
    assert np.abs(found - wanted).mean() < 0.4 * PIXEL
