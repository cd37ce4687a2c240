"""Dark and flat samples of the photometric augmentation."""

from __future__ import annotations

import torch

from napari_busref.training.batches.augment import Photometric
from napari_busref.training.recipe import AugmentConfig

QUIET = {"gamma": (1.0, 1.0), "gain": (1.0, 1.0), "polarity": 0.0, "noise": 0.0, "blur": 0.0}


def test_dark_samples_keep_their_order_of_brightness() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(40, 1, 16, 64)
    config = AugmentConfig(**{**QUIET, "dark": 1.0})  # type: ignore[arg-type]
    visible, infrared = Photometric(config)(ramp, ramp)
    middle = visible[..., 24:40].mean((1, 2, 3))
    assert (middle > 0.02).all() and (middle < 0.37).all()
    assert (visible[..., 1:] >= visible[..., :-1] - 1e-3).all()
    both_dark = float((infrared[..., 24:40].mean((1, 2, 3)) < 0.4).float().mean())
    assert 0.2 < both_dark < 0.8


def test_flat_samples_have_one_level_in_both_images() -> None:
    torch.manual_seed(0)
    config = AugmentConfig(**{**QUIET, "flat": 0.5})  # type: ignore[arg-type]
    visible, infrared = Photometric(config)(*torch.rand(2, 60, 1, 16, 16))
    flat = visible.flatten(1).std(1) == 0
    assert 0.3 < float(flat.float().mean()) < 0.7
    assert (visible[flat] == infrared[flat]).all()
    assert (infrared[~flat].flatten(1).std(1) > 0.1).all()
    assert float(visible[flat].max() - visible[flat].min()) > 0.7
