"""Block confidence, inverse consistency and local support."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_busref import Transform, register
from napari_busref.geometry import (
    pixels_to_estimate,
)
from napari_busref.registration.consistency import (
    block_confidence,
    inverse_consistency,
    least_tolerance,
    local_support,
)
from napari_busref.registration.features import FixedFeatures
from synthetic_pairs import SHAPE, moved, pair, texture, view

pytestmark = pytest.mark.usefixtures("without_gradients")


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


def test_the_local_support_says_where_the_estimate_is_wrong(networks):
    """The right half of the picture moved down by 9 px, which an identity does not follow."""
    bend = np.zeros((2, *SHAPE), np.float32)
    bend[0, :, SHAPE[1] // 2 :] = 9
    fixed, moving = pair(moved(displacement=bend))
    identity = pixels_to_estimate(np.eye(3), None, SHAPE, SHAPE, torch.device("cpu"))
    support = local_support(FixedFeatures(networks, fixed), moving, identity, 5 / SHAPE[1])
    rows, cols = support.shape
    assert (rows, cols) == (9, 12)  # cells of 16 px
    left, right = support[:-1, : cols // 2 - 1], support[:-1, cols // 2 + 1 :]
    assert left.min() > 1.5
    assert np.nanmedian(right) < -1.5


def test_nothing_is_said_of_empty_places_and_nothing_for_flat_ones(networks):
    fixed, moving = pair(moved())
    flat, valid = moving.image.clone(), torch.ones_like(moving.image)
    flat[..., :, 96:] = 0.5
    valid[..., :48, :96] = 0
    identity = pixels_to_estimate(np.eye(3), None, SHAPE, SHAPE, torch.device("cpu"))
    support = local_support(
        FixedFeatures(networks, fixed), type(moving)(flat, valid), identity, 5 / SHAPE[1]
    )
    assert np.isnan(support[:2, :5]).all()
    assert not np.isnan(support[3:]).any()
    assert np.abs(support[4:, 8:]).max() < 1.5 < support[5:, :5].min()


@pytest.mark.parametrize(("shape", "least"), [((200, 288), 2), ((2048, 2048), 14.2)])
def test_large_images_cannot_tell_small_errors(shape, least):
    assert least_tolerance(shape) == pytest.approx(least, rel=0.2)


def test_few_blocks_say_nothing(networks):
    """Less than 8 blocks of 8 px, and blocks that are partly empty, do not count."""
    truth = moved()
    fixed, moving = pair(truth)
    estimate = pixels_to_estimate(truth.affine, None, SHAPE, SHAPE, torch.device("cpu"))
    reference = FixedFeatures(networks, fixed)
    valid = torch.zeros_like(moving.valid)
    valid[..., 40:52, 40:140] = 1  # a strip: hardly any block lies within
    assert block_confidence(reference, type(moving)(moving.image, valid), estimate) == 0
    valid[..., 40:120, 40:140] = 1
    some = block_confidence(reference, type(moving)(moving.image, valid), estimate)
    assert some > 0.8


@pytest.mark.parametrize("shape", [(16, 1600), (1600, 16), (32, 1000)])
def test_strips_are_judged_by_what_they_show(shape):
    """Also those that are thinner than the margins of a shrunk image would be."""
    long = tuple(side + 12 for side in shape)
    image, other = (texture(long, seed)[6:-6, 6:-6] for seed in (0, 1))
    moving = 1 - texture(long)[4:-8, 9:-3]  # 2 rows down and 3 columns to the left
    truth = Transform([[1, 0, 2], [0, 1, -3], [0, 0, 1]], fixed_shape=shape, moving_shape=shape)
    as_it_is = {"model": "identity", "search": "none", "refine": "none"}

    def quality(second, initial):
        return register(image, second, initial=initial, **as_it_is).quality

    found = quality(moving, truth)
    assert found.reliable and found.score > 0.8, found.reasons
    assert not quality(other, truth).reliable
    affine = np.eye(3)
    affine[np.argmax(shape), 2] = 20  # along the strip
    away = Transform(affine, fixed_shape=shape, moving_shape=shape)
    assert quality(moving, away).score < 0.3
