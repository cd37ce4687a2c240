"""Pair file names that differ by a word for the kind of image, such as ``a_V`` and ``a_T``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

__all__ = ["pair_by_constant_words", "pair_by_words"]

_VISIBLE = (
    "v vi vis visi visible visual vl rgb color colour w wide z zoom eo opt optical photo daylight"
)
_INFRARED = (
    "t th i tir ir inf infra infrared thermal therm thermo lwir mwir swir nir fir vnir flir heat"
)
#: Words that cameras and people put into the names of the first and of the second image.
_WORDS = (
    (frozenset(_VISIBLE.split()), frozenset(_INFRARED.split())),
    (frozenset(("mri", "mr")), frozenset(("ct", "pet", "spect"))),
    (frozenset(("opt", "optical", "eo")), frozenset(("sar", "radar"))),
    (frozenset(("pan",)), frozenset(("ms", "xs", "mss"))),
    (frozenset(("he",)), frozenset(("ihc",))),
)
# words end at a digit, at another character, and where lower case becomes upper case
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")

_Key = tuple[str, ...]


def pair_by_words(fixed: list[str], moving: list[str], same: bool) -> dict[str, list[str]]:
    """Pair names that are equal without a word for the visible or the infrared image.

    Names that both have such a word go first, then those of which one has: ``a_V`` and ``a_T``,
    then ``a`` and ``a_T``.

    Parameters
    ----------
    fixed, moving : list of str
        Names without extension.
    same : bool
        Both are the names of one folder. Then each moving name needs a word. Otherwise the fixed
        images may be the infrared ones.

    Returns
    -------
    dict
        From a fixed name to its partners; more than one where names are not clear.
    """
    found: dict[str, list[str]] = {}
    for first, second in _WORDS:
        orders = [(first, second)] if same else [(first, second), (second, first)]
        ways = [_pair(fixed, moving, *words, same) for words in orders]
        best = max(ways, key=len)
        used = {name for names in best.values() for name in names}
        found |= best
        fixed = [name for name in fixed if name not in best and not (same and name in used)]
        moving = [name for name in moving if name not in used and not (same and name in best)]
    return found


def _pair(
    fixed: list[str],
    moving: list[str],
    fixed_words: frozenset[str],
    moving_words: frozenset[str],
    same: bool,
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for fixed_needs, moving_needs in ((True, True), (False, True), (True, False)):
        if same and not moving_needs:
            continue
        used = {name for names in found.values() for name in names}
        taken = used | set(found)
        partners: dict[_Key, list[str]] = {}
        for name in moving:
            if name in used or (same and name in taken):
                continue
            for key in _keys(name, moving_words, moving_needs):
                partners.setdefault(key, []).append(name)
        for name in fixed:
            if name in found or (same and name in taken):
                continue
            keys = _keys(name, fixed_words, fixed_needs)
            others = [each for key in keys for each in partners.get(key, ()) if each != name]
            if others:
                found[name] = list(dict.fromkeys(others))
    return found


def _tokens(name: str) -> list[str]:
    name = re.sub(r"_warped$", "", unicodedata.normalize("NFC", name))
    return [token.casefold() for token in _TOKEN.findall(name)]


def _keys(name: str, words: frozenset[str], stripped: bool) -> set[_Key]:
    """The name as it is, or without one of the words, or without all of them."""
    tokens = _tokens(name)
    if not stripped:
        return {tuple(tokens)}
    at = [index for index, token in enumerate(tokens) if token in words]
    keys = {tuple(tokens[:index] + tokens[index + 1 :]) for index in at}
    return keys | ({tuple(token for token in tokens if token not in words)} if at else set())


def pair_by_constant_words(fixed: list[str], moving: list[str]) -> dict[str, str]:
    """Pair names that are equal without a word that all names of a folder share.

    ``s1_DAPI`` and ``s2_DAPI`` pair with ``s1_GFP`` and ``s2_GFP``.

    Parameters
    ----------
    fixed, moving : list of str
        Names without extension.

    Returns
    -------
    dict
        From a fixed to a moving name. Empty for fewer than two pairs, which would be chance, and
        where two words give different pairs.
    """
    best: list[dict[str, str]] = []
    for removed, here in _without_constant_word(fixed):
        for other, there in _without_constant_word(moving):
            if removed == other:
                continue
            links = {here[key]: there[key] for key in here.keys() & there.keys()}
            if len(links) < 2 or (best and len(links) < len(best[0])):
                continue
            if best and len(links) > len(best[0]):
                best = []
            if links not in best:
                best.append(links)
    return best[0] if len(best) == 1 else {}


def _without_constant_word(names: list[str]) -> Iterator[tuple[str | None, dict[_Key, str]]]:
    """Each word that all names have at one place, and the names by what else they hold."""
    split = {name: _tokens(name) for name in names}
    shortest = min(map(len, split.values()))
    places: list[int | None] = [None, *range(shortest), *range(-shortest, 0)]
    for place in places:
        if place is None:
            word, keys = None, {tuple(tokens): name for name, tokens in split.items()}
        else:
            here = {tokens[place] for tokens in split.values()}
            if len(here) > 1:
                continue
            word = here.pop()
            keys = {}
            for name, tokens in split.items():
                rest = list(tokens)
                del rest[place]
                keys[tuple(rest)] = name
        if len(keys) == len(names):
            yield word, keys
