"""Pair the image files of two folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

__all__ = ["Match", "Pair", "find_pairs", "image_files"]

Match = Literal["name", "order"]
"""Rule that pairs the files of two folders."""

_WARPED = re.compile(r"_warped$")  # output of `register`, which pairs with its input
_BY_PRODUCT = re.compile(r"_(mask|fused)$")


@dataclass(frozen=True)
class Pair:
    """A fixed and a moving image file, and the name that their outputs start with."""

    name: str
    fixed: Path
    moving: Path


def image_files(folder: Path, argument: str) -> dict[str, Path]:
    """Find the readable images of a folder, without subfolders, by stem.

    Raises
    ------
    ValueError
        When there are none, or two have the same stem.
    """
    from napari_busref.images.io import READABLE

    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in READABLE or not path.is_file():
            continue
        if path.stem in found:
            raise ValueError(
                f"{argument}: {found[path.stem].name} and {path.name} in {folder} have the same "
                "stem, so pairs are not clear"
            )
        found[path.stem] = path
    if not found:
        accepted = ", ".join(sorted(READABLE))
        raise ValueError(f"{argument}: no image in the folder {folder}, accepted: {accepted}")
    return found


def find_pairs(
    fixed: Path,
    moving: Path,
    match: Match = "name",
    arguments: tuple[str, str] = ("FIXED", "MOVING"),
) -> tuple[list[Pair], list[Path]]:
    """Pair two files, or the files of two folders.

    Parameters
    ----------
    fixed, moving : Path
    match : str
        For folders. ``"name"`` pairs files of the same stem. A moving file may also be called
        ``<stem>_warped``, the output of `register`; names in ``_mask`` or ``_fused`` are ignored.
        ``"order"`` pairs the files in the order of their names, with numbers by value.
    arguments : tuple of str
        Names of the two in error messages.

    Returns
    -------
    pairs : list of Pair
    alone : list of Path
        Images without a partner.

    Raises
    ------
    ValueError
        When one is a file and the other a folder, no files pair, or their numbers differ with
        ``"order"``.
    FileNotFoundError
        When a path does not exist.
    """
    first, second = arguments
    if match not in get_args(Match):
        raise ValueError(f"match: got {match!r}, need one of {', '.join(get_args(Match))}")
    for argument, path in ((first, fixed), (second, moving)):
        if not path.exists():
            raise FileNotFoundError(f"{argument}: no such file or folder: {path}")
    if fixed.is_dir() != moving.is_dir():
        folder = first if fixed.is_dir() else second
        raise ValueError(
            f"{first} and {second}: only {folder} is a folder, need two files or two folders"
        )
    if not fixed.is_dir():
        return [Pair(_WARPED.sub("", moving.stem), fixed, moving)], []
    left, right = image_files(fixed, first), image_files(moving, second)
    if match == "order":
        return _in_order(left, right, f"{first} and {second}"), []
    partners: dict[str, Path] = {}
    for stem, path in right.items():
        key = stem if stem in left else _WARPED.sub("", stem)
        if key in partners:
            raise ValueError(
                f"{second}: {partners[key].name} and {path.name} in {moving} both belong to "
                f"{left[key].name}"
            )
        if key in left or not _BY_PRODUCT.search(stem):
            partners[key] = path
    pairs = [Pair(key, left[key], partners[key]) for key in left if key in partners]
    if not pairs:
        raise ValueError(
            f"{first} and {second}: no two files of the same stem in {fixed}, {moving}"
        )
    alone = [path for key, path in left.items() if key not in partners]
    alone += [path for key, path in partners.items() if key not in left]
    return pairs, alone


def _in_order(left: dict[str, Path], right: dict[str, Path], arguments: str) -> list[Pair]:
    if len(left) != len(right):
        raise ValueError(
            f"{arguments}: {len(left)} and {len(right)} images cannot be paired by their order; "
            "pair them by name, or remove those without a partner"
        )
    ordered = (sorted(files.values(), key=_natural) for files in (left, right))
    return [Pair(fixed.stem, fixed, moving) for fixed, moving in zip(*ordered, strict=True)]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which digits count by their value."""
    parts = re.findall(r"\d+|\D+", path.stem.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
