"""The search of every rotation and scale."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_busref import Cancelled, Transform
from napari_busref.geometry import Estimate
from napari_busref.registration.canvases import Frame, with_local_contrast
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.pyramid import MaskedImage
from napari_busref.registration.scoring import CandidateScorer
from napari_busref.registration.wide_match import find_pose
from napari_busref.registration.wide_search import (
    CAREFUL,
    QUICK,
    _describe,
    _joined,
    wide_search,
)
from napari_busref.runtime.progress import Reporter
from synthetic_pairs import SHAPE, error, moved, pair, start, texture, view

pytestmark = pytest.mark.usefixtures("without_gradients")

MIRROR = Transform(
    [[1, 0, 0], [0, -1, SHAPE[1] - 1], [0, 0, 1]], fixed_shape=SHAPE, moving_shape=SHAPE
)


@pytest.mark.parametrize(
    ("how", "angle", "scale", "shift"),
    [(QUICK, 0, 1.0, 0), (QUICK, 100, 0.75, 10), (CAREFUL, -160, 1.6, 8), (QUICK, 48, 0.45, 0)],
)
def test_proposes_any_pose_first(matcher, how, angle, scale, shift):
    truth = moved(row=shift, col=-shift, angle=angle, scale=scale)
    fixed, moving = pair(truth)
    best = wide_search(matcher, fixed, moving, start().theta, how)[0]
    assert error(Estimate(best.theta), truth) < 0.06 * SHAPE[0]


@pytest.mark.parametrize(("scale", "found"), [(1.2, True), (1.9, False)])
def test_scales_near_one_alone(matcher, scale, found):
    truth = moved(angle=100, scale=scale)
    best = wide_search(matcher, *pair(truth), start().theta, QUICK, level=True)[0]
    assert (error(Estimate(best.theta), truth) < 0.06 * SHAPE[0]) == found


def test_proposes_a_pose_that_shows_a_fifth_of_the_picture(matcher):
    truth = moved(row=20, col=-20, angle=265, scale=2.3)
    fixed, moving = pair(truth)
    found = wide_search(matcher, fixed, moving, start().theta, CAREFUL)
    assert min(error(Estimate(x.theta), truth) for x in found) < 0.06 * SHAPE[0]


@pytest.mark.parametrize("mirrored", [True, False])
def test_finds_a_mirrored_pose_only_where_wanted(matcher, mirrored):
    truth = moved(angle=70, row=6).compose(MIRROR)
    fixed, moving = pair(truth)
    best = wide_search(matcher, fixed, moving, start().theta, QUICK, mirrored=mirrored)[0]
    assert (float(torch.linalg.det(best.theta[0, :, :2])) < 0) == mirrored
    assert (error(Estimate(best.theta), truth) < 0.06 * SHAPE[0]) == mirrored


def test_the_images_may_have_other_sizes_and_a_sheared_start(matcher):
    image = texture()
    squeezed = ndimage.zoom(1 - image, (1.0, 0.5), order=1)
    moving = np.ascontiguousarray(np.rot90(squeezed))
    fixed, moving = view(image), view(moving)
    # By rows and columns of [-1, 1] the start only squeezes, and the pose turns a quarter.
    best = wide_search(matcher, fixed, moving, _squeeze(SHAPE, moving.shape), QUICK)[0]
    quarter = torch.tensor([[[0.0, 1, 0], [-1, 0, 0]]])
    assert float((best.theta - quarter).abs().max()) < 0.08


def _squeeze(fixed, moving):
    """Half as many pixels across, as many down, then a quarter turn."""
    linear = torch.tensor([[0.0, 1.0], [-0.5, 0.0]])  # (x, y) pixels
    sides = [torch.tensor([shape[1], shape[0]], dtype=torch.float32) for shape in (moving, fixed)]
    linear = linear * sides[1] / sides[0][:, None]
    return torch.cat([linear, torch.zeros(2, 1)], 1)[None]


def test_an_uneven_light_leaves_the_local_contrast():
    image = texture()
    light = np.linspace(0.3, 1, image.shape[1], dtype=np.float32)
    even, uneven = (with_local_contrast(view(x)).image for x in (image, image * light))
    assert float((even - uneven).std()) < 0.25 * float(even.std())
    assert (image - image * light).std() > 0.6 * image.std()


def test_descriptors_of_both_orientations_lie_over_each_other():
    def grey(image, valid):
        """Descriptors that do not depend on the orientation."""
        means = torch.nn.functional.avg_pool2d(image, 2)
        return torch.cat([means, means.square()], 1)

    image = view(texture())
    frame = Frame.of(image, torch.eye(2))
    linear = frame.turned(100, torch.tensor([15.0, 105.0]))
    first, later = (_describe(grey, frame.canvas(one)) for one in linear)
    own = _describe(grey, frame.canvas(linear[0]).turned())
    for across in (own, later):
        both = _joined(first, across)
        torch.testing.assert_close(both.features[:, 2:], both.features[:, :2], atol=1e-3, rtol=0)
        assert float(both.valid.sum()) > 0.9 * float(first.valid.sum())


def test_proposals_are_distinct_and_sorted(matcher):
    fixed, moving = pair(moved(angle=100))
    found = wide_search(matcher, fixed, moving, start().theta, QUICK, max_candidates=5)
    scores = [candidate.score for candidate in found]
    assert len(found) == 5 and scores == sorted(scores, reverse=True)
    corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    reached = torch.cat([candidate.theta for candidate in found]) @ corners.T
    apart = (reached[:, None] - reached).abs().amax((2, 3)) + torch.eye(5)
    assert float(apart.min()) > 0.1


def test_finds_nothing_where_nothing_is_valid(matcher):
    fixed, moving = pair(moved())
    empty = view(moving.image[0, 0].numpy(), np.zeros(SHAPE, bool))
    assert wide_search(matcher, fixed, empty, start().theta, QUICK) == []


def test_long_images_take_little_more_work_than_squares(matcher, monkeypatch):
    pixels = []
    forward = type(matcher).forward

    def counted(self, image, valid=None):
        pixels.append(image.numel())
        return forward(self, image, valid)

    monkeypatch.setattr(type(matcher), "forward", counted)
    works = []
    for shape in ((128, 128), (16, 1024)):
        pixels.clear()
        image = MaskedImage(torch.rand(1, 1, *shape), torch.ones(1, 1, *shape))
        wide_search(matcher, image, image, start().theta, QUICK)
        works.append(sum(pixels))
    assert works[1] < 4 * works[0]


def test_can_be_cancelled(matcher):
    fixed, moving = pair(moved())
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        wide_search(matcher, fixed, moving, start().theta, QUICK, reporter=Reporter(None, cancel))


def symmetric(seed):
    """A texture that a half turn leaves as it is, apart from a small mark."""
    image = texture(seed=seed)
    image = (image + image[::-1, ::-1]) / 2
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mark = np.exp(-((rows - 40) ** 2 + (cols - 60) ** 2) / 200)
    return image + 0.3 * mark.astype(np.float32)


@pytest.mark.parametrize(("seed", "angle"), [(0, 0), (1, 90), (2, 200)])
def test_a_half_turn_does_not_confuse_a_nearly_symmetric_scene(networks, seed, angle):
    truth = moved(angle=angle)
    image = symmetric(seed)
    moving = view(truth.inverse().apply(1 - image, cval=0.0), truth.inverse().mask())
    scorer = CandidateScorer(FixedFeatures(networks, view(image)), moving)
    poses = find_pose(scorer, start().theta, Reporter())
    turned = moved(angle=angle + 180)
    best = poses[-1] if poses[-1].clear else max(poses, key=lambda pose: pose.blocks)
    # The half turn is all but as good: it may win, but nothing else may.
    assert min(error(best.refined, pose) for pose in (truth, turned)) < 4
