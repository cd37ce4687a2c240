"""The search around the initial pose."""

from __future__ import annotations

import threading

import pytest
import torch

from napari_busref.geometry import (
    Estimate,
    pixels_to_estimate,
)
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.near_search import (
    PoseCandidate,
    _suppress_duplicates,
    corners_of,
    near_search,
)
from napari_busref.registration.pyramid import (
    pyramid_schedule,
)
from napari_busref.registration.refine import (
    refine_levels,
)
from napari_busref.runtime.progress import Cancelled, Reporter
from synthetic_pairs import SHAPE, error, moved, pair, start

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.mark.parametrize(
    "truth", [moved(row=25, col=-30, angle=10, scale=1.12), moved(row=-20, col=35, angle=-13)]
)
def test_near_search_comes_close(matcher, truth):
    fixed, moving = pair(truth)
    found = near_search(matcher, fixed, moving, start().theta)
    assert 1 <= len(found) <= 3
    assert found[0].score == max(place.score for place in found)
    assert error(Estimate(found[0].theta), truth) < 14 < error(start(), truth)


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
    assert near_search(matcher, fixed, moving, far) == []


def test_a_cancelled_search_ends_at_the_next_scale(matcher):
    fixed, moving = pair(moved())
    cancel, seen = threading.Event(), []

    def progress(stage, share):
        seen.append(share)
        if len(seen) == 2:
            cancel.set()

    with pytest.raises(Cancelled):
        near_search(matcher, fixed, moving, start().theta, reporter=Reporter(progress, cancel))
    assert seen == [0, pytest.approx(1 / 3)]


def test_poses_whose_corners_lie_close_are_one():
    def shifted(x):
        return PoseCandidate(torch.tensor([[[1.0, 0, x], [0, 1, 0]]]), -x)

    corners = corners_of(shifted(0.5).theta)[0].tolist()
    assert corners == [[-0.5, -1], [1.5, -1], [-0.5, 1], [1.5, 1]]
    first, near, apart, far = (shifted(x) for x in (0.0, 0.05, 0.07, 0.5))
    kept = _suppress_duplicates([first, near, apart, far], 2)
    assert [pose.score for pose in kept] == [0.0, -0.07]
    wide = PoseCandidate(torch.tensor([[[1.04, 0, 0], [0, 1.0, 0]]]), 0.0)
    assert len(_suppress_duplicates([first, wide], 3)) == 1  # 0.04 at the corners
