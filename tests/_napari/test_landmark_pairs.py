"""The numbers of landmarks on two images, without Qt."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import LayerList
from napari.layers import Image

from napari_busref._napari.landmarks.pairs import LandmarkPairs, without_overlap


@pytest.fixture
def pairs():
    layers = LayerList([Image(np.zeros((90, 90)), name=name) for name in ("vis", "ir")])
    return LandmarkPairs(layers, *layers)


def shown(pairs, side):
    return list(pairs.points[side].text.values)


def test_both_numbers_of_a_pair_can_be_read_where_it_lies_close_together(pairs):
    """One stands above to the right, the other below to the left."""
    for layer in pairs.points.values():
        layer.add([[40, 40], [41, 60]])
    pairs.thin_labels(zoom=5)
    assert shown(pairs, "fixed") == shown(pairs, "moving") == ["1", "2"]
    above, below = (pairs.points[side].text for side in ("fixed", "moving"))
    assert above.translation[0] < 0 < above.translation[1]
    np.testing.assert_array_equal(above.translation, -below.translation)


def test_what_would_lie_on_other_numbers_is_left_out(pairs):
    fixed = pairs.points["fixed"]
    fixed.add([[40, 40], [41, 41], [42, 42], [80, 80]])
    pairs.thin_labels(zoom=3)
    assert shown(pairs, "fixed") == ["1", "", "", "4"]
    pairs.thin_labels(zoom=3, first=[3])  # the worst, or a selected one
    assert shown(pairs, "fixed") == ["", "", "3", "4"]
    pairs.thin_labels(zoom=30)
    assert shown(pairs, "fixed") == ["1", "2", "3", "4"]
    assert pairs.numbers("fixed") == [1, 2, 3, 4]
    # hidden numbers do not count
    pairs.points["moving"].add([[40, 52]])
    fixed.visible = False
    pairs.thin_labels(zoom=3)
    assert shown(pairs, "moving") == ["1"]


def test_boxes_that_touch_do_not_overlap():
    boxes = np.array([[0, 0, 10, 10], [10, 0, 10, 10], [5, 5, 10, 10], [0, 10, 10, 10]], float)
    assert list(without_overlap(boxes, [0, 1, 2, 3])) == [True, True, False, True]
    assert list(without_overlap(boxes, [2, 0, 1, 3])) == [False, False, True, False]
