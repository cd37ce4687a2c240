"""What `register` and `fuse` accept as an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from napari_busref.fusion import fuse
from napari_busref.images.arrays import taken
from napari_busref.images.preprocess import as_image, as_mask
from napari_busref.registration import register

FAST = {"model": "identity", "search": "none", "refine": "none", "device": "cpu"}
GREY = data.camera()[100:164, 200:280]
RGB = data.astronaut()[100:164, 200:280]
BANDS = np.stack([GREY, GREY // 2, GREY // 3, GREY // 4, GREY // 5])


def dask_array(image):
    return pytest.importorskip("dask.array").from_array(image, chunks=20)


def data_array(image, dims, **attrs):
    return pytest.importorskip("xarray").DataArray(image, dims=dims, attrs=attrs)


def zarr_array(image):
    return pytest.importorskip("zarr").array(image)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: GREY.tolist(), GREY),
        (lambda: tuple(map(tuple, GREY.tolist())), GREY),
        (lambda: GREY[..., None], GREY),
        (lambda: GREY[None], GREY),
        (lambda: GREY[None, None], GREY),
        (lambda: GREY[None, ..., None], GREY),
        (lambda: RGB[None], RGB),
        (lambda: np.moveaxis(RGB, -1, 0), RGB),
        (lambda: np.moveaxis(RGB, -1, 0)[None], RGB),
        (lambda: BANDS, GREY),
        (lambda: BANDS[:4], GREY),
        (lambda: BANDS[:2], GREY),
        (lambda: np.moveaxis(BANDS, 0, -1), GREY),
        (lambda: np.moveaxis(BANDS[:2], 0, -1), GREY),
        (lambda: Image.fromarray(GREY), GREY),
        (lambda: Image.fromarray(RGB), RGB),
        (lambda: Image.fromarray(GREY > 99), GREY > 99),
        (lambda: Image.fromarray(GREY.astype(np.float32)), GREY),
        (lambda: torch.tensor(GREY), GREY),
        (lambda: torch.tensor(GREY).float().requires_grad_(), GREY),
        (lambda: torch.tensor(GREY).to(torch.bfloat16)[None, None], GREY),
        (lambda: torch.tensor(GREY).half(), GREY),
        (lambda: torch.tensor(RGB).permute(2, 0, 1), RGB),
        (lambda: torch.tensor(GREY).to_sparse(), GREY),
        (lambda: dask_array(GREY), GREY),
        (lambda: dask_array(RGB), RGB),
        (lambda: zarr_array(GREY), GREY),
        (lambda: data_array(GREY, ("y", "x")), GREY),
        (lambda: data_array(GREY.T, ("x", "y")), GREY),
        (lambda: data_array(np.moveaxis(RGB, -1, 0), ("band", "y", "x")), RGB),
        (lambda: data_array(BANDS, ("band", "y", "x")), GREY),
        (lambda: data_array(np.moveaxis(BANDS, 0, -1), ("lat", "lon", "band")), GREY),
        (lambda: np.asfortranarray(GREY)[::-1][::-1], GREY),
        (lambda: GREY.astype(">f8"), GREY),
    ],
)
def test_containers_and_shapes(make, expected):
    image = as_image(make(), "moving")
    assert type(image) is np.ndarray
    # bfloat16 keeps 8 bits, which is what uint8 needs
    np.testing.assert_array_equal(image, expected)


def test_a_picture_comes_upright():
    picture = Image.fromarray(np.ascontiguousarray(np.rot90(GREY)))
    picture.getexif()[274] = 6
    np.testing.assert_array_equal(as_image(picture, "fixed"), GREY)


def test_the_fill_value_of_xarray_is_missing():
    image = data_array(np.where(GREY > 200, np.int16(-7), GREY), ("y", "x"), _FillValue=-7)
    np.testing.assert_array_equal(np.ma.getmaskarray(as_image(image, "fixed")), GREY > 200)


def test_results_say_which_band_was_taken():
    result = register(RGB, np.moveaxis(BANDS, 0, -1), **FAST)
    assert result.parameters["taken"] == {"moving": "band 1 of 5"}
    fused = fuse(BANDS[:4], GREY, model="average", device="cpu")
    assert fused.parameters["taken"] == {"fixed": "band 1 of 4"}
    assert fused.fused.shape == GREY.shape
    assert "taken" not in register(RGB, GREY, **FAST).parameters
    assert taken(RGB) == taken(GREY[None]) == taken(GREY.tolist()) == ""


def test_tensors_with_a_gradient_are_registered_and_fused():
    tensor = torch.tensor(GREY / 255).requires_grad_()
    same = register(GREY, GREY / 255, **FAST)
    result = register(torch.tensor(GREY), tensor, moving_mask=torch.ones(64, 80) > 0, **FAST)
    np.testing.assert_array_equal(result.warped, same.warped)
    one = fuse(torch.tensor(RGB), tensor, model="average", device="cpu").fused
    np.testing.assert_array_equal(one, fuse(RGB, GREY / 255, model="average", device="cpu").fused)


def test_masks_have_the_same_freedom():
    mask = GREY > 99
    for given in (mask.tolist(), mask[..., None], mask[None], torch.tensor(mask)):
        np.testing.assert_array_equal(as_mask(given, "mask", GREY.shape), mask)
    masked = np.ma.MaskedArray(np.ones(GREY.shape, bool), mask=~mask)
    np.testing.assert_array_equal(as_mask(masked, "mask", GREY.shape), mask)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (3, TypeError, "moving: got int, need an array"),
        ({"a": 1}, TypeError, "moving: got dict"),
        (object(), TypeError, "moving: got object"),
        (b"image", TypeError, "moving: got bytes"),
        ([], TypeError, "moving: got list|moving: got an empty"),
        ([[1, 2], [3]], TypeError, "moving: is no array"),
        (torch.zeros(20, 20, dtype=torch.complex64), TypeError, "moving: got dtype complex64"),
        (np.zeros((4, 5, 20, 20)), ValueError, r"give one plane, such as moving\[0, 0\]"),
        (GREY[None, :, None], ValueError, "moving: got 4-D|moving: got 64 x 1|moving: got 1 x 80"),
    ],
)
def test_what_is_no_image_is_named(image, error, message):
    with pytest.raises((error, ValueError), match=message):
        as_image(image, "moving")


@pytest.mark.parametrize(
    ("stack", "advice"),
    [
        (np.stack([RGB, RGB]), "image[0]"),
        (np.stack([RGB, RGB])[:, None], "image[0, 0]"),
        (np.stack([BANDS, BANDS]), "image[0, 0]"),
    ],
)
def test_the_advice_for_a_stack_is_a_plane(stack, advice):
    with pytest.raises(ValueError, match="give one plane, such as") as error:
        as_image(stack, "image")
    assert str(error.value).endswith(f"such as {advice}")
    image = stack  # what the advice names can be taken
    for _ in range(advice.count("0")):
        image = image[0]
    as_image(image, "image")
    assert image.shape[:2] == GREY.shape
