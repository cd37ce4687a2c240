"""The search around the initial pose."""

from __future__ import annotations

import pytest
import torch

from napari_busref.geometry import (
    Estimate,
    pixels_to_estimate,
)
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.near_search import near_search
from napari_busref.registration.pyramid import (
    pyramid_schedule,
)
from napari_busref.registration.refine import (
    refine_levels,
)
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
