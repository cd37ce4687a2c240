"""Edge agreement of related and unrelated images."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_busref.metrics.alignment import alignment_scores
from napari_busref.metrics.edge_agreement import edge_agreement

SHAPE = (160, 200)


def picture(seed=0, shape=SHAPE, smooth=3.0):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smooth)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def everywhere(shape=SHAPE):
    return np.ones(shape, bool)


def test_edges_of_equal_and_inverted_images():
    image = picture()
    for other in (image, 1 - image, 0.1 + 0.3 * image):
        found = edge_agreement(image, other, everywhere())
        assert found.value > 0.95
        assert abs(found.chance) < 0.1
        assert found.excess > 10


def test_edges_of_a_small_overlap():
    mask = np.zeros((200, 260), bool)
    mask[20:100, 150:250] = True
    for seed in range(3):
        scene, mine, other = (
            ndimage.gaussian_filter(np.random.default_rng(s).standard_normal(mask.shape), 3)
            for s in (seed, seed + 50, seed + 99)
        )
        assert edge_agreement(scene, 1.5 * mine - scene, mask).excess > 4.5
        assert edge_agreement(scene, other, mask).excess < 4


def test_edges_of_unrelated_images():
    found = edge_agreement(picture(0), picture(1), everywhere())
    assert abs(found.value) < 0.15
    assert found.excess < 4


def test_stripes_agree_by_chance():
    stripes = np.tile(np.sin(np.arange(200) / 3), (160, 1)).astype(np.float32)
    other = np.tile(np.sin(np.arange(200) / 5), (160, 1)).astype(np.float32)
    found = edge_agreement(stripes, other, everywhere())
    assert found.value > 0.3  # all edges are vertical in both
    assert found.excess < 4


def test_what_lies_outside_the_mask_does_not_count():
    image = picture()
    other = image.copy()
    other[:, 100:] = 0
    mask = everywhere()
    mask[:, 100:] = False
    assert edge_agreement(image, other, mask).value > 0.95
    assert edge_agreement(image, other, everywhere()).value < 0.9


def test_large_images_are_made_smaller():
    image = picture(shape=(900, 1200), smooth=12)
    found = edge_agreement(image, 1 - image, everywhere((900, 1200)))
    assert found.value > 0.95


def test_nothing_to_compare():
    flat = np.full(SHAPE, 0.5, np.float32)
    assert edge_agreement(flat, picture(), everywhere()) is None
    assert edge_agreement(picture(), picture(), ~everywhere()) is None
    few = ~everywhere()
    few[:12, :12] = True
    assert edge_agreement(picture(), picture(), few) is None


def test_scattered_lost_pixels_leave_edges():
    rng, fixed = np.random.default_rng(0), picture()
    warped = 1 - fixed
    fixed[rng.random(SHAPE) < 0.1], warped[rng.random(SHAPE) < 0.1] = np.nan, np.inf
    for mask in (None, np.isfinite(warped)):
        assert alignment_scores(fixed, warped, mask=mask)["edge_agreement"] > 0.8
