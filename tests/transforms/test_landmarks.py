"""Transforms from landmarks, against maps that are known."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref.transforms.landmarks import MIN_PAIRS, fit_landmarks
from napari_busref.transforms.transform import Transform

SHAPES = {"fixed_shape": (60, 80), "moving_shape": (50, 90)}
AFFINE = np.array([[0.8, -0.1, 6.0], [0.15, 0.9, -3.0], [0, 0, 1]])
HOMOGRAPHY = np.array([[0.9, -0.1, 6.0], [0.15, 0.8, 3.0], [1e-3, -2e-3, 1]])


def places(count=9, seed=0):
    return np.random.default_rng(seed).uniform((0, 0), (59, 79), (count, 2))


def project(matrix, points):
    mapped = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def bend(points):
    """A smooth map that neither an affine nor a homography can follow."""
    row, col = np.asarray(points, float).T
    return np.stack([row + 3 * np.sin(col / 25), 1.1 * col + 2 * np.cos(row / 20)], 1)


@pytest.mark.parametrize("model", ["affine", "homography", "thin-plate"])
@pytest.mark.parametrize("count", [4, 9])
def test_every_model_finds_an_affine_exactly(model, count):
    fixed = places(count)
    fit = fit_landmarks(fixed, project(AFFINE, fixed), model=model, **SHAPES)
    assert fit.model == model
    grid = places(50, seed=1)
    np.testing.assert_allclose(fit.transform.points(grid), project(AFFINE, grid), atol=1e-4)
    np.testing.assert_allclose(fit.residuals, 0, atol=1e-8)
    assert fit.rms < 1e-8
    assert fit.worst is None
    assert fit.folded == 0
    assert (fit.transform.fixed_shape, fit.transform.moving_shape) == ((60, 80), (50, 90))


def test_the_affine_is_the_one_of_from_points():
    fixed, moving = places(), places(seed=2)
    fit = fit_landmarks(fixed, moving, **SHAPES)
    assert fit.transform == Transform.from_points(fixed, moving, **SHAPES)


@pytest.mark.parametrize("count", [4, 5, 12])
def test_a_homography_is_found(count):
    fixed = np.concatenate([[[2, 3], [1, 75], [57, 70], [55, 5]], places(8)])[:count]
    fit = fit_landmarks(fixed, project(HOMOGRAPHY, fixed), model="homography", **SHAPES)
    rows, cols = np.mgrid[:60, :80].reshape(2, -1)
    grid = np.stack([rows, cols], 1)
    np.testing.assert_allclose(fit.transform.points(grid), project(HOMOGRAPHY, grid), atol=1e-3)
    assert fit.residuals.max() < 1e-6
    affine = fit_landmarks(fixed, project(HOMOGRAPHY, fixed), **SHAPES)
    assert affine.rms > 0.5  # an affine cannot follow


def test_a_homography_is_least_squares_in_the_moving_image():
    fixed = places(10)
    moving = project(HOMOGRAPHY, fixed) + np.random.default_rng(3).normal(0, 1, (10, 2))
    fit = fit_landmarks(fixed, moving, model="homography", **SHAPES)

    def cost(transform_points):
        return ((transform_points - moving) ** 2).sum()

    best = cost(fit._map(fixed))
    assert best < cost(project(HOMOGRAPHY, fixed))
    for seed in range(20):  # no neighbour of it is better
        shake = 1 + 1e-4 * np.random.default_rng(seed).normal(size=(10, 2))
        other = fit_landmarks(fixed, moving * shake, model="homography", **SHAPES)
        assert cost(other._map(fixed)) >= best


def test_a_thin_plate_goes_through_every_pair_and_bends_between():
    fixed = np.concatenate([places(30, seed=4), [[0, 0], [0, 79], [59, 0], [59, 79]]])
    fit = fit_landmarks(fixed, bend(fixed), model="thin-plate", **SHAPES)
    np.testing.assert_allclose(fit.residuals, 0, atol=1e-6)
    grid = places(200, seed=5)
    error = np.hypot(*(fit.transform.points(grid) - bend(grid)).T)
    affine = fit_landmarks(fixed, bend(fixed), **SHAPES)
    rough = np.hypot(*(affine.transform.points(grid) - bend(grid)).T)
    assert error.mean() < 0.2 * rough.mean()
    # off the pixel centres the displacement is bilinear
    np.testing.assert_allclose(fit.transform.points(fixed), bend(fixed), atol=0.05)
    assert 0 < fit.leave_one_out.max() < 3
    assert fit.worst is not None


def test_a_thin_plate_agrees_with_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    if not hasattr(transform.ThinPlateSplineTransform, "from_estimate"):
        pytest.skip("needs scikit-image 0.26")
    fixed = places(8)
    other = transform.ThinPlateSplineTransform.from_estimate(fixed, bend(fixed))
    fit = fit_landmarks(fixed, bend(fixed), model="thin-plate", **SHAPES)
    rows, cols = np.mgrid[:60:5, :80:5].reshape(2, -1)
    grid = np.stack([rows, cols], 1).astype(float)
    np.testing.assert_allclose(fit.transform.points(grid), other(grid), atol=1e-3)


def test_residuals_are_in_pixels_of_the_fixed_image():
    """The moving image has twice the pixels: an error of 4 of them is one of 2."""
    fixed = np.array([[10, 10], [10, 60], [50, 10], [50, 60], [30, 35]], float)
    moving = 2 * fixed
    moving[4] += (0, 4)
    fit = fit_landmarks(fixed, moving, fixed_shape=(60, 80), moving_shape=(120, 160))
    np.testing.assert_allclose(fit.residuals, [0.4, 0.4, 0.4, 0.4, 1.6], atol=1e-9)
    np.testing.assert_allclose(fit.leave_one_out[4], 2.0, atol=1e-9)
    assert fit.worst == 4


@pytest.mark.parametrize("model", ["affine", "homography", "thin-plate"])
@pytest.mark.parametrize("wrong", [0, 5, 11])
def test_the_worst_pair_is_the_wrong_one(model, wrong):
    fixed = np.concatenate([[[3, 3], [3, 76], [56, 3], [56, 76]], places(8, seed=6)])
    moving = project(AFFINE, fixed)
    moving[wrong] += (9, -7)
    fit = fit_landmarks(fixed, moving, model=model, **SHAPES)
    assert fit.worst == wrong
    others = np.arange(12) != wrong
    again = fit_landmarks(fixed[others], moving[others], model=model, **SHAPES)
    assert again.worst is None


def test_leave_one_out_is_a_fit_to_the_others():
    fixed, moving = places(6), bend(places(6))
    fit = fit_landmarks(fixed, moving, **SHAPES)
    for index in range(6):
        others = np.arange(6) != index
        less = fit_landmarks(fixed[others], moving[others], **SHAPES).transform
        error = less.points(moving[index], inverse=True) - fixed[index]
        np.testing.assert_allclose(fit.leave_one_out[index], np.hypot(*error))


def test_nothing_is_left_out_where_the_others_lie_on_one_line_in_the_moving_image():
    fixed = np.array([[3, 3], [3, 76], [56, 3], [50, 70]], float)
    moving = np.array([[5, 5], [15, 15.0001], [25, 25], [10, 40]])
    left_out = fit_landmarks(fixed, moving, **SHAPES).leave_one_out
    np.testing.assert_array_equal(np.isnan(left_out), [False, False, False, True])


@pytest.mark.parametrize("model", ["affine", "homography", "thin-plate"])
def test_with_just_enough_pairs_nothing_is_said_about_the_worst(model):
    fixed = np.array([[3, 3], [3, 76], [56, 3], [50, 70]], float)[: MIN_PAIRS[model]]
    fit = fit_landmarks(fixed, bend(fixed), model=model, **SHAPES)
    np.testing.assert_allclose(fit.residuals, 0, atol=1e-6)
    assert np.isnan(fit.leave_one_out).all()
    assert fit.worst is None


def test_landmarks_that_cross_over_are_seen_to_fold():
    fixed = np.array([[5, 5], [5, 70], [55, 5], [55, 70], [30, 30], [30, 40]], float)
    moving = fixed.copy()
    moving[[4, 5]] = moving[[5, 4]]
    fit = fit_landmarks(fixed, moving, model="thin-plate", **SHAPES)
    assert 0.005 < fit.folded < 0.5


@pytest.mark.parametrize(
    ("model", "count", "needed"),
    [("affine", 2, "at least 3"), ("homography", 3, "at least 4"), ("thin-plate", 2, "3 pairs")],
)
def test_too_few_pairs_are_refused_with_the_number_needed(model, count, needed):
    fixed = places(count)
    with pytest.raises(ValueError, match=rf"{model} fit needs .*{needed}.*got {count}"):
        fit_landmarks(fixed, fixed, model=model, **SHAPES)
    with pytest.raises(ValueError, match="got 0"):
        fit_landmarks(np.empty((0, 2)), np.empty((0, 2)), model=model, **SHAPES)


@pytest.mark.parametrize("model", ["affine", "homography", "thin-plate"])
def test_points_that_determine_nothing_are_refused(model):
    line = np.stack([np.arange(5.0), 2 * np.arange(5.0)], 1)
    free = places(5)
    with pytest.raises(ValueError, match=r"on one line in the fixed image.*needs at least"):
        fit_landmarks(line, free, model=model, **SHAPES)
    with pytest.raises(ValueError, match="on one line in the moving image"):
        fit_landmarks(free, line, model=model, **SHAPES)
    twice = free.copy()
    twice[3] = twice[1]
    with pytest.raises(ValueError, match="pairs 2 and 4 coincide in the moving"):
        fit_landmarks(free, twice, model=model, **SHAPES)
    with pytest.raises(ValueError, match="pairs 3 and 8 coincide"):
        fit_landmarks(free, twice, model=model, numbers=[1, 3, 5, 8, 9], **SHAPES)


def test_three_of_four_on_a_line_determine_no_homography():
    fixed = np.array([[0, 0], [10, 10], [20, 20], [5, 40]], float)
    with pytest.raises(ValueError, match="of which no 3 lie on one line, got 4"):
        fit_landmarks(fixed, project(AFFINE, fixed), model="homography", **SHAPES)


def test_a_horizon_in_the_image_is_refused():
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0, -1 / 60, 1]])  # beyond column 60 is the sky
    fixed = np.array([[5, 5], [50, 8], [8, 40], [45, 45], [20, 30]], float)
    with pytest.raises(ValueError, match="horizon crosses the fixed image"):
        fit_landmarks(fixed, project(matrix, fixed), model="homography", **SHAPES)


def test_bad_input_is_named():
    good = places(4)
    with pytest.raises(ValueError, match="fixed_points: got shape"):
        fit_landmarks(good.T[:, :3], good, **SHAPES)
    with pytest.raises(ValueError, match="moving_points: got NaN"):
        fit_landmarks(good, good * np.nan, **SHAPES)
    with pytest.raises(ValueError, match="moving_points: got 3 for 4 fixed_points"):
        fit_landmarks(good, good[:3], **SHAPES)
    with pytest.raises(ValueError, match="numbers: got 2 for 4 pairs"):
        fit_landmarks(good, good, numbers=[1, 2], **SHAPES)
    with pytest.raises(ValueError, match="model: got 'rigid', need one of affine"):
        fit_landmarks(good, good, model="rigid", **SHAPES)


def test_what_was_given_stays_as_it_is():
    fixed, moving = places(6), bend(places(6))
    before = fixed.copy(), moving.copy()
    for model in MIN_PAIRS:
        fit_landmarks(fixed, moving, model=model, **SHAPES).transform.flow()
    np.testing.assert_array_equal(fixed, before[0])
    np.testing.assert_array_equal(moving, before[1])
