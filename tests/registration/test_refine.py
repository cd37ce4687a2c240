"""Coarse-to-fine refinement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_busref.registration.context import MatchOptions
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.pyramid import (
    PyramidLevel,
    pyramid_schedule,
    working_size,
)
from napari_busref.registration.refine import (
    min_jacobian,
    refine_levels,
    unfold_field,
)
from synthetic_pairs import SHAPE, error, moved, pair, start

pytestmark = pytest.mark.usefixtures("without_gradients")


def test_fields_do_not_fold():
    phi = torch.randn(1, 2, 30, 40, generator=torch.Generator().manual_seed(0)) * 0.2
    assert min_jacobian(phi) < 0
    assert min_jacobian(unfold_field(phi)) >= 0.1
    gentle = torch.zeros(1, 2, 30, 40)
    assert unfold_field(gentle) is gentle


def test_the_determinant_of_a_linear_field_is_that_of_its_matrix():
    """Fields are normalised, but the derivatives are by pixels."""
    bend = torch.tensor([[0.2, 0.5], [-0.3, -0.4]])  # of x and y, by x and y
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) * 2 / n - 1 for n in (20, 30)), indexing="ij")
    phi = (bend @ torch.stack([x, y]).flatten(1)).reshape(1, 2, 20, 30)
    assert min_jacobian(phi) == pytest.approx(1.2 * 0.6 + 0.5 * 0.3, abs=1e-4)


def test_refinement_reaches_the_pixel(networks):
    truth = moved(row=6, col=-8, angle=3)
    fixed, moving = pair(truth)
    plan = pyramid_schedule("affine", "affine", SHAPE)
    errors = [
        error(e, truth)
        for e in refine_levels(FixedFeatures(networks, fixed), moving, start(), plan)
    ]
    assert len(errors) == len(plan)
    assert errors[-1] < 1.0
    again = [
        error(e, truth)
        for e in refine_levels(FixedFeatures(networks, fixed), moving, start(), plan)
    ]
    assert again == errors  # deterministic


def test_dense_refinement_bends(networks):
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    bend = 4 * np.stack([np.sin(cols / 25), np.cos(rows / 25)]).astype(np.float32)
    truth = moved(displacement=bend)
    fixed, moving = pair(truth)
    *_, affine = refine_levels(
        FixedFeatures(networks, fixed),
        moving,
        start(),
        pyramid_schedule("affine", "affine", SHAPE),
    )
    *_, dense = refine_levels(
        FixedFeatures(networks, fixed), moving, start(), pyramid_schedule("dense", "affine", SHAPE)
    )
    assert dense.phi is not None
    assert min_jacobian(dense.phi) > 0
    assert error(dense, truth) < 0.7 * error(affine, truth)


@pytest.mark.parametrize(
    ("truth", "again"), [({}, False), ({"row": 6, "col": 5, "angle": 3}, True)]
)
def test_a_look_that_moves_far_is_looked_at_again(networks, truth, again):
    fixed, moving = pair(truth := moved(**truth))
    judged = []

    def judge(estimate):
        judged.append(estimate)
        return 0.0

    plan = (PyramidLevel("affine", 128, max_repeats=3),)
    (only,) = refine_levels(FixedFeatures(networks, fixed), moving, start(), plan, score=judge)
    assert (len(judged) > 2) == again  # the start is judged too
    assert error(only, truth) < 1


def test_homography_is_refined(networks):
    fixed, moving = pair(moved(row=4))
    plan = pyramid_schedule("affine", "homography", SHAPE)
    *_, estimate = refine_levels(FixedFeatures(networks, fixed), moving, start(), plan)
    assert estimate.phi is not None
    assert error(estimate, moved(row=4)) < 1.5


def test_edges_alone_and_features_alone(networks):
    truth = moved(row=3, col=-4)
    fixed, moving = pair(truth)
    for switches in ({"learned": False}, {"edges": False}):
        plan = pyramid_schedule("affine", "affine", SHAPE)
        *_, last = refine_levels(
            FixedFeatures(networks, fixed), moving, start(), plan, MatchOptions(**switches)
        )
        assert error(last, truth) < 1.5


def test_large_pictures_are_refined_by_their_edges(networks, monkeypatch):
    monkeypatch.setattr("napari_busref.registration.refine._MAX_LEARNED_SIDE", 130)
    seen = []
    hook = networks.matcher.head.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0][0].shape[-1] * 2)
    )
    truth = moved(row=2, col=-3, angle=1)
    fixed, moving = pair(truth)
    plan = (PyramidLevel("affine", 128), PyramidLevel("affine", 166))
    try:
        *_, last = refine_levels(FixedFeatures(networks, fixed), moving, start(), plan)
    finally:
        hook.remove()
    assert set(seen) == {working_size(SHAPE, 128)[1]}  # 166 is the whole picture
    assert error(last, truth) < 1
