"""Degradations of real cameras: functions of grey values (H, W) in [0, 1].

The results may leave this range, as the values of a camera do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import hsv2rgb

Image = NDArray[Any]


def noise(image: Image) -> Image:
    """Normal noise, standard deviation 0.1."""
    return np.clip(image + 0.1 * np.random.default_rng(0).standard_normal(image.shape), 0, 1)


def motion(image: Image) -> Image:
    """Motion blur along 13 px of a row."""
    return ndimage.convolve1d(image, np.full(13, 1 / 13), axis=1)


def hot_object(image: Image) -> Image:
    """A quarter of the contrast, and a disc of the largest value."""
    height, width = image.shape
    row, col = np.indices(image.shape)
    inside = np.hypot(row - 0.6 * height, col - 0.3 * width) < 0.1 * height
    return np.where(inside, 1.0, image / 4)


def stuck_pixels(image: Image) -> Image:
    """1 % of the pixels stuck at 40 times the scene's range above or below it."""
    rng = np.random.default_rng(0)
    stuck = rng.random(image.shape) < 0.01
    return np.where(stuck, rng.choice((-40.0, 40.0), image.shape), image)


def furnace(image: Image) -> Image:
    """Temperatures from 10 to 35 °C, and a rectangle of 600 °C on 4 % of the picture."""
    celsius = 10 + 25 * image
    height, width = image.shape
    rows, cols = slice(height // 2, height // 2 + height // 5), slice(width // 5, 2 * width // 5)
    celsius[rows, cols] = 600
    return celsius


def no_data(image: Image) -> Image:
    """Temperatures, and −9999 where nothing was measured: a corner, and 1 % of the pixels."""
    celsius = 10 + 25 * image
    height, width = image.shape
    celsius[: height // 4, : width // 4] = -9999
    return np.where(np.random.default_rng(0).random(image.shape) < 0.01, -9999, celsius)


def overlay(image: Image) -> Image:
    """The cross hair, marks and scale that thermal cameras draw into their images."""
    marked = image.copy()
    height, width = image.shape
    row, col = height // 2, width // 2
    marked[row - 12 : row + 13, col] = marked[row, col - 12 : col + 13] = 1
    marked[6:22, 6:70] = 0
    marked[8:20:3, 10:64] = marked[-24:-6:4, 8:120] = 1
    marked[20:-20, -18:-8] = np.linspace(1, 0, height - 40)[:, None]
    return marked


def bars(image: Image) -> Image:
    """Dark grey bars at the top and bottom, each an eighth of the height."""
    barred = image.copy()
    eighth = image.shape[0] // 8
    barred[:eighth] = barred[-eighth:] = 0.06
    return barred


def round_field(image: Image) -> Image:
    """Black outside a circle, as in an eyepiece."""
    height, width = image.shape
    row, col = np.indices(image.shape)
    return np.where(np.hypot(row - height / 2, col - width / 2) < 0.48 * height, image, 0.0)


def rainbow(image: Image) -> Image:
    """False colours (H, W, 3): blue, green, yellow, red."""
    full = np.ones_like(image)
    return hsv2rgb(np.stack([(1 - image) * 2 / 3, full, full], -1))
