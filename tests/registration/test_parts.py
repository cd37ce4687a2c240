"""What each part of the registration is worth on the built-in thermal pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from napari_busref import load_sample, register
from napari_busref.models import load_model
from napari_busref.models.features.likelihood import Likelihood
from napari_busref.models.features.matcher import Matcher
from napari_busref.models.registration.busref import BusRef
from napari_busref.registration.auto import Auto
from napari_busref.registration.features import MatchingNetworks

pytestmark = pytest.mark.usefixtures("without_gradients")
FLOOR_PX = 5.0  # the pair is 33 px off


def error_of(model: object) -> float:
    """Mean error in pixels on the built-in thermal pair."""
    sample = load_sample("thermal")
    points = np.argwhere(sample.truth.mask())[::97]
    found = register(sample.fixed, sample.moving, model=model, device="cpu").transform
    return float(np.hypot(*(found.points(points) - sample.truth.points(points)).T).mean())


def changed(change: Callable[[BusRef], None]) -> BusRef:
    """The shipped network after a change of a part."""
    model = load_model("busref", device="cpu")
    assert isinstance(model, BusRef)
    twin = BusRef(model.config)
    twin.load_state_dict(model.state_dict())
    change(twin)
    return twin.eval()


def without_mlp(model: BusRef) -> None:
    """Let the Affine Net answer with its fit alone."""
    nn.init.zeros_(model.affine_net.mlp[-1].weight)
    nn.init.zeros_(model.affine_net.mlp[-1].bias)


def without_field(model: BusRef) -> None:
    """Let the Deformable Net answer with no displacement."""
    nn.init.zeros_(model.deformable_net.weigh.weight)
    nn.init.zeros_(model.deformable_net.weigh.bias)


def untrained(model: BusRef) -> None:
    """Forget everything that was trained, but for the bus."""
    torch.manual_seed(0)
    fresh = BusRef(model.config)
    fresh.bus = model.bus
    model.load_state_dict(fresh.state_dict())


def test_the_network_alone_reaches_its_floor():
    assert error_of("busref") < FLOOR_PX


@pytest.mark.parametrize("change", [without_field, untrained])
def test_a_part_that_does_nothing_is_missed(change):
    assert error_of(changed(change)) > error_of("busref") + 0.3


def test_every_unit_of_the_mlp_answers_to_its_input():
    mlp = load_model("busref", device="cpu").affine_net.mlp
    answers = mlp[:-1](torch.randn(64, mlp[0].normalized_shape[0]))
    assert (answers.std(0) > 1e-3).all()


def test_networks_that_were_never_trained_register_nothing():
    torch.manual_seed(0)
    blank = Auto({}, MatchingNetworks(Matcher().eval(), Likelihood().eval()))
    sample = load_sample("thermal")
    result = register(sample.fixed, sample.moving, model=blank, search="near", device="cpu")
    assert not result.quality.reliable
