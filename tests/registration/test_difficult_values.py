"""Whole registrations of images whose values or orientation once misled it: error in pixels."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from napari_busref.data.samples import Sample, thermal_scene
from napari_busref.registration import RegistrationResult, register
from napari_busref.transforms.transform import Transform

SHAPE = (192, 256)
ROWS, COLS = np.mgrid[: SHAPE[0], : SHAPE[1]]
CORNERS = (ROWS + COLS < 80) | (ROWS + COLS > 370)  # that a turned mosaic leaves empty


@cache
def street() -> Sample:
    return thermal_scene(0, SHAPE)


def celsius() -> np.ndarray:
    """10 to 35 °C."""
    return (10 + street().moving / 10.2).astype(np.float32)


def kelvin() -> np.ndarray:
    """Hundredths of a kelvin, as cameras write them."""
    return np.rint(27315 + 100 * celsius()).astype(np.uint16)


def error(result: RegistrationResult, truth: Transform | None = None) -> float:
    truth = truth or street().truth
    apart = np.hypot(*(result.transform.flow() - truth.flow()))
    return float(apart[truth.mask()].mean())


def block(image: np.ndarray, value: float) -> np.ndarray:
    """A value on 4 % of the image."""
    changed = image.copy()
    changed[75:120, 100:145] = value
    return changed


def scattered(image: np.ndarray, *values: float, share: float = 0.01) -> np.ndarray:
    """Stuck pixels at random places."""
    changed, rng = image.copy(), np.random.default_rng(0)
    for value in values:
        changed.flat[rng.choice(image.size, int(share * image.size), replace=False)] = value
    return changed


def outside(image: np.ndarray, value: float) -> np.ndarray:
    changed = image.copy()
    changed[CORNERS] = value
    return changed


@pytest.mark.slow
@pytest.mark.parametrize(
    "moving",
    [
        block(celsius(), 600),
        block(celsius(), -60),
        block(kelvin(), 65000),
        scattered(kelvin(), 65535),
        scattered(kelvin(), 0, 65535),
        scattered(celsius(), np.inf, -np.inf, np.nan, share=0.04),
        outside(celsius(), -9999),
        outside(celsius(), np.nan),
        outside(kelvin(), 0),
        np.ma.masked_array(outside(kelvin(), 12345), CORNERS),
    ],
    ids=[
        "a fire",
        "a cold sky",
        "a fire in kelvin",
        "hot pixels",
        "hot and dead pixels",
        "pixels that are no numbers",
        "-9999 outside",
        "NaN outside",
        "0 outside",
        "masked outside",
    ],
)
def test_the_rest_of_the_image_decides(moving: Any) -> None:
    result = register(street().fixed, moving, device="cpu")
    assert error(result) < 2.5, result
    if np.ma.isMaskedArray(moving) or (np.asarray(moving)[CORNERS] == moving[0, 0]).all():
        empty = result.transform.apply(CORNERS.astype(np.uint8), order=0).astype(bool)
        assert (result.mask & empty).mean() < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_wide_search_finds_quarter_turns(turns: int) -> None:
    rows, cols = SHAPE
    turn = {  # from the upright image to the turned one
        1: [[0, -1, cols - 1], [1, 0, 0], [0, 0, 1]],
        2: [[-1, 0, rows - 1], [0, -1, cols - 1], [0, 0, 1]],
        3: [[0, 1, 0], [-1, 0, rows - 1], [0, 0, 1]],
    }[turns]
    moving = np.ascontiguousarray(np.rot90(street().moving, turns))
    turned = Transform(turn, fixed_shape=SHAPE, moving_shape=moving.shape)  # type: ignore[arg-type]
    np.testing.assert_array_equal(turned.apply(moving), street().moving)
    result = register(street().fixed, moving, search="wide", device="cpu")
    assert error(result, street().truth.compose(turned)) < 2.5, result
