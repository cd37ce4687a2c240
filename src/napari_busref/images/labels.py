"""Recognise label images, whose values are names and must not be interpolated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_labels"]

_FEW = 32  # distinct values; a picture of 8 bits has more, even a dim one
_MIN_UNIFORM = 0.5  # equal pairs of neighbours among those off the background
_MIN_JUMP = 4  # median step between unequal neighbours, in distinct values; a gradient has 1 or 2
_MAX_VALUES = 65_536


def count_labels(image: NDArray[Any]) -> int | None:
    """Count the distinct values of a label image; None for an image of intensities.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, C)

    Returns
    -------
    int or None
        A count for bool, and for whole numbers that take at most 32 values. Also for those of
        segmented cells: half of the neighbouring pixels outside the background are equal, and
        the others differ by more than a gradient would. The background is the most frequent
        value. Colours count as one value.
    """
    values = _whole_numbers(np.ma.getdata(image))
    if values is None or values.size == 0:
        return None
    distinct, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) <= _FEW or image.dtype.kind == "b":
        return len(distinct)
    if len(distinct) > _MAX_VALUES:
        return None
    codes = codes.reshape(values.shape)
    background = int(np.argmax(counts))
    steps = []
    for first, second in ((codes[1:], codes[:-1]), (codes[:, 1:], codes[:, :-1])):
        off = (first != background) | (second != background)
        steps.append(np.abs(first[off] - second[off]))
    step = np.concatenate(steps)
    unequal = step[step > 0]
    uniform = len(unequal) <= (1 - _MIN_UNIFORM) * len(step)
    return len(distinct) if uniform and np.median(unequal) >= _MIN_JUMP else None


def _whole_numbers(image: NDArray[Any]) -> NDArray[Any] | None:
    """The values as a plane of whole numbers; colours of 8 bits packed into one."""
    if image.ndim == 3 and image.dtype == np.uint8 and image.shape[-1] <= 4:
        packed = np.zeros(image.shape[:2], np.uint32)
        for channel in np.moveaxis(image, -1, 0):
            packed = packed * 256 + channel
        return packed
    if image.ndim != 2 or image.dtype.kind not in "biuf":
        return None
    if image.dtype.kind == "f":
        sample = image[:: max(1, len(image) // 64)]
        if not (np.isfinite(sample).all() and (sample == np.rint(sample)).all()):
            return None
        return image if np.isfinite(image).all() and (image == np.rint(image)).all() else None
    return image
