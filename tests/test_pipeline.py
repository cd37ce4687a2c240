from __future__ import annotations

import threading

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from napari_busref import Cancelled, Transform, register_and_fuse

SHIFT = Transform(
    [[1, 0, 0], [0, 1, 30], [0, 0, 1]], fixed_shape=(90, 110), moving_shape=(90, 110)
)


def pair():
    visible = data.astronaut()[:90, :110]
    return visible, ndimage.gaussian_filter(255 - visible[..., 0], 1)


def test_both_steps():
    visible, infrared = pair()
    copies = visible.copy(), infrared.copy()
    result = register_and_fuse(
        visible,
        infrared,
        model="identity",
        fusion_model="average",
        initial=SHIFT,
        infrared=0.7,
        detail=0.6,
        task="medical",
        device="cpu",
    )
    assert np.array_equal(visible, copies[0])
    assert np.array_equal(infrared, copies[1])
    registration, fused = result.registration, result.fusion.fused
    assert registration.transform == SHIFT
    assert not registration.mask[:, 80:].any()
    assert fused.shape == visible.shape
    assert np.array_equal(fused[~registration.mask], visible[~registration.mask])
    assert not np.array_equal(fused[:, :60], visible[:, :60])
    assert registration.parameters["model"] == "identity"
    assert result.fusion.parameters["model"] == "average"
    assert result.fusion.parameters["mask"] == "given"
    asked = {"infrared": 0.7, "detail": 0.6, "task": "medical"}
    assert {name: result.fusion.parameters[name] for name in asked} == asked


def test_one_progress_for_both_and_cancel_between():
    seen = []
    cancel = threading.Event()
    arguments = {"model": "identity", "fusion_model": "average", "device": "cpu"}
    register_and_fuse(*pair(), progress=lambda *step: seen.append(step), **arguments)
    fractions = [fraction for _, fraction in seen]
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert fractions == sorted(fractions)
    stages = [stage for stage, _ in seen]
    assert stages.index("registered") < stages.index("fusing the images")

    def progress(stage, fraction):
        if stage == "registered":
            cancel.set()

    with pytest.raises(Cancelled):
        register_and_fuse(*pair(), progress=progress, cancel=cancel, **arguments)


def test_the_best_so_far_can_be_kept():
    cancel = threading.Event()
    stages = []

    def progress(stage, fraction):
        stages.append(stage)
        if stages.count("aligning the details") == 8:  # after the first level
            cancel.set()

    arguments = {"model": "identity", "refine": "affine", "fusion_model": "average"}
    arguments |= {"progress": progress, "cancel": cancel, "device": "cpu"}
    kept = register_and_fuse(*pair(), on_cancel="best", **arguments)
    assert kept.fusion is None
    assert kept.registration.quality.status == "cancelled"
    assert kept.registration.warped.shape == (90, 110)
    assert stages[-1] == "registered"
    cancel.clear()
    stages.clear()
    with pytest.raises(Cancelled):
        register_and_fuse(*pair(), **arguments)


def test_the_weights_of_the_loss_are_passed_on():
    visible, infrared = pair()
    result = register_and_fuse(
        visible[:48, :64],
        infrared[:48, :64],
        model="identity",
        fusion_model="refusion",
        loss_weights=True,
        device="cpu",
    )
    assert result.fusion.loss_weights is not None
    assert all(weights.shape == (48, 64) for weights in result.fusion.loss_weights.values())


def test_constant_infrared_still_gives_a_picture():
    visible, _ = pair()
    result = register_and_fuse(
        visible, np.zeros((40, 50)), model="identity", fusion_model="average", device="cpu"
    )
    assert not result.registration.quality.reliable
    assert result.fusion.fused.shape == visible.shape


@pytest.mark.parametrize("shift", [20, 500])
def test_fusion_does_not_depend_on_the_fill_value(shift):
    rng = np.random.default_rng(0)
    fixed = rng.integers(0, 255, (48, 64), dtype=np.uint8)
    moving = rng.uniform(10, 35, (48, 64)).astype(np.float32)
    away = Transform(
        [[1, 0, shift], [0, 1, 0], [0, 0, 1]], fixed_shape=(48, 64), moving_shape=(48, 64)
    )
    options = {"model": "identity", "fusion_model": "laplacian", "initial": away, "device": "cpu"}
    both = [register_and_fuse(fixed, moving, fill_value=v, **options) for v in (None, 0, -9999)]
    assert np.isnan(both[0].registration.warped).any()
    for other in both[1:]:
        np.testing.assert_array_equal(both[0].fusion.fused, other.fusion.fused)
    assert np.isfinite(both[0].fusion.fused).all()
    if shift == 500:
        np.testing.assert_array_equal(both[0].fusion.fused, fixed)


def test_without_overlap_the_fixed_image_is_the_result():
    rng = np.random.default_rng(0)
    visible, infrared = rng.integers(0, 255, (2, 48, 64), np.uint8)
    far = Transform(
        [[1, 0, 500], [0, 1, 0], [0, 0, 1]], fixed_shape=(48, 64), moving_shape=(48, 64)
    )
    result = register_and_fuse(visible, infrared, model="identity", initial=far, device="cpu")
    assert not result.registration.mask.any()
    assert np.array_equal(result.fusion.fused, visible)
    assert result.fusion.parameters["mask"] == "empty"
