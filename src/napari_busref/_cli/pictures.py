"""Draw pictures of a result: displacement in colours, overlays, a labelled overview."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RGB = NDArray[np.uint8]


def to_rgb(image: NDArray[Any]) -> RGB:
    """Convert any image to uint8 RGB (H, W, 3), with the range of `prepare`.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, 3|4)
        Grey, RGB(A) or bool.
    """
    from napari_busref.images.preprocess import prepare

    if image.dtype == np.uint8 and image.ndim == 3:
        return np.ascontiguousarray(image[..., :3])
    if image.dtype == bool:
        grey = image.astype(np.float32)
    else:
        grey = prepare(image, "image").grey
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=2)


def flow_picture(flow: NDArray[np.float32], largest: float | None = None) -> RGB:
    """Draw a displacement in colours: hue for direction, saturation for length.

    Parameters
    ----------
    flow : ndarray, shape (2, H, W)
        (Δrow, Δcol) in pixels.
    largest : float, optional
        Length in pixels of full saturation; by default the longest displacement.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        White where the displacement is 0.
    """
    from skimage.color import hsv2rgb

    length = np.hypot(flow[0], flow[1])
    top = max(float(length.max()) if largest is None else largest, 1e-6)
    hue = (np.arctan2(flow[0], flow[1]) / (2 * np.pi)) % 1.0
    hsv = np.stack([hue, np.minimum(length / top, 1.0), np.ones_like(hue)], axis=-1)
    return cast(RGB, np.rint(hsv2rgb(hsv) * 255).astype(np.uint8))


def overlay(fixed: NDArray[Any], moving: NDArray[Any]) -> RGB:
    """Overlay two images: fixed blue, moving orange, grey where they agree.

    Parameters
    ----------
    fixed, moving : ndarray, shapes (H, W[, 3|4]) and (h, w[, 3|4])
        A moving image of another size is stretched to the size of the fixed one.
    """
    from napari_busref.images import comparison

    left, right = to_rgb(fixed).mean(axis=2), to_rgb(moving)
    if right.shape[:2] != left.shape:
        right = np.asarray(Image.fromarray(right).resize(left.shape[::-1]))
    return comparison.overlay(left / 255, right.mean(axis=2) / 255)


def overview(panels: Sequence[tuple[str, RGB]], columns: int = 4, width: int = 400) -> RGB:
    """Arrange titled pictures in a grid on white.

    Parameters
    ----------
    panels : sequence of (title, picture)
        Pictures of any size; each is scaled to `width`.
    columns : int
        Pictures per row.
    width : int
        Width of a picture in pixels.
    """
    gap, title = 8, 26
    scaled = []
    for name, picture in panels:
        height = max(round(picture.shape[0] * width / picture.shape[1]), 1)
        small = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        scaled.append((name, small))
    tallest = max(small.height for _, small in scaled)
    rows = math.ceil(len(scaled) / columns)
    size = (columns * (width + gap) + gap, rows * (tallest + title + gap) + gap)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=17)
    for index, (name, small) in enumerate(scaled):
        row, column = divmod(index, columns)
        x, y = gap + column * (width + gap), gap + row * (tallest + title + gap)
        draw.text((x, y), name, fill="black", font=font)
        canvas.paste(small, (x, y + title))
    return np.asarray(canvas)
