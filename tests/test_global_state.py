"""No call changes the state of torch or numpy, or depends on torch's default number type."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import napari_busref as nb


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    sample = nb.load_sample("thermal")
    return sample.fixed[:64, :80], sample.moving[:64, :80]


@pytest.fixture
def default_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _state() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002, the global generator is meant
    return (
        torch.get_rng_state().numpy().tobytes(),
        (name, keys.tobytes(), *rest),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        np.geterr(),
    )


@pytest.mark.parametrize("model", ["auto", *nb.list_models("registration")])
def test_register_leaves_the_global_state(pair, model):
    before = _state()
    nb.register(*pair, model=model, device="cpu")
    assert _state() == before


@pytest.mark.parametrize("model", nb.list_models("fusion"))
def test_fuse_leaves_the_global_state(pair, model):
    before = _state()
    nb.fuse(*pair, model=model, infrared=0.3, detail=0.6, device="cpu")
    assert _state() == before


@pytest.mark.parametrize(
    "options", [{}, {"search": "wide"}, {"model": "busref"}, {"model": "superfusion"}]
)
def test_register_with_another_default_number_type(pair, options, request):
    expected = nb.register(*pair, device="cpu", **options)
    request.getfixturevalue("default_float64")
    found = nb.register(*pair, device="cpu", **options)
    assert found.transform == expected.transform
    assert found.quality.score == expected.quality.score


@pytest.mark.parametrize("model", nb.list_models("fusion"))
def test_fuse_with_another_default_number_type(pair, model, request):
    expected = nb.fuse(*pair, model=model, device="cpu").fused
    request.getfixturevalue("default_float64")
    assert np.array_equal(nb.fuse(*pair, model=model, device="cpu").fused, expected)
