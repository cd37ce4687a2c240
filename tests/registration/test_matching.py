"""Search, fits, refinement and the choice between candidates."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_busref import Cancelled, Transform, load_sample, register
from napari_busref.geometry import (
    Estimate,
    compose,
    estimate_to_pixels,
    identity_theta,
    offsets,
    pixels_to_estimate,
    sampling_grid,
)
from napari_busref.registration.candidates import edge_score, match
from napari_busref.registration.consistency import block_confidence, inverse_consistency
from napari_busref.registration.context import MatchOptions, RunContext
from napari_busref.registration.em_fit import (
    BlockLikelihoods,
    fit_affine,
    fit_bspline_field,
    fit_homography,
)
from napari_busref.registration.features import FixedFeatures, MatchingNetworks, edge_directions
from napari_busref.registration.pyramid import (
    MaskedImage,
    PyramidLevel,
    pixel_scale,
    pyramid_schedule,
    resample,
    working_size,
)
from napari_busref.registration.refine import (
    min_jacobian,
    refine_levels,
    unfold_field,
)
from napari_busref.registration.search import RANGES, PoseCandidate, search
from napari_busref.runtime.progress import Reporter

SHAPE = (144, 192)


@pytest.fixture(scope="module", autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def networks():
    return MatchingNetworks.load()


@pytest.fixture(scope="module")
def matcher(networks):
    return networks.matcher


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
    return MaskedImage(tensor, known.float())


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


def test_edges_do_not_mind_polarity_and_gain():
    image = texture()
    first, second = (edge_directions(view(x)) for x in (image, 0.8 - 0.3 * image))
    torch.testing.assert_close(first, second, atol=2e-2, rtol=0)
    assert float(first.square().sum(1).max()) < 1


# -- the most likely -----------------------------------------------------------------------------


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


def test_fields_do_not_fold():
    phi = torch.randn(1, 2, 30, 40, generator=torch.Generator().manual_seed(0)) * 0.2
    assert min_jacobian(phi) < 0
    assert min_jacobian(unfold_field(phi)) >= 0.1
    gentle = torch.zeros(1, 2, 30, 40)
    assert unfold_field(gentle) is gentle


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


def test_a_small_overlap_is_looked_at_closely(networks):
    truth, off = (moved(row=20 + by, col=-25 - by, angle=8, scale=2.1) for by in (0, 8))
    fixed, moving = pair(truth)
    begun = pixels_to_estimate(off.affine, None, SHAPE, SHAPE, torch.device("cpu"))
    look = pyramid_schedule("affine", "affine", SHAPE)[:1]
    (reached,) = refine_levels(FixedFeatures(networks, fixed), moving, begun, look)
    assert error(reached, truth) < 1 < 10 < error(begun, truth)


def test_search_without_overlap_finds_nothing(matcher):
    fixed, moving = pair(moved())
    far = torch.tensor([[[1.0, 0, 8.0], [0, 1, 0]]])
    assert search(matcher, fixed, moving, far, RANGES["near"]) == []


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


def test_large_images_are_refined_step_by_step():
    plan = pyramid_schedule("dense", "affine", (2048, 2048))
    assert [look.side for look in plan if look.kind == "dense"] == [512, 1024, 2048]
    assert [look.side for look in plan if look.kind == "affine"] == [128, 128, 192, 288]
    assert pyramid_schedule("dense", "homography", (400, 400))[-2].kind == "homography"
    small = pyramid_schedule("affine", "affine", (90, 90))
    assert [(look.kind, look.side) for look in small] == [("affine", 90.0)] * 2
    assert pyramid_schedule("none", "affine", (90, 90)) == ()


def test_a_near_start_is_looked_at_closely_at_once():
    plan = pyramid_schedule("dense", "affine", (400, 400), near=True)
    assert [(look.kind, look.side) for look in plan] == [("affine", 288), ("dense", 400)]


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


# -- the choice -----------------------------------------------------------------------------------


class Wrong(torch.nn.Module):
    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        return Estimate(torch.tensor([[[1.0, 0, 0.4], [0, 1, -0.3]]]))


def found(networks, truth, options, proposal_networks=None, reporter=None, **more):
    fixed, moving = pair(truth)
    return match(
        proposal_networks or {},
        FixedFeatures(networks, fixed),
        moving,
        Estimate(identity_theta(1, fixed.image)),
        RunContext(options, reporter or Reporter(), **more),
    )


def test_the_best_candidate_wins(networks):
    truth = moved(row=20, col=-25, angle=9)
    result = found(networks, truth, MatchOptions(refine="affine"), {"wrong": Wrong()})
    assert result.chosen.startswith("search")
    assert {"initial", "wrong", "search"} <= set(result.scores)
    assert result.scores[result.chosen] == max(result.scores.values())
    assert error(result.estimate, truth) < 1.5


class Said(torch.nn.Module):
    """Says what it was told to say."""

    def __init__(self, theta):
        super().__init__()
        self.theta = theta

    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        return Estimate(self.theta)


@pytest.fixture
def looked(monkeypatch):
    """Where every refinement that `match` runs has started."""
    starts = []

    def counted(fixed, moving, start, *schedule, **more):
        starts.append(start)
        return refine_levels(fixed, moving, start, *schedule, **more)

    monkeypatch.setattr("napari_busref.registration.candidates.refine_levels", counted)
    return starts


def test_of_candidates_that_are_alike_the_best_one_is_looked_at(networks, looked, monkeypatch):
    close, closer = (torch.tensor([[[1.0, 0, x], [0, 1, 0]]]) for x in (0.03, 0.01))
    said = {"close": Said(close), "closer": Said(closer), "wrong": Wrong()}
    options = MatchOptions(search="none", refine="none", initial=False)
    assert found(networks, moved(), options, said).chosen == "closer"
    assert len(looked) == 1  # and that was clearly right
    looked.clear()
    monkeypatch.setattr(
        "napari_busref.registration.candidates._CONFIDENT_EDGE_SCORE", 1.1
    )  # nothing ever is
    result = found(networks, moved(), options, said)
    assert [float(estimate.theta[0, 0, 2]) for estimate in looked] == pytest.approx([0.01, 0.4])
    assert result.chosen == "closer"
    assert set(result.scores) == {"close", "closer", "wrong"}
    # a network that says nothing usable is like no other
    said = {"nothing": Said(torch.zeros(1, 2, 3)), "closer": Said(closer)}
    assert found(networks, moved(), options, said).chosen == "closer"


def test_further_places_are_looked_at_until_one_is_clear(networks, looked, monkeypatch):
    options = MatchOptions(refine="none", initial=False)
    result = found(networks, moved(row=5), options)
    assert len(looked) == 1 and set(result.scores) == {"search", "search 2", "search 3"}
    monkeypatch.setattr(
        "napari_busref.registration.candidates._CONFIDENT_EDGE_SCORE", 1.1
    )  # nothing ever is
    assert found(networks, moved(row=5), options).chosen == result.chosen
    assert len(looked) > 2


def test_where_edges_say_little_blocks_decide(networks, monkeypatch):
    def edges(reference, moving, estimate):  # as beside a hot object with a strong border
        return 0.1 if float(estimate.theta[0, 0, 2]) > 0.2 else 0.0

    monkeypatch.setattr("napari_busref.registration.candidates.edge_score", edges)
    said = {"wrong": Wrong(), "close": Said(torch.tensor([[[1.0, 0, 0.03], [0, 1, 0]]]))}
    options = MatchOptions(search="none", refine="none", initial=False)
    result = found(networks, moved(), options, said)
    assert result.chosen == "close"
    assert result.scores["close"] > 0.8 > 0.5 > result.scores["wrong"]
    monkeypatch.setattr(
        "napari_busref.registration.candidates._CONFIDENT_EDGE_SCORE", 0.05
    )  # edges say enough
    result = found(networks, moved(), options, said)
    assert result.chosen == "wrong"
    assert result.scores == {"close": 0.0, "wrong": 0.1}


@pytest.mark.parametrize("right", [2, 5, None])
def test_further_places_are_looked_at_where_the_first_ones_fail(networks, monkeypatch, right):
    shifts = [(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5), (0.5, 0.5)]
    places = [PoseCandidate(torch.tensor([[[1.0, 0, x], [0, 1, y]]]), 0.0) for x, y in shifts]
    if right is not None:
        places.insert(right - 1, PoseCandidate(torch.eye(2, 3)[None], 0.0))
    asked = []

    def proposed(*_, max_candidates, **__):
        asked.append(max_candidates)
        return places

    monkeypatch.setattr("napari_busref.registration.candidates.search", proposed)
    kept = []
    options = MatchOptions(refine="affine", initial=False)
    result = found(networks, moved(row=3), options, keep=kept.append)
    assert asked == [12]  # one search, whatever is looked at
    if right is None:
        assert result.block_confidence < 0.6
        return
    assert len(result.scores) == (3 if right == 2 else 6)
    assert result.chosen == f"search {right}"
    assert result.block_confidence > 0.8
    assert error(result.estimate, moved(row=3)) < 1
    assert kept[-1] is result.estimate


def test_a_wide_search_finds_a_fifth_of_the_picture(networks):
    truth = moved(row=20, col=-25, angle=8, scale=2.4)
    result = found(networks, truth, MatchOptions(search="wide", refine="affine"))
    assert len([name for name in result.scores if name.startswith("search")]) == 12
    assert error(result.estimate, truth) < 1


class Bent(torch.nn.Module):
    """Says something else when only the affine is of use."""

    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        return Estimate(identity_theta(1, fixed), torch.full((1, 2, 8, 8), 0.1))


class Quick(Bent):
    def coarse(self, fixed, moving, moving_valid=None, reporter=None):
        return Wrong()(fixed, moving)


@pytest.mark.parametrize(
    ("network", "refine", "expected"),
    [
        (Bent(), "none", Bent()),
        (Quick(), "none", Bent()),
        (Quick(), "affine", Wrong()),
        (Bent(), "affine", lambda fixed, _: Estimate(identity_theta(1, fixed))),
    ],
)
def test_only_the_affine_of_a_network_is_refined(networks, network, refine, expected):
    options = MatchOptions(search="none", refine=refine, initial=False)
    result = found(networks, moved(row=3), options, {"network": network})
    image = torch.zeros(1, 1, 8, 8)
    wanted = expected(image, image)
    torch.testing.assert_close(result.coarse.theta, wanted.theta)
    assert (result.coarse.phi is None) == (wanted.phi is None)


@pytest.mark.parametrize("search", ["none", "near"])
@pytest.mark.parametrize("refine", ["none", "affine"])
def test_what_is_not_finite_is_left_out(networks, search, refine):
    said = {"broken": Said(torch.full((1, 2, 3), torch.nan))}
    options = MatchOptions(search=search, refine=refine, initial=False)
    result = found(networks, truth := moved(row=3), options, said)
    if search == "none":  # for `register` to say so
        assert result.chosen == "broken" and result.block_confidence == 0
        assert bool(result.estimate.theta.isnan().all())
    else:
        assert result.chosen.startswith("search")
        assert error(result.estimate, truth) < (1.5 if refine == "affine" else 3)


def test_stages_can_be_switched_off(networks):
    result = found(networks, moved(row=3), MatchOptions(search="none", refine="none"))
    assert result.chosen == "initial"
    assert result.scores == {}
    assert error(result.estimate, moved()) < 1e-3


def test_cancelling_the_refinement(networks):
    cancel, reached = threading.Event(), []

    def progress(stage, fraction):
        if stage.startswith("refining"):
            cancel.set()

    with pytest.raises(Cancelled):
        found(
            networks,
            truth := moved(row=9),
            MatchOptions(search="none"),
            reporter=Reporter(progress, cancel),
            keep=reached.append,
        )
    before, after = (error(estimate, truth) for estimate in (reached[0], reached[-1]))
    assert after < 6 < before


def test_edge_score_prefers_the_truth(networks):
    truth = moved(row=5, col=8, angle=4)
    fixed, moving = pair(truth)
    device = torch.device("cpu")
    right = pixels_to_estimate(truth.affine, None, SHAPE, SHAPE, device)
    assert (
        edge_score(FixedFeatures(networks, fixed), moving, right)
        > edge_score(FixedFeatures(networks, fixed), moving, start()) + 0.2
    )
    assert edge_score(FixedFeatures(networks, view(np.zeros(SHAPE))), moving, right) == -1


def test_agreement_tells_right_from_wrong(networks):
    truth = moved(row=5, col=8, angle=4)
    fixed, moving = pair(truth)
    estimate = pixels_to_estimate(truth.affine, None, SHAPE, SHAPE, torch.device("cpu"))
    reference = FixedFeatures(networks, fixed)
    assert block_confidence(reference, moving, estimate) > 0.8
    assert inverse_consistency(reference, moving, estimate) < 0.02
    other = view(texture(seed=5))
    assert block_confidence(reference, other, estimate) < 0.3
    assert inverse_consistency(reference, other, estimate) > 0.02


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
    assert {"initial", "busref", "superfusion", "search"} <= set(evidence.candidates)
    assert {"busref", "search", "judge", "refine", "agreement"} <= set(result.timings)
    assert result.quality.min_jacobian > 0


def test_images_that_share_nothing_stay_where_they_are():
    result = register(texture(seed=1), texture(seed=2), device="cpu")
    assert not result.quality.reliable
    assert result.transform == Transform.identity(SHAPE)
    assert "a wide search, or an initial transform, may help" in result.quality.reasons[0]


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
