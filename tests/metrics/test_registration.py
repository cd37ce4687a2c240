from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_busref.metrics.registration import (
    Scorer,
    draw_warp,
    make_pair,
    normalised_cross_correlation,
    pixel_grid,
    summarise,
)

SHAPE = (72, 96)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    image = ndi.gaussian_filter(np.random.default_rng(3).random(SHAPE), 3)
    return (image - image.min()) / np.ptp(image)


@pytest.fixture(scope="module")
def reference():
    """The shared reference implementation of the protocol, if present."""
    path = Path(__file__).resolve().parents[3] / "shared" / "bench" / "protocol.py"
    if not path.is_file():
        pytest.skip("no ../shared/bench/protocol.py beside the checkout")
    spec = importlib.util.spec_from_file_location("busref_reference_protocol", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses resolve postponed annotations through sys.modules
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def to_xy(positions: np.ndarray) -> np.ndarray:
    return np.moveaxis(positions[::-1], 0, -1)


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("shape", [SHAPE, (96, 60)])
def test_same_draws_as_the_reference(reference, shape, seed):
    warp = draw_warp(shape, seed)
    g, params = reference.random_warp(shape, seed)
    np.testing.assert_allclose(to_xy(warp.g), g, atol=1e-9)
    ours = warp.params
    assert ours["rotation_deg"] == pytest.approx(params.rotation_deg)
    assert ours["scale"] == pytest.approx(params.scale)
    assert ours["shear_deg"] == pytest.approx(params.shear_deg)
    assert (ours["shift_cols"], ours["shift_rows"]) == pytest.approx((params.tx, params.ty))
    assert ours["elastic_px"] == pytest.approx(params.elastic_px)
    assert warp.min_jacobian() == pytest.approx(reference.min_jacobian(g))


@pytest.mark.parametrize("seed", [0, 5])
def test_same_scores_as_the_reference(reference, scene, seed):
    pair = make_pair(scene, scene, seed)
    theirs = reference.make_pair(scene, scene, seed)
    np.testing.assert_allclose(pair.moving, theirs["moving"], atol=1e-9)
    evaluator = reference.Evaluator(theirs["moving"], theirs["aligned"], theirs["g"])
    np.testing.assert_allclose(to_xy(pair.warp.true_source()), evaluator.true_psi, atol=1e-6)
    np.testing.assert_array_equal(pair.mask, evaluator.mask)

    estimate = pixel_grid(SHAPE) + np.array([2.5, -1.25])[:, None, None]
    ours = Scorer(pair)(estimate)
    expected = evaluator(to_xy(estimate))
    for name in ("epe", "epe_median_px", "epe_p95", "ncc", "mse", "mncc", "mmse"):
        assert ours[name] == pytest.approx(expected[name], abs=1e-7), name
    assert ours["mask_fraction"] == pytest.approx(expected["mask_frac"])

    rows = [ours, Scorer(pair)(pair.warp.true_source())]
    summary, their_summary = summarise(rows), reference.summarise(rows)
    assert summary["epe_mean"] == pytest.approx(their_summary["epe_mean"])
    assert summary["epe_median"] == pytest.approx(their_summary["epe_median"])
    assert summary["share_below_5px"] == their_summary["frac_lt5px"]
    assert summary["mncc"] == pytest.approx(their_summary["mncc"])


def test_the_truth_scores_perfectly_and_the_identity_does_not(scene):
    scorer = Scorer(make_pair(scene, scene, 2))
    perfect = scorer(scorer.pair.warp.true_source())
    identity = scorer(pixel_grid(SHAPE))
    assert perfect["epe"] < 0.01
    # two bilinear interpolations remain
    assert perfect["mncc"] > 0.97
    assert identity["epe"] > 1
    assert identity["mncc"] < perfect["mncc"]


def test_reprojection_error_is_the_distance_from_the_true_positions(scene):
    scorer = Scorer(make_pair(scene, scene, 2))
    landmarks = scorer.landmarks()
    truth = scorer.pair.warp.points(landmarks.T).T
    assert len(landmarks) > 100
    assert (truth >= 0).all() and (truth <= np.array(SHAPE) - 1).all()
    assert scorer.reprojection_error(truth) == 0
    assert scorer.reprojection_error(truth + np.array([3, -4])) == pytest.approx(5)


def test_draws_stay_in_the_protocol_ranges_and_do_not_fold():
    for seed in range(12):
        warp = draw_warp(SHAPE, seed)
        drawn = warp.params
        assert abs(drawn["rotation_deg"]) <= 10
        assert 0.9 <= drawn["scale"] <= 1.1
        assert abs(drawn["shear_deg"]) <= 5
        assert abs(drawn["shift_cols"]) <= 0.08 * SHAPE[1]
        assert abs(drawn["shift_rows"]) <= 0.08 * SHAPE[0]
        assert 0.02 * 72 <= drawn["elastic_px"] <= 0.04 * 72
        assert warp.min_jacobian() > 0


def test_affine_only_warp_is_its_own_affine_fit():
    warp = draw_warp(SHAPE, 4, elastic=(0.0, 0.0))
    np.testing.assert_allclose(warp.residual, 0, atol=1e-9)
    # rotation and shear do not change the determinant scale^2 of the linear part
    linear = warp.affine[:2, :2]
    assert np.linalg.det(linear) == pytest.approx(warp.params["scale"] ** 2)
    centre = np.array([(SHAPE[0] - 1) / 2, (SHAPE[1] - 1) / 2])
    moved = warp.affine[:2, :2] @ centre + warp.affine[:2, 2]
    shift = [warp.params["shift_rows"], warp.params["shift_cols"]]
    np.testing.assert_allclose(moved - centre, shift)


def test_inverse_points_invert_also_outside_the_grid():
    warp = draw_warp(SHAPE, 1)
    rng = np.random.default_rng(0)
    points = rng.uniform(-40, 130, (2, 50))
    back = warp.inverse_points(warp.points(points), tolerance=1e-9)
    np.testing.assert_allclose(back, points, atol=1e-6)


def test_a_shift_is_scored_in_fixed_pixels(scene):
    no_warp = {
        "rotation_deg": 0.0,
        "scale": (1.0, 1.0),
        "shear_deg": 0.0,
        "translation": 0.0,
        "elastic": (0.0, 0.0),
    }
    pair = make_pair(scene, scene, 0, **no_warp)
    np.testing.assert_allclose(pair.moving, scene, atol=1e-12)
    score = Scorer(pair)(pixel_grid(SHAPE) + np.array([3.0, 4.0])[:, None, None])
    assert score["epe"] == pytest.approx(5.0)
    assert score["epe_p95"] == pytest.approx(5.0)


def test_correlation_of_a_constant_is_zero(scene):
    assert normalised_cross_correlation(scene, np.ones(SHAPE)) == 0.0
    assert normalised_cross_correlation(scene, 1 - scene) == pytest.approx(-1.0)


def test_summary_counts_failures_and_missing_estimates():
    rows = [
        {"epe": 0.5, "mncc": 0.9, "seconds": 1.0},
        {"epe": 4.0, "mncc": 0.7, "seconds": 3.0},
        {"epe": 0.1, "mncc": 0.1, "failed": True},
        {"epe": None, "failed": True},
    ]
    summary = summarise(rows)
    assert summary["n"] == 4
    assert summary["failures"] == 2
    assert summary["share_below_1px"] == 0.25
    assert summary["share_below_5px"] == 0.5
    assert summary["seconds"] == 2.0
    assert summary["mse"] is None
    assert summary["mncc_sd"] == pytest.approx(0.4163, abs=1e-4)  # of .9, .7 and .1
    assert summary["mse_sd"] is None and "seconds_sd" not in summary
    assert summarise([]) == {}


def test_bad_arguments_are_named(scene):
    with pytest.raises(ValueError, match="shape must be"):
        draw_warp((10,), 0)
    with pytest.raises(ValueError, match="infrared must be a grey"):
        make_pair(np.zeros((8, 8, 3)), scene, 0)
    with pytest.raises(ValueError, match="fixed must have"):
        make_pair(scene, scene[1:], 0)
    scorer = Scorer(make_pair(scene, scene, 0))
    with pytest.raises(ValueError, match="source must have shape"):
        scorer(np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="source must be finite"):
        scorer(np.full((2, *SHAPE), np.nan))
