from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_busref.registration.quality import (
    Evidence,
    Quality,
    assess,
    rejects,
    unregistered,
    unverified,
)
from napari_busref.transforms.transform import Transform

SHAPE = (160, 200)


def picture(seed=0, shape=SHAPE, smooth=3.0):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smooth)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def everywhere(shape=SHAPE):
    return np.ones(shape, bool)


def moved(row=0.0, col=0.0, angle=0.0, scale=1.0, displacement=None, shape=SHAPE):
    """Turned and scaled about the centre, then shifted."""
    angle = np.deg2rad(angle)
    matrix = np.eye(3)
    matrix[:2, :2] = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    centre = (np.array(shape) - 1) / 2
    matrix[:2, 2] = centre - matrix[:2, :2] @ centre + (row, col)
    return Transform(matrix, displacement, fixed_shape=shape, moving_shape=shape)


GOOD = Evidence(0.9, 0.3)
CLEAR = np.full((8, 10), 5.0, np.float32)  # local support


def judge(estimate, fixed=None, moving=None, evidence=GOOD, support=CLEAR, **keywords):
    fixed = picture() if fixed is None else fixed
    moving = picture() if moving is None else moving
    return assess(
        fixed,
        estimate.apply(moving, cval=0),
        estimate.mask(),
        estimate,
        evidence,
        initial=Transform.identity(SHAPE),
        before=moving,
        before_mask=everywhere(moving.shape),
        support=support,
        **keywords,
    )


def test_a_good_result():
    truth = moved(3, -5, 4, 1.05)
    moving = truth.inverse().apply(picture(smooth=4), cval=0)
    quality = judge(truth, picture(smooth=4), 1 - moving)
    assert quality.reliable
    assert quality.reasons == ()
    assert 0.9 < quality.score <= 1
    assert quality.edge_agreement > 0.8 > quality.edge_agreement_before
    assert 0.8 < quality.overlap < 1
    assert quality.min_jacobian == pytest.approx(1, abs=1e-4)
    assert quality.shift_px == pytest.approx(np.hypot(3, 5))
    assert quality.rotation_deg == pytest.approx(4)
    assert quality.scale == pytest.approx(1.05)


@pytest.mark.parametrize(
    ("estimate", "reason"),
    [
        (moved(12, 9), "do not agree more than by chance"),
        (moved(12, 9), "agree less than they did before"),
        (moved(0, 185), "only 8% of the fixed image"),
        (moved(0, 195), "too few edges in the overlap"),
        (moved(90, 100), "shift of 135 px"),
        (moved(angle=-60), "rotation of -60°"),
        (moved(scale=2.2), "change of size by 2.20"),
        (moved(scale=0.4), "change of size by 0.40"),
    ],
)
def test_reasons(estimate, reason):
    quality = judge(estimate)
    assert any(reason in text for text in quality.reasons)
    assert not quality.reliable


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (Evidence(0.06, 12.0), "an error below 5 px is unlikely"),
        (Evidence(0.9, 20.0), "forward and backward registration disagree by 20 px"),
        (Evidence(0.9, float("inf")), "maps back to the fixed image"),
        (Evidence(0.9, 0.3, refined_px=40.0), "search and refinement disagree by 40 px"),
    ],
)
def test_reasons_from_the_evidence(evidence, reason):
    quality = judge(moved(), evidence=evidence)
    assert any(reason in text for text in quality.reasons)
    assert not quality.reliable
    assert quality.evidence == evidence
    stored = json.dumps(quality.as_dict(), allow_nan=False)
    assert Quality.from_dict(json.loads(stored)) == quality


def test_the_score_falls_with_the_evidence():
    scores = [
        judge(moved(), evidence=Evidence(0.9, trip), support=CLEAR * share).score
        for share, trip in ((1, 0.2), (0.5, 1.0), (0.2, 4.0), (-0.1, 30.0))
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9 and scores[-1] < 0.1


def test_strips_may_be_refined_along_their_length():
    shape = (24, 640)
    strip = picture(shape=shape, smooth=2.0)
    refined = Evidence(0.9, 0.3, refined_px=10.0)
    where = Transform.identity(shape)
    everything = everywhere(shape)
    for evidence, said in ((refined, False), (replace(refined, refined_px=17.0), True)):
        quality = assess(
            strip,
            strip,
            everything,
            where,
            evidence,
            initial=where,
            before=strip,
            before_mask=everything,
            support=CLEAR,
        )
        assert any("search and refinement" in reason for reason in quality.reasons) is said


def test_the_score_counts_the_support_of_the_cells_that_hold_something():
    empty = CLEAR.copy()
    empty[:4] = np.nan
    assert judge(moved(), support=empty).score == judge(moved()).score
    assert judge(moved(), support=CLEAR * 9).score == judge(moved()).score  # bounded
    assert judge(moved(), support=-CLEAR).score < 0.1
    nothing = judge(moved(), support=CLEAR * np.nan)
    assert nothing.score == judge(moved(), support=CLEAR * 0).score < judge(moved()).score


def test_a_wide_search_may_turn_and_scale():
    quality = judge(moved(angle=-60), wide=True)
    assert not any("rotation" in text for text in quality.reasons)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_limits_of_a_plausible_scale_belong_to_it(scale):
    assert not any("change of size" in text for text in judge(moved(scale=scale)).reasons)


def test_numbers_count_from_the_start():
    start = moved(10, 20)
    quality = assess(
        picture(),
        picture(),
        everywhere(),
        moved(13, 24),
        GOOD,
        initial=start,
        before=picture(),
        before_mask=everywhere(),
    )
    assert quality.shift_px == pytest.approx(5)


def test_mirrored():
    flip = Transform([[-1, 0, 159], [0, 1, 0], [0, 0, 1]], fixed_shape=SHAPE, moving_shape=SHAPE)
    quality = judge(flip)
    assert any("mirrored" in text for text in quality.reasons)
    assert quality.min_jacobian == 1  # a mirror is no fold


def test_folds_count_in_the_overlap_only():
    displacement = np.zeros((2, *SHAPE), np.float32)
    displacement[1, 70:90, 100] = 4
    quality = judge(moved(displacement=displacement))
    assert quality.min_jacobian < 0
    assert quality.reasons == ("the displacement folds over itself",)
    displacement = np.zeros((2, *SHAPE), np.float32)
    displacement[1, 70:90, 4] = -3  # with the shift this lies outside the moving image
    estimate = moved(0, -20, displacement=displacement)
    assert estimate.jacobian_determinant().min() < 0
    assert not any("folds" in text for text in judge(estimate).reasons)


def test_invalid_fixed_pixels_are_left_out():
    fixed = picture()
    fixed[:80] = picture(5)[:80]
    valid = everywhere()
    valid[:80] = False
    whole, half = judge(moved(), fixed), judge(moved(), fixed, fixed_valid=valid)
    assert half.edge_agreement > 0.95 > whole.edge_agreement


def test_what_was_cancelled_is_described_and_not_judged():
    estimate = moved(3, 4, angle=50)
    start = Transform.identity(SHAPE)
    quality = unverified(estimate.mask(), estimate, initial=start)
    whole = judge(estimate)
    for name in ("overlap", "shift_px", "rotation_deg", "scale", "min_jacobian"):
        assert getattr(quality, name) == getattr(whole, name)
    assert (quality.score, quality.reliable, quality.status) == (0, False, "cancelled")
    assert "was cancelled" in quality.reasons[0]
    assert "rotation of" in quality.reasons[1]
    assert len(unverified(estimate.mask(), estimate, initial=start, wide=True).reasons) == 1
    json.dumps(quality.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("score", "confidence", "rejected"),
    [(0.34, 0.59, True), (0.35, 0.59, False), (0.34, 0.6, False), (0.0, None, True)],
)
def test_a_low_score_without_confidence_is_rejected(score, confidence, rejected):
    evidence = None if confidence is None else Evidence(confidence, 1.0)
    quality = replace(unregistered(everywhere()), score=score, evidence=evidence)
    assert rejects(quality) is rejected


def test_a_coarser_grid_is_judged_in_pixels_of_the_fixed_image():
    estimate = moved(row=6, angle=3)
    half = (SHAPE[0] // 2, SHAPE[1] // 2)
    fixed = picture(shape=half)
    onto = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    working = Transform(estimate.affine @ onto, fixed_shape=half, moving_shape=SHAPE)
    moving = picture()
    quality = assess(
        fixed,
        working.apply(moving),
        working.mask(),
        estimate,
        GOOD,
        initial=Transform.identity(SHAPE),
        before=fixed,
        before_mask=everywhere(half),
        working=working,
    )
    assert quality.shift_px == pytest.approx(6)
    assert quality.overlap == pytest.approx(estimate.mask().mean(), abs=0.01)


def test_unregistered_and_json():
    mask = everywhere()
    mask[:40] = False
    quality = unregistered(mask, "no texture")
    assert (quality.score, quality.reliable, quality.overlap) == (0, False, 0.75)
    values = json.loads(json.dumps(quality.as_dict(), allow_nan=False))
    assert values["reasons"] == ["no texture"]
    json.dumps(judge(moved(2)).as_dict(), allow_nan=False)


def test_a_part_in_doubt_is_said_and_mapped():
    truth = moved(3, -5, 4, 1.05)
    moving = truth.inverse().apply(picture(smooth=4), cval=0)
    support = np.full((10, 12), 8.0, np.float32)
    support[:, 8:] = -8
    support[0] = np.nan
    parts = picture(smooth=4), 1 - moving
    quality = judge(truth, *parts, support=support, support_px=6.0)
    assert quality.map.shape == support.shape
    assert np.isnan(quality.map[0]).all()
    assert quality.map[1:, :8].min() > 0.9 > 0.1 > quality.map[1:, 8:].max()
    assert quality.doubtful == pytest.approx(1 / 3)
    assert not quality.reliable
    assert "33% of the picture is doubtful: an error below 6 px" in quality.reasons[0]
    assert judge(truth, *parts, support=np.abs(support)).reliable


def test_the_map_survives_json():
    quality = judge(moved(), support=np.array([[9.0, np.nan], [-9.0, 0.0]], np.float32))
    again = Quality.from_dict(json.loads(json.dumps(quality.as_dict(), allow_nan=False)))
    np.testing.assert_allclose(again.map, quality.map, atol=1e-3)
    assert again == quality
    assert Quality.from_dict(replace(quality, map=None).as_dict()).map is None
