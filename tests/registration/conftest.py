"""The matching networks, loaded once, without gradients."""

from __future__ import annotations

import pytest
import torch

from napari_busref.registration.features import MatchingNetworks


@pytest.fixture(scope="module")
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="package")
def networks():
    return MatchingNetworks.load()


@pytest.fixture(scope="package")
def matcher(networks):
    return networks.matcher
