"""Held-out blocks decide whether a displacement field stays."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from napari_busref.registration.em_fit import BlockLikelihoods, fit_affine, fit_bspline_field
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.held_out import earns_its_place
from napari_busref.registration.pyramid import pyramid_schedule
from napari_busref.registration.refine import refine_levels
from synthetic_pairs import SHAPE, error, moved, pair, start

pytestmark = pytest.mark.usefixtures("without_gradients")

PIXEL = 0.01
ROUNDS = tuple(width * PIXEL for width in (8, 6, 4, 3, 2, 1.4))
AXIS = np.linspace(-0.95, 0.95, 24)
GRID = np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2)
WINDOW = np.stack(np.meshgrid(*[np.arange(-10, 11)] * 2), -1).reshape(-1, 2) * PIXEL
AFFINE = np.array([[1.02, 0.02, 0.03], [-0.01, 0.99, -0.02], [0, 0, 1]])
STRAIGHT = GRID @ (AFFINE[:2, :2] - np.eye(2)).T + AFFINE[:2, 2]


def seen(displacement):
    """Blocks that see a displacement with an error of a pixel."""
    noise = np.random.default_rng(0).normal(0, PIXEL, GRID.shape)
    apart = (WINDOW[None] - (displacement + noise)[:, None]) / PIXEL
    log = np.log(np.exp(-0.5 * (apart**2).sum(-1)) + 1e-6).astype(np.float32)
    return BlockLikelihoods(GRID, WINDOW, log, np.ones(len(GRID)), PIXEL)


def earned(data, earlier=None):
    def fit(blocks, rounds):
        return fit_bspline_field(
            blocks, (1.0, 1.0), spacing=0.3, bending_sigma=0.05, displacement_sigma=0.5,
            affine_sigma=0.05, bandwidths=rounds, earlier=earlier,
        )  # fmt: skip

    bent, affine = fit(data, ROUNDS), fit_affine(data, ROUNDS)
    return earns_its_place(data, bent, affine, fit, ROUNDS, earlier)


def wave(amplitude, position=GRID):
    return amplitude * PIXEL * np.sin(4 * position[:, ::-1])


@pytest.mark.parametrize(("amplitude", "kept"), [(0, False), (0.6, False), (4, True)])
def test_a_field_stays_where_it_tells_what_held_out_blocks_see(amplitude, kept):
    assert earned(seen(STRAIGHT + wave(amplitude))) == kept


def test_a_field_that_only_its_own_blocks_confirm_goes():
    """Each tile sees another shift: the field follows it, and tells nothing of the next tile."""
    tiles = np.floor((GRID + 0.95) / (48 * PIXEL)).astype(int)
    shifts = np.random.default_rng(1).uniform(-4, 4, (5, 5, 2)) * PIXEL
    assert not earned(seen(shifts[tiles[:, 0], tiles[:, 1]]))


@pytest.mark.parametrize(("more", "kept"), [(0, False), (4, True)])
def test_an_earlier_field_is_no_merit_of_the_new_one(more, kept):
    """A homography was applied already, and only what is left of the wave can be earned."""
    assert earned(seen(wave(more)), earlier=partial(wave, 4)) == kept


@pytest.mark.parametrize("transform", ["affine", "homography"])
def test_an_affine_truth_stays_straight(networks, transform):
    truth = moved(row=4, col=-3, angle=2)
    fixed, moving = pair(truth)
    plan = pyramid_schedule("dense", transform, SHAPE)
    *_, found = refine_levels(FixedFeatures(networks, fixed), moving, start(), plan)
    assert (found.phi is None) == (transform == "affine")
    assert error(found, truth) < 0.6
