"""Features that search and refinement compare."""

from __future__ import annotations

import pytest
import torch

from napari_busref.registration.features import edge_directions
from synthetic_pairs import texture, view

pytestmark = pytest.mark.usefixtures("without_gradients")


def test_edges_do_not_mind_polarity_and_gain():
    image = texture()
    first, second = (edge_directions(view(x)) for x in (image, 0.8 - 0.3 * image))
    torch.testing.assert_close(first, second, atol=2e-2, rtol=0)
    assert float(first.square().sum(1).max()) < 1
