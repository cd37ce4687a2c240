from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import color, data
from torch import nn

from napari_busref import Cancelled, fuse, list_models

SHAPE = (90, 110)


class Mean(nn.Module):
    """Averages both, or returns what `answer` makes of them."""

    def __init__(self, answer=lambda visible, infrared: (visible + infrared) / 2):
        super().__init__()
        self.answer = answer
        self.seen = None

    def forward(self, visible, infrared):
        self.seen = visible, infrared
        for image in self.seen:
            assert torch.isfinite(image).all()
            assert 0 <= image.min() <= image.max() <= 1
        return self.answer(visible, infrared)


def texture(seed=0, smooth=3.0, shape=SHAPE):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smooth)
    return (image - image.min()) / np.ptp(image)


def disk(radius=30):
    rows, cols = np.indices(SHAPE)
    return np.hypot(rows - 45, cols - 55) < radius


def test_grey_uint8():
    visible, infrared = (texture() * 255).astype(np.uint8), (texture(1) * 255).astype(np.uint8)
    copies = visible.copy(), infrared.copy()
    fused = fuse(visible, infrared, model=Mean(), device="cpu").fused
    assert fused.dtype == np.uint8
    expected = (visible.astype(float) + infrared) / 2
    np.testing.assert_allclose(fused, expected, atol=0.51)
    assert np.array_equal(visible, copies[0])
    assert np.array_equal(infrared, copies[1])


def test_colour_keeps_its_chroma():
    visible = data.astronaut()[:90, :110]
    infrared = np.full(SHAPE, 128, np.uint8)
    fused = fuse(visible, infrared, model=Mean(), device="cpu").fused
    assert fused.shape == visible.shape
    assert fused.dtype == np.uint8
    before, after = color.rgb2ycbcr(visible), color.rgb2ycbcr(fused)
    inside = ((fused > 0) & (fused < 255)).all(-1)  # not clipped
    assert inside.mean() > 0.5
    np.testing.assert_allclose(after[inside][:, 1:], before[inside][:, 1:], atol=1)
    luma = (after[..., 0] - 16) / 219 * 255
    expected = ((before[..., 0] - 16) / 219 * 255 + 128) / 2
    np.testing.assert_allclose(luma[inside], expected[inside], atol=1)


def test_nothing_to_add_changes_nothing():
    visible = data.astronaut()[:90, :110]
    same = Mean(lambda visible, infrared: visible)
    assert np.array_equal(fuse(visible, texture(), model=same, device="cpu").fused, visible)


def test_alpha_is_kept_and_transparent_pixels_stay():
    rgba = np.dstack([data.astronaut()[:90, :110], np.full(SHAPE, 200, np.uint8)])
    rgba[:20, :, 3] = 0
    fused = fuse(rgba, texture(), model=Mean(), device="cpu", feather=0).fused
    assert np.array_equal(fused[..., 3], rgba[..., 3])
    assert np.array_equal(fused[:20], rgba[:20])
    assert not np.array_equal(fused[20:], rgba[20:])


@pytest.mark.parametrize(
    "dtype", ["bool", ">u2", "<u2", "i2", "u4", "i8", "f2", "<f4", ">f8", "g"]
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_own_type_and_range(dtype, channels):
    dtype = np.dtype(dtype)
    low, high = {"b": (0, 1), "f": (-30, 90)}.get(dtype.kind, (3000, 9000))
    visible = texture() > 0.5 if dtype.kind == "b" else low + (high - low) * texture()
    visible = np.broadcast_to(visible[(..., *[None] * len(channels))], SHAPE + channels)
    visible = visible.astype(dtype)
    fused = fuse(visible, texture(1) * 7, model=Mean(), device="cpu").fused
    assert fused.dtype == dtype.newbyteorder("=")
    assert fused.shape == visible.shape
    if dtype.kind == "b":
        return
    # halfway between the two, in the visible image's own range (stretched by percentiles)
    expected = (visible.astype(float).T + (low + (high - low) * texture(1).T)) / 2
    np.testing.assert_allclose(fused.T.astype(float), expected, atol=0.04 * (high - low))


def test_unit_floats_stay_in_their_range():
    fused = fuse(
        texture(), texture(1), model=Mean(lambda visible, infrared: visible + 2), device="cpu"
    ).fused
    assert fused.max() == 1
    assert fused.min() >= 0


def test_highlights_beyond_the_range_of_the_model_survive():
    visible = texture() * 1000
    visible[10, 10] = 9000
    fused = fuse(visible, texture(), model=Mean(lambda visible, infrared: visible), device="cpu")
    np.testing.assert_allclose(fused.fused, visible)


def test_outside_the_mask_is_visible_to_the_bit():
    visible = np.random.default_rng(0).integers(0, 2**60, SHAPE)  # more than a float64 holds
    mask = disk()
    fused = fuse(visible, texture(1), model=Mean(), mask=mask, device="cpu").fused
    assert np.array_equal(fused[~mask], visible[~mask])
    assert (fused[disk(15)] != visible[disk(15)]).mean() > 0.9
    rgb = data.astronaut()[:90, :110]
    fused = fuse(rgb, texture(1), model=Mean(), mask=mask.astype(float), device="cpu").fused
    assert np.array_equal(fused[~mask], rgb[~mask])


def test_no_seam_at_the_border_of_the_mask():
    visible = 0.2 + 0.1 * texture(smooth=6)
    infrared = 0.8 + 0.1 * texture(1, smooth=6)
    mask = disk(40)
    infrared[~mask] = 0  # as a warped image is

    def steps(image):
        return max(np.abs(np.diff(image, axis=axis)).max() for axis in (0, 1))

    feathered = fuse(visible, infrared, model=Mean(), mask=mask, feather=16, device="cpu").fused
    # to fade over 16 px by the difference of 0.3 takes at most 1.5 * 0.3 / 17 a pixel
    allowed = steps(visible) + steps(infrared[30:60, 40:70]) + 1.5 * 0.35 / 17
    assert steps(feathered) < allowed
    abrupt = fuse(visible, infrared, model=Mean(), mask=mask, feather=0, device="cpu").fused
    assert steps(abrupt) > 0.25
    np.testing.assert_allclose(feathered[disk(20)], abrupt[disk(20)], atol=1e-6)


def test_the_model_sees_no_edge_where_the_infrared_ends():
    infrared = np.full(SHAPE, 200, np.uint8)
    mask = disk()
    infrared[~mask] = 0
    model = Mean()
    fuse(texture(), infrared, model=model, mask=mask, device="cpu")
    assert model.seen[1].min() == model.seen[1].max()


def test_the_edge_of_the_image_is_no_border():
    fused = fuse(texture(), texture(1), model=Mean(), mask=np.ones(SHAPE), device="cpu").fused
    np.testing.assert_allclose(fused, (texture() + texture(1)) / 2, atol=1e-6)
    left = np.indices(SHAPE)[1] < 60
    fused = fuse(texture(), texture(1), model=Mean(), mask=left, device="cpu").fused
    np.testing.assert_allclose(fused[:, :40], (texture() + texture(1))[:, :40] / 2, atol=1e-6)


def test_nan():
    visible, infrared = texture(), texture(1) * 50
    visible[40:50, 20:30] = np.nan
    visible[5, 5] = np.inf
    infrared[60:70, 80:90] = np.nan
    fused = fuse(visible, infrared, model=Mean(), feather=0, device="cpu").fused
    assert np.array_equal(np.isnan(fused), np.isnan(visible))
    assert fused[5, 5] == np.inf
    assert np.array_equal(fused[60:70, 80:90], visible[60:70, 80:90])
    assert (fused[:40, 40:] != visible[:40, 40:]).mean() > 0.9


def test_empty_border_is_found_without_a_mask():
    infrared = (200 * texture(1) + 20).astype(np.uint8)
    infrared[:, :30] = 0
    fused = fuse(texture(), infrared, model=Mean(), device="cpu")
    assert np.array_equal(fused.fused[:, :30], texture()[:, :30])
    assert fused.parameters["mask"] == "found"


def test_empty_mask_returns_the_visible_image():
    model = Mean()
    visible = texture()
    result = fuse(visible, texture(1), model=model, mask=np.zeros(SHAPE), device="cpu")
    assert np.array_equal(result.fused, visible)
    assert result.fused is not visible
    assert model.seen is None


@pytest.mark.parametrize("value", [0, 7, 0.5])
def test_constant_images(value):
    flat = np.full(SHAPE, value, float)
    assert np.isfinite(fuse(flat, texture(), model=Mean(), device="cpu").fused).all()
    assert np.isfinite(fuse(texture(), flat, model=Mean(), device="cpu").fused).all()
    assert np.isfinite(fuse(flat, flat, model=Mean(), device="cpu").fused).all()


@pytest.mark.parametrize("alpha", [0, 1])
def test_colour_infrared_is_read_as_grey(alpha):
    moving = np.dstack([texture(1)] * 3 + [np.ones(SHAPE)] * alpha)
    fused = fuse(texture(), moving, model=Mean(), device="cpu").fused
    np.testing.assert_allclose(fused, (texture() + texture(1)) / 2, atol=1e-6)


def test_progress_and_cancel():
    seen = []
    fuse(texture(), texture(1), model=Mean(), progress=lambda *s: seen.append(s), device="cpu")
    fractions = [fraction for _, fraction in seen]
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert fractions == sorted(fractions)
    for at in range(len(seen)):
        cancel = threading.Event()
        count = []

        def progress(stage, fraction, at=at, cancel=cancel, count=count):
            count.append(stage)
            if len(count) == at:
                cancel.set()

        if at == 0:
            cancel.set()
        with pytest.raises(Cancelled):
            fuse(texture(), texture(1), model=Mean(), progress=progress, cancel=cancel)
        assert len(count) == at


def test_parameters_and_timings():
    result = fuse(texture(), texture(1), model=Mean(), mask=disk(), device="cpu")
    assert set(result.timings) == {"prepare", "load", "model", "compose", "total"}
    assert result.parameters["model"] == "Mean"
    assert result.parameters["mask"] == "given"
    json.dumps(result.parameters, allow_nan=False)


@pytest.mark.parametrize("name", ["average", "laplacian"])
def test_controls_by_name(name, device):
    visible = data.astronaut()[:90, :111]
    fused = fuse(visible, texture(1, shape=(90, 111)), model=name, device=device).fused
    assert fused.shape == visible.shape
    assert not np.array_equal(fused, visible)
    assert name in list_models("fusion")


def test_gaf_by_name(device):
    visible = data.astronaut()[:91, :111]
    fused = fuse(visible, texture(1, shape=(91, 111)), device=device).fused
    assert fused.shape == visible.shape
    assert fused.std() > 10
    assert not np.array_equal(fused, visible)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"moving": texture(shape=(80, 110))},
            ValueError,
            "moving: got shape .*register the pair",
        ),
        ({"fixed": None}, TypeError, "fixed: got NoneType"),
        ({"moving": np.full(SHAPE, np.nan)}, ValueError, "moving: all pixels are NaN"),
        ({"mask": np.ones((4, 4))}, ValueError, "mask: got shape"),
        ({"feather": -1}, ValueError, "feather: got -1"),
        ({"feather": np.nan}, ValueError, "feather: got nan"),
        ({"feather": "wide"}, ValueError, "feather: got 'wide'"),
        ({"model": "nonsense"}, ValueError, "model.*nonsense"),
        ({"model": "identity"}, ValueError, "model.*identity.*registration"),
        ({"model": None}, TypeError, "model: got NoneType"),
        ({"model": Mean(lambda v, _: v[..., 1:])}, TypeError, "model: Mean returned"),
        ({"model": Mean(lambda *_: 3)}, TypeError, "model: Mean returned int"),
        ({"model": Mean(lambda v, _: v * torch.nan)}, ArithmeticError, "not finite"),
        ({"device": "cuda:77"}, ValueError, "device:"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {"fixed": texture(), "moving": texture(1), "model": "average", "device": "cpu"}
    with pytest.raises(error, match=message):
        fuse(**{**arguments, **change})
