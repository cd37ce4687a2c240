"""Block confidence and inverse consistency."""

from __future__ import annotations

import pytest
import torch

from napari_busref.geometry import (
    pixels_to_estimate,
)
from napari_busref.registration.consistency import block_confidence, inverse_consistency
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
