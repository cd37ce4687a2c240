"""A user's own aligned pairs: where they come from, and what training can use of them.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.data.pairing import Match, find_pairs
from napari_busref.images.preprocess import fill_invalid, prepare

__all__ = ["AlignedPair", "PreparedPair", "pairs_in_folders", "prepare_pair", "split_pairs"]

MIN_SIDE = 32
"""Smallest side, in pixels, of what two aligned images must have in common."""

_MIN_HALVES = 128  # pixels along the side of a single pair that is cut in two
_MOST_HELD_OUT = 4


@dataclass(frozen=True)
class AlignedPair:
    """Two images of one size, the moving one lying on the grid of the fixed one.

    Attributes
    ----------
    name : str
    read : callable
        Returns the fixed and the moving image, (H, W) or (H, W, 3 or 4) of any real type.
    """

    name: str
    read: Callable[[], tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class PreparedPair:
    """Grey values in [0, 1] of what both images of a pair show.

    Attributes
    ----------
    name : str
    fixed, moving : ndarray of float32, shape (H, W)
    """

    name: str
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]


def pairs_in_folders(
    fixed: str | Path, moving: str | Path, match: Match = "name"
) -> list[AlignedPair]:
    """Pair the images of two folders; none is read yet.

    Parameters
    ----------
    fixed, moving : path
        Folders of fixed (visible) and of moving (infrared) images.
    match : str
        ``"name"`` or ``"order"``, see `napari_busref.data.pairing.find_pairs`.

    Raises
    ------
    ValueError, FileNotFoundError
        When a folder is missing or holds no image, or nothing pairs.
    """
    arguments = ("visible folder", "infrared folder")
    for argument, folder in zip(arguments, (fixed, moving), strict=True):
        if not str(folder):
            raise ValueError(f"{argument}: none is chosen")
        if Path(folder).is_file():
            raise NotADirectoryError(f"{argument}: {folder} is a file, need a folder")
    found, _ = find_pairs(Path(fixed), Path(moving), match, arguments)
    return [AlignedPair(pair.name, _reader(pair.fixed, pair.moving)) for pair in found]


def _reader(fixed: Path, moving: Path) -> Callable[[], tuple[NDArray[Any], NDArray[Any]]]:
    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        from napari_busref.images.io import read_image

        return read_image(fixed).data, read_image(moving).data

    return read


def prepare_pair(pair: AlignedPair) -> PreparedPair:
    """Read a pair and bring what both images show to grey values.

    Empty borders, as resampling leaves them, and NaN at the frame are cut off; NaN inside is
    filled from around it.

    Raises
    ------
    ValueError
        When the sizes differ, an image is none or constant, or hardly anything is left.
    """
    fixed, moving = pair.read()
    one = prepare(fixed, f"visible image of {pair.name!r}", find_border=True)
    other = prepare(moving, f"infrared image of {pair.name!r}", find_border=True)
    if one.grey.shape != other.grey.shape:
        raise ValueError(
            f"pair {pair.name!r}: the visible image has {_size(one.grey)}, the infrared one "
            f"{_size(other.grey)}; aligned pairs are of one size, pixel on pixel "
            "(Register and fuse makes them: its warped layer)"
        )
    window = _common_window(one.valid & other.valid)
    images = [fill_invalid(image.grey, image.valid)[window] for image in (one, other)]
    if min(images[0].shape) < MIN_SIDE:
        raise ValueError(
            f"pair {pair.name!r}: the two images have {_size(images[0])} in common, need at least "
            f"{MIN_SIDE} x {MIN_SIDE} px"
        )
    for word, image in zip(("visible", "infrared"), images, strict=True):
        if np.ptp(image) < 1e-3:
            raise ValueError(f"pair {pair.name!r}: the {word} image is constant")
    return PreparedPair(pair.name, *images)


def split_pairs(
    pairs: Sequence[PreparedPair], held_out: int | None = None
) -> tuple[list[PreparedPair], list[PreparedPair]]:
    """Keep the last pairs back, to measure on what was not trained on.

    Parameters
    ----------
    pairs : sequence of PreparedPair
    held_out : int, optional
        How many; by default a fifth, at least one and at most four. Of a single pair the last
        quarter along its longer side is held out.

    Returns
    -------
    training, held_out : list of PreparedPair

    Raises
    ------
    ValueError
        When nothing would be left to train on, or there is no pair.
    """
    if not pairs:
        raise ValueError("pairs: none given, need at least one aligned pair")
    if len(pairs) == 1:
        return _halves(pairs[0])
    count = min(max(len(pairs) // 5, 1), _MOST_HELD_OUT) if held_out is None else held_out
    if not 1 <= count < len(pairs):
        raise ValueError(
            f"held_out: got {count} of {len(pairs)} pairs, need 1 to {len(pairs) - 1}: as many as "
            "leave something to train on"
        )
    return list(pairs[:-count]), list(pairs[-count:])


def _halves(pair: PreparedPair) -> tuple[list[PreparedPair], list[PreparedPair]]:
    axis = int(np.argmax(pair.fixed.shape))
    size = pair.fixed.shape[axis]
    if size < _MIN_HALVES:
        raise ValueError(
            f"pairs: got a single one of {_size(pair.fixed)}; to keep a part back it needs "
            f"{_MIN_HALVES} px along a side, or give at least two pairs"
        )
    parts = []
    for start, stop, word in ((0, size * 3 // 4, "first"), (size * 3 // 4, size, "last")):
        window = [slice(None), slice(None)]
        window[axis] = slice(start, stop)
        images = (image[tuple(window)] for image in (pair.fixed, pair.moving))
        parts.append(PreparedPair(f"{pair.name} ({word} part)", *images))
    return parts[:1], parts[1:]


def _common_window(valid: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns in which everything is valid, but for holes that are not at the frame."""
    frame = np.ones_like(valid)
    frame[1:-1, 1:-1] = False
    outside = ndimage.binary_propagation(frame & ~valid, mask=~valid)
    sums = np.pad(outside.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def share(top: int, bottom: int, left: int, right: int) -> float:
        count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return float(count) / ((bottom - top) * (right - left))

    top, left = 0, 0
    bottom, right = valid.shape
    while top < bottom and left < right and share(top, bottom, left, right) > 0:
        ends = (
            share(top, top + 1, left, right),
            share(bottom - 1, bottom, left, right),
            share(top, bottom, left, left + 1),
            share(top, bottom, right - 1, right),
        )
        worst = int(np.argmax(ends))
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return slice(top, bottom), slice(left, right)


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[0]} x {image.shape[1]} px"
