"""A user's own aligned pairs: reading, checking and holding out. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.data.pairing import find_pairs
from napari_busref.images.preprocess import fill_invalid, prepare

__all__ = ["AlignedPair", "PreparedPair", "pairs_in_folders", "prepare_pair", "split_pairs"]

MIN_SIDE = 32
"""Smallest side, in pixels, of the common area of two aligned images."""

_MIN_SPLIT_SIDE = 128  # px, longer side of a single pair to split
_MAX_HELD_OUT = 4


@dataclass(frozen=True)
class AlignedPair:
    """Two images on one grid.

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
    """Grey values in [0, 1] of the common area of a pair.

    Attributes
    ----------
    name : str
    fixed, moving : ndarray of float32, shape (H, W)
    """

    name: str
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]


def pairs_in_folders(
    fixed: str | Path, moving: str | Path, match: str = "name"
) -> list[AlignedPair]:
    """Pair the images of two folders, without reading them.

    Parameters
    ----------
    fixed, moving : path
        Folders of fixed (visible) and of moving (infrared) images.
    match : str
        ``"name"``, ``"order"`` or a pattern, see `napari_busref.data.pairing.find_pairs`.

    Raises
    ------
    ValueError, FileNotFoundError
        If a folder is missing or holds no image, or no two images pair.
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
        from napari_busref.images.io import read_plane

        return read_plane(fixed).data, read_plane(moving).data

    return read


def prepare_pair(pair: AlignedPair) -> PreparedPair:
    """Read a pair, crop it to the common valid area and convert it to grey.

    Invalid pixels inside, such as NaN, are filled from their surroundings.

    Raises
    ------
    ValueError
        If the sizes differ, an image is unusable or constant, or the common area is too small.
    """
    fixed, moving = pair.read()
    one = prepare(fixed, f"visible image of {pair.name!r}", find_border=True)
    other = prepare(moving, f"infrared image of {pair.name!r}", find_border=True)
    if one.grey.shape != other.grey.shape:
        raise ValueError(
            f"pair {pair.name!r}: the visible image has {_size(one.grey)}, the infrared one "
            f"{_size(other.grey)}; aligned pairs have one size, pixel on pixel "
            "(use the warped layer of Register and fuse)"
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
    """Hold out the last pairs for measuring.

    Parameters
    ----------
    pairs : sequence of PreparedPair
    held_out : int, optional
        Number of pairs; by default a fifth, at least one and at most four. Of a single pair the
        last quarter along its longer side is held out.

    Returns
    -------
    training, held_out : list of PreparedPair

    Raises
    ------
    ValueError
        If no pair is given, or none would remain to train on.
    """
    if not pairs:
        raise ValueError("pairs: none given, need at least one aligned pair")
    if len(pairs) == 1:
        return _split_one(pairs[0])
    count = min(max(len(pairs) // 5, 1), _MAX_HELD_OUT) if held_out is None else held_out
    if not 1 <= count < len(pairs):
        raise ValueError(
            f"held_out: got {count} of {len(pairs)} pairs, need 1 to {len(pairs) - 1}, so that "
            "at least one pair remains to train on"
        )
    return list(pairs[:-count]), list(pairs[-count:])


def _split_one(pair: PreparedPair) -> tuple[list[PreparedPair], list[PreparedPair]]:
    axis = int(np.argmax(pair.fixed.shape))
    size = pair.fixed.shape[axis]
    if size < _MIN_SPLIT_SIDE:
        raise ValueError(
            f"pairs: got a single one of {_size(pair.fixed)}; to hold out a part of it, a side "
            f"must have {_MIN_SPLIT_SIDE} px; or give at least two pairs"
        )
    parts = []
    for start, stop, word in ((0, size * 3 // 4, "first"), (size * 3 // 4, size, "last")):
        window = [slice(None), slice(None)]
        window[axis] = slice(start, stop)
        images = (image[tuple(window)] for image in (pair.fixed, pair.moving))
        parts.append(PreparedPair(f"{pair.name} ({word} part)", *images))
    return parts[:1], parts[1:]


def _common_window(valid: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns without invalid pixels, except holes inside the valid area."""
    frame = np.ones_like(valid)
    frame[1:-1, 1:-1] = False
    outside = ndimage.binary_propagation(frame & ~valid, mask=~valid)
    sums = np.pad(outside.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def invalid_fraction(top: int, bottom: int, left: int, right: int) -> float:
        count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return float(count) / ((bottom - top) * (right - left))

    top, left = 0, 0
    bottom, right = valid.shape
    while top < bottom and left < right and invalid_fraction(top, bottom, left, right) > 0:
        ends = (
            invalid_fraction(top, top + 1, left, right),
            invalid_fraction(bottom - 1, bottom, left, right),
            invalid_fraction(top, bottom, left, left + 1),
            invalid_fraction(top, bottom, right - 1, right),
        )
        worst = int(np.argmax(ends))
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return slice(top, bottom), slice(left, right)


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[0]} x {image.shape[1]} px"
