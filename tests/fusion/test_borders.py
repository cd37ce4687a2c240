"""The border of the fused area: no step in brightness."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref import fuse
from napari_busref.fusion.borders import continued

SHAPE = (120, 160)
SKYLINE = 60


def scene():
    """A bright sky over a dark street; in the infrared image the sky is cold, the street warm."""
    rng = np.random.default_rng(0)
    visible = np.where(np.indices(SHAPE)[0] < SKYLINE, 0.8, 0.3)
    infrared = np.where(np.indices(SHAPE)[0] < SKYLINE, 0.2, 0.7)
    visible, infrared = (x + 0.02 * rng.standard_normal(SHAPE) for x in (visible, infrared))
    mask = np.zeros(SHAPE, bool)
    mask[15:, 30:130] = True  # its lower side is the edge of the image
    return visible, np.where(mask, infrared, 0), mask


def step(image, mask, width):
    """Mean step across the left and right border, and the upper one, over `width` pixels."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    steps = []
    for at in (cols[0], cols[-1] + 1):
        left, right = image[rows, at - width : at], image[rows, at : at + width]
        steps.append(left.mean(1) - right.mean(1))
    above, below = image[rows[0] - width : rows[0], cols], image[rows[0] : rows[0] + width, cols]
    return np.abs(np.concatenate([*steps, above.mean(0) - below.mean(0)])).mean()


@pytest.mark.parametrize("model", ["average", "maximum", "laplacian", "gaf", "refusion"])
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_no_step_at_the_border(model, kind):
    visible, infrared, mask = scene()
    if kind == "colour":
        visible = np.rint(255 * np.stack([visible] * 3, -1)).astype(np.uint8)
    fused = fuse(visible, infrared, mask=mask, model=model, device="cpu").fused
    assert np.array_equal(fused[~mask], visible[~mask])
    if kind == "colour":
        fused, visible = (image.mean(-1) / 255 for image in (fused, visible))
    for width in (1, 4, 8):
        assert step(fused, mask, width) < 1.2 * step(visible, mask, width) + 0.01, width
    assert np.abs(fused - visible)[mask].max() > 0.03  # and yet it is fused


def test_no_step_in_tiles():
    visible, infrared, mask = scene()
    options = {"mask": mask, "model": "average", "device": "cpu"}
    whole = fuse(visible, infrared, **options).fused
    assert np.array_equal(fuse(visible, infrared, tile=32, **options).fused, whole)


def test_each_region_keeps_its_own_step():
    """What lifts the sky does not lift the street below it."""
    visible, _, mask = scene()
    change = np.where(np.indices(SHAPE)[0] < SKYLINE, -0.3, 0.2).astype(np.float32)
    after = continued(change, visible.astype(np.float32), mask)
    sky, street = np.s_[25:50, 40:120], np.s_[70:, 40:120]
    assert np.abs(after[sky].mean()) < 0.1
    assert np.abs(after[street].mean()) < 0.1
    assert after[sky].mean() <= 0 <= after[street].mean()


def test_far_from_the_border_the_change_stays():
    mask = np.zeros((400, 400), bool)
    mask[:, 5:] = True
    change = np.full(mask.shape, 0.3, np.float32)
    after = continued(change, np.full(mask.shape, 0.5, np.float32), mask)
    assert np.abs(after[:, 5:15]).max() < 0.06
    assert after[:, -50:].min() > 0.25
    assert (np.diff(after[:, 20:].mean(0)) > -1e-6).all()


def test_dead_pixels_and_edges_are_no_border():
    change = np.full(SHAPE, 0.3, np.float32)
    mask = np.ones(SHAPE, bool)
    assert continued(change, change, mask) is change
    mask[::10, ::10] = False
    assert continued(change, change, mask) is change
    assert continued(change, change, ~np.ones(SHAPE, bool)) is change
