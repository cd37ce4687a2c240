"""Search, fits, refinement and the choice between candidates."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_busref import Cancelled, Transform, load_model, load_sample, register
from napari_busref._inference import Stopwatch
from napari_busref.matching.agreement import CHANCE, agreement
from napari_busref.matching.features import Reference, edge_directions
from napari_busref.matching.find import Options, edge_score, find
from napari_busref.matching.fit import Displaced, fit_affine, fit_field, fit_homography
from napari_busref.matching.refine import looks, refined, smallest_jacobian, unfolded
from napari_busref.matching.search import RANGES, search
from napari_busref.matching.views import View, pixel_scale, resample, working_size
from napari_busref.matching.votes import offsets, pool_votes, window_correlation
from napari_busref.models.geometry import (
    Estimate,
    compose,
    estimate_to_pixels,
    identity_theta,
    pixels_to_estimate,
    sampling_grid,
)
from napari_busref.progress import Reporter

SHAPE = (144, 192)


@pytest.fixture(scope="module", autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def matcher():
    return load_model("matcher")


def texture(shape=SHAPE, seed=0):
    """Blobs of several sizes: something to see at every resolution."""
    rng = np.random.default_rng(seed)
    image = sum(
        sigma * ndimage.gaussian_filter(rng.standard_normal(shape), sigma) for sigma in (1.5, 4, 9)
    )
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def view(image, valid=None):
    tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    known = torch.ones_like(tensor) if valid is None else torch.from_numpy(valid)[None, None]
    return View(tensor, known.float())


def moved(shape=SHAPE, row=0.0, col=0.0, angle=0.0, scale=1.0, displacement=None):
    """Fixed -> moving positions: turned and scaled about the centre, then shifted."""
    radians = np.deg2rad(angle)
    cos, sin = scale * np.cos(radians), scale * np.sin(radians)
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], float)
    centre = (np.array(shape) - 1) / 2
    matrix[:2, 2] = centre - matrix[:2, :2] @ centre + (row, col)
    return Transform(matrix, displacement, fixed_shape=shape, moving_shape=shape)


def pair(truth, seed=0):
    """A fixed image, and an inverted, bent one that ``truth`` leads to."""
    image = texture(seed=seed)
    moving = truth.inverse().apply(1 - image**0.7)
    return view(image), view(moving, truth.inverse().mask())


def error(estimate, truth):
    """Mean distance in fixed pixels on a grid over the overlap."""
    affine, displacement = estimate_to_pixels(estimate, SHAPE)[0]
    found = Transform(affine, displacement, fixed_shape=SHAPE, moving_shape=SHAPE)
    points = np.argwhere(truth.mask())[::53]
    return np.hypot(*(found.points(points) - truth.points(points)).T).mean()


def start():
    return Estimate(torch.eye(2, 3)[None])


# -- geometry ------------------------------------------------------------------------------------


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


def test_working_sizes():
    assert working_size((480, 640), 128) == (112, 144)
    assert working_size((100, 60), 2048) == (96, 64)  # multiples of 8, not enlarged else
    assert min(working_size((20, 400), 128)) >= 48


def test_pixel_scale():
    theta = torch.tensor([[[0.5, 0, 0], [0, 0.25, 0]]])
    assert float(pixel_scale(theta, (100, 100), (400, 200))) == pytest.approx(1.0)


def test_resample_says_where_the_moving_image_ends():
    shifted = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]])
    seen = resample(view(texture()), Estimate(shifted), SHAPE)
    assert seen.valid[0, 0, :, :140].all()
    assert not seen.valid[0, 0, :, 146:].any()


# -- votes ---------------------------------------------------------------------------------------


def test_the_window_finds_a_shift():
    rng = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(1, 16, 20, 24, generator=rng), dim=1)
    moved_features = torch.roll(features, (2, -1), (2, 3))
    window = window_correlation(features, moved_features, 3)
    votes = pool_votes(window, torch.ones(1, 1, 20, 24), 5)
    found = offsets(3, votes)[votes.argmax(1)][0, 5:-5, 5:-5]
    assert (found == torch.tensor([-1.0, 2.0])).all()


def test_edges_do_not_mind_polarity_and_gain():
    image = texture()
    first, second = (edge_directions(view(x)) for x in (image, 0.8 - 0.3 * image))
    torch.testing.assert_close(first, second, atol=2e-2, rtol=0)
    assert float(first.square().sum(1).max()) < 1


# -- fits ----------------------------------------------------------------------------------------


def measured(function, noise=0.0, outliers=0, seed=0):
    rng = np.random.default_rng(seed)
    position = rng.uniform(-1, 1, (400, 2))
    shift = function(position) - position + noise * rng.standard_normal((400, 2))
    shift[:outliers] += rng.uniform(-0.5, 0.5, (outliers, 2))
    return Displaced(position, shift, np.tile(np.eye(2) * 1e4, (400, 1, 1)))


LIMITS = (0.5, 0.1, 0.05, 0.03)


def test_affine_despite_outliers():
    truth = np.array([[1.05, 0.03, 0.1], [-0.04, 0.98, -0.05], [0, 0, 1]])
    data = measured(lambda p: p @ truth[:2, :2].T + truth[:2, 2], 0.002, outliers=120)
    np.testing.assert_allclose(fit_affine(data, LIMITS), truth, atol=3e-3)


def test_homography():
    truth = np.array([[1.02, 0.03, 0.05], [-0.02, 1.0, -0.05], [0.08, -0.05, 1]])

    def project(p):
        u = np.column_stack([p, np.ones(len(p))]) @ truth.T
        return u[:, :2] / u[:, 2:]

    found = fit_homography(measured(project, 0.001, outliers=60), LIMITS, ridge=1e-6)
    np.testing.assert_allclose(found / found[2, 2], truth, atol=3e-3)


def test_an_edge_counts_across_only():
    # shifts along x are wrong everywhere, and the information says that they are worth nothing
    position = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    shift = np.column_stack([np.full(300, 0.4), np.full(300, 0.1)])
    data = Displaced(position, shift, np.tile(np.diag([1e-4, 1e4]), (300, 1, 1)))
    field = fit_field(data, (1.0, 1.0), 0.5, 0.05, (2.0, 1.0)).on_grid(np.zeros(1), np.zeros(1))
    assert field[0, 0, 1] == pytest.approx(0.1, abs=1e-3)
    assert abs(field[0, 0, 0]) < 0.1


def test_field_follows_a_smooth_one():
    def wave(p):
        return p + 0.05 * np.sin(2 * p[:, ::-1])

    field = fit_field(measured(wave, 0.005, outliers=40), (1.0, 1.0), 0.4, 0.05, LIMITS)
    axis = np.linspace(-0.9, 0.9, 15)
    x, y = np.meshgrid(axis, axis)
    truth = 0.05 * np.stack([np.sin(2 * y), np.sin(2 * x)], -1)
    assert np.abs(field.on_grid(axis, axis) - truth).max() < 0.012


def test_fields_do_not_fold():
    phi = torch.randn(1, 2, 30, 40, generator=torch.Generator().manual_seed(0)) * 0.2
    assert smallest_jacobian(phi) < 0
    assert smallest_jacobian(unfolded(phi)) >= 0.1
    gentle = torch.zeros(1, 2, 30, 40)
    assert unfolded(gentle) is gentle


# -- search and refinement ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "truth", [moved(row=25, col=-30, angle=10, scale=1.12), moved(row=-20, col=35, angle=-13)]
)
def test_near_search_comes_close(matcher, truth):
    fixed, moving = pair(truth)
    found = search(matcher, fixed, moving, start().theta, RANGES["near"])
    assert 1 <= len(found) <= 3
    assert found[0].score == max(place.score for place in found)
    assert error(Estimate(found[0].theta), truth) < 14 < error(start(), truth)


def test_wide_search_turns_any_way(matcher):
    truth = moved(angle=100, scale=0.75)
    fixed, moving = pair(truth)
    found = search(matcher, fixed, moving, start().theta, RANGES["wide"])
    assert error(Estimate(found[0].theta), truth) < 14


def test_search_without_overlap_finds_nothing(matcher):
    fixed, moving = pair(moved())
    far = torch.tensor([[[1.0, 0, 8.0], [0, 1, 0]]])
    assert search(matcher, fixed, moving, far, RANGES["near"]) == []


def test_refinement_reaches_the_pixel(matcher):
    truth = moved(row=6, col=-8, angle=3)
    fixed, moving = pair(truth)
    plan = looks("affine", "affine")
    errors = [error(e, truth) for e in refined(Reference(matcher, fixed), moving, start(), plan)]
    assert len(errors) == len(plan)
    assert errors[-1] < 1.0
    again = [error(e, truth) for e in refined(Reference(matcher, fixed), moving, start(), plan)]
    assert again == errors  # deterministic


def test_dense_refinement_bends(matcher):
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    bend = 4 * np.stack([np.sin(cols / 25), np.cos(rows / 25)]).astype(np.float32)
    truth = moved(displacement=bend)
    fixed, moving = pair(truth)
    *_, affine = refined(Reference(matcher, fixed), moving, start(), looks("affine", "affine"))
    *_, dense = refined(Reference(matcher, fixed), moving, start(), looks("dense", "affine"))
    assert dense.phi is not None
    assert smallest_jacobian(dense.phi) > 0
    assert error(dense, truth) < 0.7 * error(affine, truth)


def test_homography_is_refined(matcher):
    fixed, moving = pair(moved(row=4))
    plan = looks("affine", "homography")
    *_, estimate = refined(Reference(matcher, fixed), moving, start(), plan)
    assert estimate.phi is not None
    assert error(estimate, moved(row=4)) < 1.5


def test_edges_alone_and_features_alone(matcher):
    truth = moved(row=3, col=-4)
    fixed, moving = pair(truth)
    for switches in ({"learned": False}, {"edges": False}):
        plan = looks("affine", "affine")
        *_, last = refined(Reference(matcher, fixed), moving, start(), plan, **switches)
        assert error(last, truth) < 1.5


# -- the choice -----------------------------------------------------------------------------------


class Wrong(torch.nn.Module):
    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        return Estimate(torch.tensor([[[1.0, 0, 0.4], [0, 1, -0.3]]]))


def found(matcher, truth, options, one_shot=None, reporter=None):
    fixed, moving = pair(truth)
    return find(
        one_shot or {},
        matcher,
        fixed,
        moving,
        Estimate(identity_theta(1, fixed.image)),
        options,
        reporter or Reporter(),
        Stopwatch(),
    )


def test_the_best_candidate_wins(matcher):
    truth = moved(row=20, col=-25, angle=9)
    result = found(matcher, truth, Options(refine="affine"), {"wrong": Wrong()})
    assert result.chosen.startswith("search")
    assert {"start", "wrong", "search"} <= set(result.scores)
    assert result.scores[result.chosen] == max(result.scores.values())
    assert error(result.estimate, truth) < 1.5


def test_stages_can_be_switched_off(matcher):
    result = found(matcher, moved(row=3), Options(search="none", refine="none"))
    assert result.chosen == "start"
    assert result.scores == {}
    assert error(result.estimate, moved()) < 1e-3


@pytest.mark.parametrize("keep", [True, False])
def test_cancelling_the_refinement(matcher, keep):
    cancel = threading.Event()

    def progress(stage, fraction):
        if stage.startswith("refining"):
            cancel.set()

    options = Options(search="none", keep_best=keep)
    if not keep:
        with pytest.raises(Cancelled):
            found(matcher, moved(row=9), options, reporter=Reporter(progress, cancel))
        return
    result = found(matcher, moved(row=9), options, reporter=Reporter(progress, cancel))
    assert result.cancelled
    assert error(result.estimate, moved(row=9)) < 6


def test_edge_score_prefers_the_truth():
    truth = moved(row=5, col=8, angle=4)
    fixed, moving = pair(truth)
    device = torch.device("cpu")
    right = pixels_to_estimate(truth.affine, None, SHAPE, SHAPE, device)
    assert (
        edge_score(Reference(None, fixed), moving, right)
        > edge_score(Reference(None, fixed), moving, start()) + 0.2
    )
    assert edge_score(Reference(None, view(np.zeros(SHAPE))), moving, right) == -1


def test_agreement_tells_right_from_wrong(matcher):
    truth = moved(row=5, col=8, angle=4)
    fixed, moving = pair(truth)
    estimate = pixels_to_estimate(truth.affine, None, SHAPE, SHAPE, torch.device("cpu"))
    right = agreement(matcher, fixed, moving, estimate)
    assert right.local > 0.8
    assert right.round_trip < 0.02
    other = agreement(matcher, fixed, view(texture(seed=5)), estimate)
    assert other.local < 5 * CHANCE
    assert other.round_trip > 0.02


# -- register -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thermal", "stain"])
def test_auto_on_the_samples(name):
    sample = load_sample(name)
    result = register(sample.fixed, sample.moving, device="cpu")
    points = np.argwhere(sample.truth.mask())[::97]
    truth = sample.truth.points(points)
    assert np.hypot(*(result.transform.points(points) - truth).T).mean() < 5
    if name == "thermal":  # what the score is calibrated for
        assert result.quality.reliable
    evidence = result.quality.evidence
    assert {"start", "busref", "search"} <= set(evidence.candidates)
    assert {"busref", "search", "judge", "refine", "agreement"} <= set(result.timings)
    assert result.quality.min_jacobian > 0


def test_images_that_share_nothing_stay_where_they_are():
    result = register(texture(seed=1), texture(seed=2), device="cpu")
    assert not result.quality.reliable
    assert result.transform == Transform.identity(SHAPE)
    assert "starting position" in result.quality.reasons[0]


def test_start_from_points():
    truth = moved(row=40, col=-50, angle=25)
    image = texture()
    moving = truth.inverse().apply(image)
    fixed_points = np.array([[20.0, 30], [100, 40], [60, 150], [120, 160]])
    result = register(
        image,
        moving,
        initial=(fixed_points, truth.points(fixed_points) + 2),
        model="identity",
        refine="affine",
        device="cpu",
    )
    assert result.parameters["initial"] == "points"
    points = np.argwhere(truth.mask())[::53]
    off = np.hypot(*(result.transform.points(points) - truth.points(points)).T)
    assert off.mean() < 1


def test_different_pixel_sizes():
    truth = moved(row=6, col=-9, angle=4)
    image = texture()
    moving = ndimage.zoom(truth.inverse().apply(image), 2, order=1)
    result = register(image, moving, device="cpu")
    grown = (moving.shape[0] - 1) / (SHAPE[0] - 1)
    points = np.argwhere(truth.mask())[::53]
    off = np.hypot(*(result.transform.points(points) / grown - truth.points(points)).T)
    assert off.mean() < 2


def test_half_empty_images():
    truth = moved(row=6, col=-9)
    image = texture()
    moving = truth.inverse().apply(image)
    moving[:, :90] = np.nan
    result = register(image, moving, device="cpu")
    assert np.isfinite(result.flow).all()
    points = np.argwhere(result.mask)[::53]
    if result.quality.reliable:
        off = np.hypot(*(result.transform.points(points) - truth.points(points)).T)
        assert off.mean() < 5
