from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import color, data

from napari_busref.images import blocks
from napari_busref.images.preprocess import (
    as_mask,
    empty_border,
    fill_invalid,
    luma,
    prepare,
    specks,
)


def ramp(shape=(20, 30)):
    return np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i2", "u4", "i8", "f2", "<f4", ">f4", ">f8", "g"])
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_any_dtype(dtype, channels):
    dtype = np.dtype(dtype)
    scale = {"f": 100.0}.get(dtype.kind, 255.0)
    image = (ramp() * scale - (50 if dtype.kind == "i" else 0)).astype(dtype)
    if channels:
        image = np.stack([image] * 3 + [np.ones_like(image)] * (channels - 3), -1).astype(dtype)
    before = image.copy()
    prepared = prepare(image, "fixed")
    assert np.array_equal(image, before)
    assert image.dtype == dtype
    assert prepared.grey.shape == (20, 30)
    assert prepared.grey.dtype == np.float32
    assert prepared.grey.dtype.isnative
    assert prepared.valid.all()
    assert prepared.valid.dtype == bool
    np.testing.assert_allclose(prepared.grey, ramp(), atol=6e-3)
    assert 0 <= prepared.grey.min() <= prepared.grey.max() <= 1


def test_uint8_and_bool_keep_their_scale():
    image = np.full((16, 16), 51, np.uint8)
    prepared = prepare(image, "fixed")
    np.testing.assert_allclose(prepared.grey, 0.2, rtol=1e-6)
    assert (prepared.scale.low, prepared.scale.high) == (0, 255)
    mask = ramp((16, 16)) > 0.5
    assert np.array_equal(prepare(mask, "fixed").grey, mask)


def test_unit_floats_keep_their_scale():
    prepared = prepare(0.25 + 0.5 * ramp(), "fixed")
    np.testing.assert_allclose(prepared.grey, 0.25 + 0.5 * ramp(), rtol=1e-6)
    assert (prepared.scale.low, prepared.scale.high) == (0, 1)


def test_outliers_do_not_set_the_scale():
    image = 7000 + 1000 * ramp((100, 100))
    image[0, 0], image[0, 1] = 0, 65535
    prepared = prepare(image.astype(np.uint16), "moving")
    assert prepared.scale.low == pytest.approx(7000, abs=5)
    assert prepared.scale.high == pytest.approx(8000, abs=5)
    assert prepared.grey[0, 0] == 0
    assert prepared.grey[0, 1] == 1


def test_rare_values_still_count():
    image = np.zeros((100, 100), np.uint16)
    image[50, 50] = 700
    assert prepare(image, "moving").grey[50, 50] == 1


@pytest.mark.parametrize("value", [0, 7, 900.0])
def test_constant(value):
    prepared = prepare(np.full((16, 16), value, np.float32), "moving")
    assert prepared.valid.all()
    assert not prepared.grey.any()


def test_huge_values_do_not_overflow():
    image = ramp() * 2e299 - 1e299
    image[0, 0] = 1.5e308
    image[0, 1] = -1.5e308
    prepared = prepare(image, "moving")
    assert np.isfinite(prepared.grey).all()
    assert (~prepared.valid).sum() == 2
    np.testing.assert_allclose(prepared.grey[1:], ramp()[1:], atol=6e-3)
    half = prepare((ramp() * 1.2e5 - 6e4).astype(np.float16), "moving")
    np.testing.assert_allclose(half.grey, ramp(), atol=3e-3)


def test_nan_and_infinite_are_not_valid():
    image = ramp() * 3
    image[2, 3], image[4, 5], image[6, 7] = np.nan, np.inf, -np.inf
    prepared = prepare(image, "moving")
    assert np.array_equal(~prepared.valid, ~np.isfinite(image))
    assert not prepared.grey[~prepared.valid].any()
    assert prepared.scale.high == pytest.approx(3, rel=0.01)


def test_what_is_not_valid_is_black():
    image = 200 * ramp() - 100  # 0 lies in the middle of the range
    image[3, 4] = np.nan
    mask = np.ones(image.shape, bool)
    mask[7, 8] = False
    prepared = prepare(image, "fixed", mask=mask)
    assert prepared.grey[3, 4] == prepared.grey[7, 8] == 0
    assert prepared.grey[3, 5] > 0


def test_blocks_of_rows_make_no_difference(monkeypatch):
    image = np.random.default_rng(0).normal(size=(70, 50, 3))
    image[20:40, 10:20] = np.nan
    whole = prepare(image, "fixed").grey
    monkeypatch.setattr(blocks, "_BLOCK", 500)
    assert np.array_equal(prepare(image, "fixed").grey, whole)


def test_luma_is_the_y_of_ycbcr():
    rgb = data.astronaut()[:64, :64]
    expected = (color.rgb2ycbcr(rgb)[..., 0] - 16) / 219
    np.testing.assert_allclose(prepare(rgb, "fixed").grey, expected, atol=1e-3)
    assert luma(np.ones((1, 1, 3))) == pytest.approx(1)


def test_transparent_is_not_valid():
    rgba = np.dstack([np.full((20, 20, 3), 200, np.uint8), np.full((20, 20), 255, np.uint8)])
    rgba[:5, :, 3] = 0
    prepared = prepare(rgba, "fixed")
    assert np.array_equal(prepared.valid, rgba[..., 3] > 0)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (None, TypeError, "moving: got NoneType"),
        ("image.png", TypeError, "moving: got str"),
        ([[1, 2], [3, 4]], ValueError, "moving: got 2 x 2 px"),
        ([[1, 2], [3]], TypeError, "moving: is no array"),
        ([["a", "b"]], TypeError, "moving: got dtype <U1"),
        (np.zeros((20, 20), complex), TypeError, "moving: got dtype complex128"),
        (np.zeros((20, 20), object), TypeError, "moving: got dtype object"),
        (np.zeros((20, 20), "M8[s]"), TypeError, "moving: got dtype datetime64"),
        (np.array("a"), TypeError, "moving: got dtype <U1"),
        (np.zeros((0, 20)), ValueError, r"moving: got an empty array of shape \(0, 20\)"),
        (np.zeros(400), ValueError, "moving: got 1-D"),
        (np.array(1.0), ValueError, "moving: got 0-D"),
        (np.zeros((5, 2, 20, 20)), ValueError, r"one plane, such as moving\[0, 0\]"),
        (np.zeros((2, 2, 1, 20, 20)), ValueError, "moving: got 5-D.*one plane"),
        (np.zeros((20, 15)), ValueError, "moving: got 20 x 15 px, need at least 16 x 16"),
        (np.full((20, 20), np.nan), ValueError, "moving: all pixels are NaN"),
        (np.zeros((20, 20, 4), np.uint8), ValueError, "moving: all pixels are.*transparent"),
    ],
)
def test_bad_images(image, error, message):
    with pytest.raises(error, match=message):
        prepare(image, "moving")


def test_what_numpy_can_convert_is_an_image():
    torch = pytest.importorskip("torch")
    assert prepare(torch.rand(16, 16), "moving").grey.shape == (16, 16)


def test_masked_pixels_are_not_valid_and_set_no_scale():
    image = ramp((40, 40)) * 100
    image[:10] = 1e6
    mask = image < 1e5
    prepared = prepare(image, "moving", mask=mask)
    assert np.array_equal(prepared.valid, mask)
    assert prepared.scale.high < 101
    assert not prepared.grey[:10].any()
    with pytest.raises(ValueError, match="moving: its mask leaves no valid pixel"):
        prepare(image, "moving", mask=np.zeros_like(mask))


def test_as_mask():
    mask = np.eye(4)
    mask[0, 1] = np.nan
    assert np.array_equal(as_mask(mask, "mask", (4, 4)), np.eye(4, dtype=bool))
    assert np.array_equal(as_mask(np.eye(4, dtype=">u2") * 7, "mask", (4, 4)), np.eye(4) > 0)
    with pytest.raises(ValueError, match=r"fixed_mask: got shape \(4, 4\), need \(4, 5\)"):
        as_mask(mask, "fixed_mask", (4, 5))
    with pytest.raises(TypeError, match="fixed_mask: got dtype complex"):
        as_mask(mask.astype(complex), "fixed_mask", (4, 4))


def picture(shape=(120, 160), seed=0):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    image = (image - image.min()) / np.ptp(image)
    return (1 + 200 * image).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("angle", [-8, 3, 30])
def test_border_of_a_turned_picture(angle, dtype):
    image = ndimage.rotate(picture(), angle, reshape=False, order=1).astype(dtype)
    kept = ndimage.rotate(np.ones((120, 160)), angle, reshape=False, order=1)
    found = empty_border(image, "moving")
    assert found[kept == 0].mean() > 0.97
    assert not found[kept == 1].any()


def test_border_of_a_shifted_colour_picture():
    image = np.dstack([picture()] * 3)
    image[:, :9] = 0
    assert np.array_equal(empty_border(image, "moving"), np.arange(160) < np.full((120, 1), 9))
    image = image.astype(float)
    image[:, :9] = np.nan
    assert empty_border(image, "moving")[:, :9].all()


def test_border_is_left_out_of_the_scale():
    image = picture().astype(np.uint16) + 7000
    image[:, :40] = 0
    with_border = prepare(image, "m", nodata=None)
    without = prepare(image, "m", find_border=True)
    assert with_border.scale.low == 0
    assert without.scale.low > 6900
    assert without.valid.sum() == 120 * 120
    assert not without.grey[~without.valid].any()


def test_night_scenes_keep_their_blacks():
    # lights all over a sky that is exactly black
    night = np.zeros((120, 160), np.uint8)
    rng = np.random.default_rng(0)
    night[rng.integers(0, 120, 60), rng.integers(0, 160, 60)] = 200
    assert not empty_border(night, "fixed").any()
    # black blobs that touch the frame here and there
    patches = picture()
    patches[ndimage.gaussian_filter(rng.standard_normal((120, 160)), 6) > 0.03] = 0
    assert (patches[0] == 0).any()
    assert empty_border(patches, "fixed").mean() < 0.05
    # thin lines, small corners, nothing at all
    thin = picture()
    thin[:2] = 0
    assert not empty_border(thin, "fixed").any()
    corner = picture()
    corner[:10, :12] = 0
    assert not empty_border(corner, "fixed").any()
    assert not empty_border(np.zeros((50, 50), np.uint8), "fixed").any()
    assert not empty_border(picture() > 100, "fixed").any()


def test_black_image_stays_valid():
    assert prepare(np.zeros((50, 50), np.uint8), "m", find_border=True).valid.all()


def test_fill_invalid():
    grey = np.tile(np.arange(10, dtype=np.float32), (10, 1))
    valid = grey < 6
    filled = fill_invalid(grey, valid)
    assert np.array_equal(filled, np.minimum(grey, 5))
    assert grey.max() == 9
    assert fill_invalid(grey, np.zeros_like(valid)) is grey


def temperatures():
    """A smooth scene of 10 to 35 degrees."""
    scene = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((120, 160)), 4)
    return 10 + 25 * (scene - scene.min()) / np.ptp(scene)


def disc(share, shape=(120, 160)):
    """A disc that covers a share of the image."""
    rows, cols = np.indices(shape)
    return np.hypot(rows - 40, cols - 90) < np.sqrt(share * shape[0] * shape[1] / np.pi)


@pytest.mark.parametrize("dtype", ["f4", "u2"])
@pytest.mark.parametrize("share", [0.0005, 0.015, 0.05])
@pytest.mark.parametrize("value", [-273.15, -40.0, 100.0, 1200.0])
def test_a_hot_or_cold_object_changes_the_rest_by_three_grey_levels_at_most(dtype, share, value):
    unit, offset = (1, 0) if np.dtype(dtype).kind == "f" else (20, 300)
    plain, spot = temperatures(), disc(share)
    hot = np.where(spot, value, plain)
    before, after = (
        prepare((unit * (x + offset)).astype(dtype), "moving").grey for x in (plain, hot)
    )
    assert 255 * np.abs(after - before)[~spot].max() <= 3
    brightest = after[spot].min() >= after[~spot].max()
    darkest = after[spot].max() <= after[~spot].min()
    assert brightest if value > 35 else darkest


def test_outliers_keep_their_order():
    image = temperatures()
    image[:4] = np.linspace(80, 200, 160)
    image[-4:] = np.linspace(-200, -90, 160)
    grey = prepare(image, "moving").grey
    assert (np.diff(grey[0]) > 0).all()
    assert (np.diff(grey[-1]) > 0).all()
    assert grey[0].min() == pytest.approx(1 - 2 / 255, abs=0.01)
    assert (grey.min(), grey.max()) == (0, 1)
    order = np.argsort(image, axis=None)
    assert (np.diff(grey.reshape(-1)[order]) >= 0).all()


def test_a_long_tail_is_no_outlier():
    """Exponential values are stretched from percentile to percentile."""
    image = np.random.default_rng(0).exponential(100, (200, 200))
    low, high = np.percentile(image, (0.1, 99.9))
    prepared = prepare(image, "fixed")
    assert (prepared.scale.low, prepared.scale.high) == (low, high)
    expected = np.clip((image - low) / (high - low), 0, 1).astype(np.float32)
    assert np.array_equal(prepared.grey, expected)


def test_a_hot_object_does_not_darken_the_fused_picture():
    from napari_busref import fuse

    plain, spot = temperatures(), disc(0.015)
    visible = np.uint8(255 * ramp(plain.shape))
    fused = [
        fuse(visible, image, model="average", device="cpu").fused.astype(float)
        for image in (plain, np.where(spot, 100.0, plain))
    ]
    assert np.abs(fused[1] - fused[0])[~spot].max() <= 3


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("low", [0, 0.5])
@pytest.mark.parametrize("span", [0.3, 0.0625, 0.003, 1e-4])
def test_dim_floats_are_stretched(dtype, low, span):
    image = (low + span * ramp()).astype(dtype)
    np.testing.assert_allclose(prepare(image, "fixed").grey, ramp(), atol=6e-3)


def test_a_12_bit_picture_is_the_same_as_integers_and_floats():
    counts = (4095 * ramp()).astype(np.uint16)
    expected = prepare(counts, "fixed").grey
    np.testing.assert_allclose(prepare(counts / 65535, "fixed").grey, expected, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-30, 1e-300, 1e30, 1e299])
def test_tiny_and_huge_ranges(factor):
    grey = prepare((ramp() - 0.5) * factor, "fixed", nodata=None).grey
    np.testing.assert_allclose(grey, ramp(), atol=6e-3)


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_flat_floats_keep_their_level(level):
    image = np.full((40, 40), level)
    image[20, 20] += 0.1 if level < 1 else -0.1
    assert prepare(image, "fixed").grey[0, 0] == level


@pytest.mark.parametrize(("dtype", "start"), [("i8", 2**62), ("i8", -(2**63)), ("u8", 2**63)])
def test_64_bit_integers_far_from_zero(dtype, start):
    counts = np.array([start + int(v) for v in (ramp() * 255).flat], dtype).reshape(20, 30)
    np.testing.assert_allclose(prepare(counts, "fixed").grey, ramp(), atol=6e-3)


def test_specks_are_thin_regions():
    valid = np.ones((64, 400), bool)
    found = np.zeros_like(valid)
    for rows, cols, thin in (
        (5, 5, True),
        (slice(10, 12), slice(10, 90), True),  # two dead rows
        (slice(20, 23), slice(20, 23), False),
        (0, 30, True),
        (slice(None), 399, True),
        (slice(62, 64), slice(100, 150), False),  # an empty strip at the edge
    ):
        valid[rows, cols] = False
        found[rows, cols] = thin
    np.testing.assert_array_equal(specks(valid), found)
    large = np.ones((640, 640), bool)
    large[100:109, 100:109], large[:3, :99] = False, False
    assert specks(large).sum() == 81  # at the edge the limit is smaller
    large[100:110, 100:110] = False
    assert not specks(large).any()
