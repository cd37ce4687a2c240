"""Missing pixels: by tag, NaN, masked arrays and values that are recognised."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from skimage import data

from napari_busref.fusion import fuse
from napari_busref.images.io import read_image, write_image
from napari_busref.images.nodata import check_nodata, find_nodata, parse_nodata
from napari_busref.images.preprocess import as_image, prepare
from napari_busref.registration import register
from napari_busref.transforms.transform import Transform

FAST = {"model": "identity", "search": "none", "refine": "none", "device": "cpu"}
EMPTY = np.add.outer(np.arange(64), np.arange(80)) < 40
EMPTY[30:36, 50:60] = True  # a hole as well
KINDS = [
    (np.float32, -9999),
    (np.float32, -3.4028235e38),
    (np.float32, 3.4028235e38),
    (np.float64, -1.7976931348623157e308),
    (np.float32, -32768),
    (np.float64, 1e20),
    (np.float32, 9.969209968386869e36),
    (np.float32, -999),
    (np.float32, -99999),
    (np.float32, -9999.9),
    (np.float32, -1e30),
    (np.float16, -9999),
    (np.int16, -32768),
    (np.int16, -9999),
    (np.int32, -2147483648),
    (np.int32, -9999),
    (np.uint16, 65535),
]


def scene(dtype: object) -> np.ndarray:
    """10 to 35 °C; integers in hundredths of a degree."""
    grey = data.camera()[100:164, 200:280] / 255
    celsius = 10 + 25 * grey
    return (celsius if np.dtype(dtype).kind == "f" else 100 * celsius).astype(dtype)


def with_missing(dtype: object, value: float) -> np.ndarray:
    image = scene(dtype)
    image[EMPTY] = value
    return image


@pytest.mark.parametrize(("dtype", "value"), KINDS)
def test_usual_values_are_recognised(dtype, value):
    prepared = prepare(with_missing(dtype, value), "moving")
    np.testing.assert_array_equal(prepared.valid, ~EMPTY)
    assert prepared.scale.low > 9


@pytest.mark.parametrize(("dtype", "value"), KINDS)
def test_missing_pixels_are_never_blended(dtype, value):
    image, shift = with_missing(dtype, value), np.eye(3)
    shift[:2, 2] = 0.4, -0.3
    transform = Transform(shift, fixed_shape=(64, 80), moving_shape=(64, 80))
    result = register(scene(np.float32), image, initial=transform, **FAST)
    good = np.asarray(result.warped)[result.mask].astype(float)
    clean = scene(dtype)
    assert clean.min() <= good.min()
    assert good.max() <= clean.max()
    inside = transform.mask(~EMPTY)
    np.testing.assert_array_equal(result.mask, inside)
    outside = np.asarray(result.warped)[~inside].astype(float)
    assert np.isnan(outside).all() if clean.dtype.kind == "f" else (outside == value).all()


@pytest.mark.parametrize(("dtype", "value"), KINDS)
def test_missing_pixels_stay_out_of_the_fused_picture(dtype, value):
    visible = data.camera()[100:164, 200:280]
    clean = fuse(visible, scene(dtype), model="average", device="cpu", mask=~EMPTY)
    fused = fuse(visible, with_missing(dtype, value), model="average", device="cpu")
    np.testing.assert_array_equal(fused.fused[EMPTY], visible[EMPTY])
    deep = np.abs(fused.fused[~EMPTY].astype(int) - clean.fused[~EMPTY])
    assert deep.max() <= 2  # the range excludes other pixels


@pytest.mark.parametrize("order", [0, 1, 3])
def test_apply_keeps_a_masked_array_masked(order):
    image = np.ma.MaskedArray(with_missing(np.int16, -9999), mask=EMPTY, fill_value=-9999)
    shift = np.eye(3)
    shift[0, 2] = 0.5
    transform = Transform(shift, fixed_shape=(64, 80), moving_shape=(64, 80))
    warped = transform.apply(image, order)
    assert isinstance(warped, np.ma.MaskedArray)
    assert warped.dtype == np.int16
    assert warped.compressed().min() > 900
    assert (warped.data[warped.mask] == -9999).all()
    plain = transform.apply(scene(np.int16), order)
    if order < 2:  # a spline reaches further
        np.testing.assert_array_equal(warped.compressed(), plain[~warped.mask])


def test_masked_arrays_of_both_images_are_left_out():
    moving = np.ma.MaskedArray(scene(np.uint16), mask=EMPTY)
    fixed = np.ma.MaskedArray(scene(np.float32), mask=EMPTY[::-1])
    result = register(fixed, moving, **FAST)
    assert not result.mask[EMPTY].any()
    assert type(result.warped) is np.ndarray
    assert (result.warped[EMPTY] == 0).all()
    fused = fuse(fixed, moving, model="average", device="cpu").fused
    kept = EMPTY & ~EMPTY[::-1]
    np.testing.assert_array_equal(fused[kept], fixed.data[kept])
    lost = np.isnan(fused)
    np.testing.assert_array_equal(lost, EMPTY[::-1])


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_zero_far_from_the_rest_is_missing(dtype):
    """0 K between 283 and 308 K, also inside; near the rest only an empty border is."""
    kelvin = (scene(np.float32) + 273) * (1 if dtype == np.float32 else 100)
    image = np.where(EMPTY, 0, kelvin).astype(dtype)
    np.testing.assert_array_equal(prepare(image, "moving").valid, ~EMPTY)
    near = np.where(EMPTY, 0, scene(dtype))
    assert prepare(near, "moving").valid.all()


def test_colour_is_missing_where_a_channel_is():
    image = np.dstack([scene(np.float32)] * 3)
    image[EMPTY, 1] = -9999
    np.testing.assert_array_equal(prepare(image, "fixed").valid, ~EMPTY)


def test_several_values_in_one_image():
    image = with_missing(np.float32, -9999)
    image[50:55, 60:70] = 3.4028235e38
    assert find_nodata(image) == [-9999.0, pytest.approx(3.4028235e38)]
    assert (~prepare(image, "moving").valid).sum() == EMPTY.sum() + 50


@pytest.mark.parametrize(
    "image",
    [
        scene(np.float32),
        data.camera(),
        data.camera().astype(np.uint16) * 257,  # black and white are content
        data.camera().astype(np.float32),
        data.camera().astype(np.int16) * 100 - 12800,
        np.where(np.arange(6400).reshape(80, 80) % 97 == 0, 65535, 3000).astype(np.uint16),
        np.eye(40) > 0,
    ],
    ids=lambda image: f"{image.dtype}",
)
def test_content_is_no_missing_value(image):
    assert find_nodata(image) == []


def test_a_fire_is_content():
    image = scene(np.float32)
    image[20:30, 20:40] = 600
    assert find_nodata(image) == []
    image[20:30, 20:40] = -40  # a sky below the camera's range
    assert find_nodata(image) == []


def test_an_overexposed_light_is_content():
    image = scene(np.uint16)
    image[20:30, 20:40] = 65535  # inside, where no mosaic ends
    assert find_nodata(image) == []


def test_the_value_can_be_given_or_refused():
    image = with_missing(np.float32, 15.125)
    assert prepare(image, "moving").valid.all()
    np.testing.assert_array_equal(prepare(image, "moving", nodata=15.125).valid, ~EMPTY)
    image = with_missing(np.float32, -9999)
    assert prepare(image, "moving", nodata=None).valid.all()
    result = register(scene(np.float32), image, nodata=-9999, **FAST)
    assert result.parameters["nodata"] == -9999
    assert not result.mask[EMPTY].any()
    byte = data.camera()[100:164, 200:280].copy()
    byte[EMPTY] = 255
    assert not prepare(byte, "moving", nodata=255).valid[EMPTY].any()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("none", ValueError, "nodata: got 'none', need a number"),
        ([1, 2], TypeError, "nodata: got list, need a number"),
        (1j, TypeError, "nodata: got complex"),
    ],
)
def test_bad_values_are_named(value, error, message):
    with pytest.raises(error, match=message):
        check_nodata(value)
    with pytest.raises(error, match=message):
        register(scene(np.float32), scene(np.float32), nodata=value, **FAST)


def test_an_image_without_any_pixel_is_refused():
    with pytest.raises(ValueError, match=r"moving: all pixels are NaN.*no-data"):
        as_image(np.ma.masked_all((20, 20), np.uint16), "moving")


# -- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        (np.float32, -9999, "-9999"),
        (np.float32, -9999, " -9999.0 "),
        (np.float32, -3.4028234663852886e38, "-3.4028234663852886e+38"),
        (np.float32, -3.4028235e38, "-3.40282e+38"),
        (np.float32, np.nan, "nan"),
        (np.float64, 12.5, "12.5"),
        (np.int16, -32768, "-32768"),
        (np.uint16, 0, "0"),
        (np.uint16, 7, "7"),
        (np.uint8, 255, "255"),
    ],
)
def test_the_tag_of_gdal_is_read_and_written(tmp_path, dtype, value, text):
    image = np.clip(scene(dtype), 10, 200).astype(dtype)
    image[EMPTY] = value
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, 2, 0, text, True)])
    first = read_image(tmp_path / "a.tif")
    write_image(tmp_path / "b.tif", first.data, first.metadata)
    for found in (first, read_image(tmp_path / "b.tif")):
        assert found.data.dtype == dtype
        if np.dtype(dtype).kind == "f":
            np.testing.assert_array_equal(np.isnan(found.data), EMPTY)
        else:
            np.testing.assert_array_equal(np.ma.getmaskarray(found.data), EMPTY)
            assert found.data.fill_value == value
        np.testing.assert_array_equal(found.data[~EMPTY], image[~EMPTY])
    as_stored = read_image(tmp_path / "a.tif", nodata=None).data
    np.testing.assert_array_equal(as_stored, image)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert parse_nodata(tiff.pages[0].tags[42113].value) is not None


@pytest.mark.parametrize("text", ["", "none", "1e999999x", "-9999"])
def test_a_tag_without_meaning_is_left_out(tmp_path, text):
    image = np.clip(scene(np.uint8), 1, 200)
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, 2, 0, text or "\0", True)])
    found = read_image(tmp_path / "a.tif").data
    np.testing.assert_array_equal(np.ma.getdata(found), image)
    assert not np.ma.getmaskarray(found).any()


def test_black_is_content_in_colour(tmp_path):
    image = np.dstack([np.clip(scene(np.uint8), 1, 200)] * 3)
    image[EMPTY] = 0
    image[60:, :, 0] = 0  # cyan
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="rgb", extratags=[(42113, 2, 0, "0", True)]
    )
    found = np.ma.getmaskarray(read_image(tmp_path / "a.tif").data)
    np.testing.assert_array_equal(found[..., 0], EMPTY)


def test_a_mask_page_is_read(tmp_path):
    image = scene(np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(image, photometric="minisblack", metadata=None)
        tiff.write(~EMPTY, photometric="mask", subfiletype=4, metadata=None)
    found = read_image(tmp_path / "a.tif").data
    assert found.shape == image.shape
    np.testing.assert_array_equal(np.ma.getmaskarray(found), EMPTY)


def test_a_masked_array_is_written_with_its_value(tmp_path):
    image = np.ma.MaskedArray(scene(np.int16), mask=EMPTY, fill_value=-1)
    for name in ("a.tif", "a.npy"):
        write_image(tmp_path / name, image)
        assert (np.ma.getdata(read_image(tmp_path / name).data)[EMPTY] == -1).all()
    assert read_image(tmp_path / "a.tif").metadata["nodata"] == -1
