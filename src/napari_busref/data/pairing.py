"""Pair the image files of two folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_busref.data import name_words
from napari_busref.images.uri import exists, holds_images, is_ome_zarr
from napari_busref.images.uri import stem as stem_of

__all__ = ["MATCHES", "Pair", "check_match", "find_pairs", "image_files"]

#: Rules that pair the files of two folders, besides patterns.
MATCHES = ("name", "order")

_WARPED = re.compile(r"_warped$")  # output of `register`, which pairs with its input
_BY_PRODUCT = re.compile(r"_(mask|fused)$")
_EXAMPLES = r"*_rgb,*_lwir or (\d+)"

_Files = dict[str, Path]  # by stem
_Links = dict[str, str]  # from stems of fixed files to those of moving files


@dataclass(frozen=True)
class Pair:
    """A fixed and a moving image file, and the name that their outputs start with."""

    name: str
    fixed: Path
    moving: Path


def image_files(folder: Path, argument: str) -> dict[str, Path]:
    """Find the readable images of a folder, without subfolders and hidden files, by stem.

    Raises
    ------
    ValueError
        When there are none, or two have the same stem.
    """
    from napari_busref.images.io import READABLE, readable_files

    found: dict[str, Path] = {}
    folders = (path for path in folder.iterdir() if _is_ome_zarr_image(path))
    for path in sorted([*readable_files(folder), *folders]):
        name = stem_of(path)
        if name in found:
            raise ValueError(
                f"{argument}: {found[name].name} and {path.name} in {folder} have the same "
                "stem, so pairs are not clear"
            )
        found[name] = path
    if not found:
        accepted = ", ".join(sorted((*READABLE, ".ome.zarr")))
        raise ValueError(f"{argument}: no image in the folder {folder}, accepted: {accepted}")
    return found


def _is_ome_zarr_image(path: Path) -> bool:
    from napari_busref.transforms.formats.ngff import is_scene

    visible = not path.name.startswith(".")
    return visible and is_ome_zarr(path) and path.is_dir() and not is_scene(path)


def check_match(match: str) -> str:
    """Check a rule for pairs, see `find_pairs`, and return it.

    Raises
    ------
    ValueError
        When it is neither a name of `MATCHES` nor a pattern.
    """
    if match not in MATCHES:
        _keys(match)
    return match


def find_pairs(
    fixed: Path,
    moving: Path,
    match: str = "name",
    arguments: tuple[str, str] = ("FIXED", "MOVING"),
) -> tuple[list[Pair], list[Path]]:
    r"""Pair two files, or the files of two folders.

    Parameters
    ----------
    fixed, moving : Path
    match : str
        For folders. ``"name"`` pairs files of the same stem, whatever their case and the
        composition of their accents. Files without such a partner pair when their names differ
        by a word for the kind of image, such as ``a_V`` and ``a_T``, or by one that is the same
        in all names of a folder. A moving file may also be called ``<stem>_warped``, the output
        of `register`; names in ``_mask`` or ``_fused`` are ignored.

        ``"order"`` pairs the files in the order of their names, with numbers by value.

        Two patterns, such as ``*_rgb,*_lwir``, select the fixed and the moving files; those with
        the same text for ``*`` are a pair. A regular expression with a group, such as
        ``(\d+)``, pairs files of the same text in its groups, with numbers by value.
    arguments : tuple of str
        Names of the two in error messages.

    Returns
    -------
    pairs : list of Pair
        Their names are the moving stems without ``_warped``; with ``"order"`` the fixed stems.
    alone : list of Path
        Images without a partner.

    Raises
    ------
    ValueError
        When one is a file and the other a folder, no files pair, a file has two partners, or
        the numbers differ with ``"order"``. Also when both are one folder, and the names do not
        distinguish fixed from moving images.
    FileNotFoundError
        When a path does not exist.
    """
    first, second = arguments
    check_match(match)
    for argument, path in ((first, fixed), (second, moving)):
        if not exists(path):
            raise FileNotFoundError(f"{argument}: no such file or folder: {path}")
    if holds_images(fixed) != holds_images(moving):
        folder = first if holds_images(fixed) else second
        raise ValueError(
            f"{first} and {second}: only {folder} is a folder, need two files or two folders"
        )
    if not holds_images(fixed):
        return [Pair(_unwarped(stem_of(moving)), fixed, moving)], []
    both, same = f"{first} and {second}", fixed.samefile(moving)
    left = image_files(fixed, first)
    right = _without_by_products(left if same else image_files(moving, second), left)
    if match == "order":
        if same:
            raise ValueError(f"{both}: both are the same folder, which has one order only")
        return _in_order(left, right, both), []
    if match == "name":
        links = _by_name(left, right, second, same)
    else:
        links = _by_pattern(left, right, match, arguments, same)
    if not links:
        raise ValueError(_no_pairs(fixed, moving, both, match, same))
    pairs = [
        Pair(_pair_name(stem, links[stem]), left[stem], right[links[stem]])
        for stem in left
        if stem in links
    ]
    used = {path for pair in pairs for path in (pair.fixed, pair.moving)}
    alone = dict.fromkeys([*left.values(), *right.values()])
    return pairs, [path for path in alone if path not in used]


def _unwarped(stem: str) -> str:
    return _WARPED.sub("", stem)


def _pair_name(fixed: str, moving: str) -> str:
    return fixed if fixed == moving else _unwarped(moving)


def _without_by_products(right: _Files, left: _Files) -> _Files:
    """Leave out masks and fused images of earlier runs."""

    def is_image(stem: str) -> bool:
        return (right is not left and stem in left) or not _BY_PRODUCT.search(stem)

    return {stem: path for stem, path in right.items() if is_image(stem)} or right


def _no_pairs(fixed: Path, moving: Path, both: str, match: str, same: bool) -> str:
    if match != "name":
        return f"{both}: no two files pair by the match {match!r} in {fixed}, {moving}"
    if same:
        return (
            f"{both}: both are the same folder {fixed}, and no names distinguish the two images "
            "of a pair, as a_V and a_T do; give two folders, or two patterns for match, such as "
            "*_rgb,*_lwir"
        )
    return (
        f"{both}: no two files of the same stem in {fixed}, {moving}; files of other names pair "
        f"by match: order, or a pattern such as {_EXAMPLES}"
    )


# -- by name ------------------------------------------------------------------------------------


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _without_case(text: str) -> str:
    return _composed(_composed(text).casefold())


def _by_name(left: _Files, right: _Files, argument: str, same: bool) -> _Links:
    """Pair equal stems, then equal ones but for case and accents, then by words."""
    links: _Links = {}
    for form in () if same else (str, _composed, _without_case):
        links |= _by_form(form, left, right, links, argument)
    unpaired = [stem for stem in left if stem not in links]
    partners = [stem for stem in right if stem not in links.values()]
    words = name_words.pair_by_words(unpaired, partners, same)
    for fixed, others in words.items():
        if len(others) > 1:
            raise ValueError(_two_partners(left[fixed], [right[stem] for stem in others]))
        links[fixed] = others[0]
    if len(set(links.values())) < len(links):
        twice = next(stem for stem in links.values() if list(links.values()).count(stem) > 1)
        several = [left[stem] for stem, other in links.items() if other == twice]
        raise ValueError(_two_partners(right[twice], several))
    if not links and not same:
        links = name_words.pair_by_constant_words(list(left), [_unwarped(stem) for stem in right])
        originals = {_unwarped(stem): stem for stem in right}
        links = {fixed: originals[other] for fixed, other in links.items()}
    return links


def _by_form(
    form: Callable[[str], str], left: _Files, right: _Files, done: _Links, argument: str
) -> _Links:
    """Pair the files that are left by a form of their stems."""
    names = {form(stem) for stem in left}

    def moving_form(stem: str) -> str:
        return form(stem if form(stem) in names else _unwarped(stem))

    here = _group([stem for stem in left if stem not in done], form)
    there = _group([stem for stem in right if stem not in done.values()], moving_form)
    return _join(here, there, left, right, argument)


def _two_partners(one: Path, others: list[Path]) -> str:
    names = " and ".join(path.name for path in others[:2])
    return (
        f"match: {names} in {others[0].parent} both belong to {one.name}; a pattern such as "
        "*_rgb,*_lwir selects one"
    )


def _group(stems: Iterable[str], key: Callable[[str], object]) -> dict[object, list[str]]:
    groups: dict[object, list[str]] = {}
    for stem in stems:
        groups.setdefault(key(stem), []).append(stem)
    return groups


def _join(
    here: Mapping[object, list[str]],
    there: Mapping[object, list[str]],
    left: _Files,
    right: _Files,
    argument: str,
) -> _Links:
    """Link fixed and moving stems of the same key."""
    links = {}
    for key, fixed in here.items():
        moving = there.get(key, [])
        if moving and len(fixed) > 1:
            raise ValueError(_two_partners(right[moving[0]], [left[stem] for stem in fixed]))
        if len(moving) > 1:
            one, other = (right[stem] for stem in moving[:2])
            raise ValueError(
                f"{argument}: {one.name} and {other.name} in {one.parent} both belong to "
                f"{left[fixed[0]].name}"
            )
        if moving:
            links[fixed[0]] = moving[0]
    return links


# -- by a pattern -------------------------------------------------------------------------------

_Key = Callable[[Path], object]


def _keys(match: str) -> tuple[_Key, _Key]:
    """Functions from a fixed and a moving file to its key, None where the pattern fails."""
    parts = match.split(",")
    if len(parts) == 2 and all("*" in part for part in parts):
        return _wildcard_key(parts[0]), _wildcard_key(parts[1])
    try:
        pattern = re.compile(_composed(match), re.IGNORECASE)
    except re.error as error:
        raise ValueError(
            f"match: got {match!r}, which is no regular expression: {error}; need one of "
            f"{', '.join(MATCHES)}, or a pattern such as {_EXAMPLES}"
        ) from None
    if pattern.groups == 0:
        raise ValueError(
            f"match: got {match!r}, need one of {', '.join(MATCHES)}, or a pattern such as "
            f"{_EXAMPLES}"
        )

    def key(path: Path) -> object:
        found = pattern.search(_composed(stem_of(path)))
        if found is None:
            return None
        return tuple(_comparable(group or "") for group in found.groups())

    return key, key


def _comparable(text: str) -> str:
    """The text without case, and a number without leading zeros."""
    return str(int(text)) if text.isdecimal() else text.casefold()


def _wildcard_key(pattern: str) -> _Key:
    text = "".join({"*": "(.*)", "?": "(.)"}.get(char, re.escape(char)) for char in pattern)
    compiled = re.compile(_composed(text), re.IGNORECASE)

    def key(path: Path) -> object:
        for name in (_unwarped(stem_of(path)), stem_of(path), path.name):
            if found := compiled.fullmatch(_composed(name)):
                return tuple(group.casefold() for group in found.groups())
        return None

    return key


def _by_pattern(
    left: _Files, right: _Files, match: str, arguments: tuple[str, str], same: bool
) -> _Links:
    fixed_key, moving_key = _keys(match)
    if same and fixed_key is moving_key:
        raise ValueError(
            f"{arguments[0]} and {arguments[1]}: both are the same folder; for match, give two "
            f"patterns such as *_rgb,*_lwir, which distinguish the two images, not {match!r}"
        )
    here = _group(left, lambda stem: fixed_key(left[stem]))
    there = _group(right, lambda stem: moving_key(right[stem]))
    here.pop(None, None)
    links = _join(here, there, left, right, arguments[1])
    for fixed, moving in links.items():
        if left[fixed] == right[moving]:
            raise ValueError(f"match: {match!r} pairs {left[fixed].name} with itself")
    return links


# -- by order -----------------------------------------------------------------------------------


def _in_order(left: _Files, right: _Files, arguments: str) -> list[Pair]:
    if len(left) != len(right):
        raise ValueError(
            f"{arguments}: {len(left)} and {len(right)} images cannot be paired by their order; "
            "pair them by name, or remove those without a partner"
        )
    ordered = (sorted(files.values(), key=_natural) for files in (left, right))
    return [Pair(stem_of(fixed), fixed, moving) for fixed, moving in zip(*ordered, strict=True)]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which digits count by their value."""
    parts = re.findall(r"\d+|\D+", stem_of(path).lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
