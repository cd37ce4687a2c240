"""Choose one band or page of an image that has several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Choice", "NoSuchPlane", "Stored", "choose", "guess_axes", "page_of"]


class NoSuchPlane(ValueError):
    """A file has no such band, page or channel."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds.

    Attributes
    ----------
    data : ndarray
        All planes.
    axes : str
        A letter for each axis of `data`: Y and X, S at the end for colour, S or C elsewhere for
        bands and channels, others (T, Z, I) for pages.
    metadata : dict
    valid : ndarray of bool, shape (H, W), optional
        False where the file says that there is nothing.
    extra_bands : ndarray, shape (N, H, W), optional
        All bands, where `data` is only the colours.
    pages : sequence of callables
        Each reads a further picture, of any size, as an array or with its own metadata. They are
        counted after the pages of `data`.
    note : str
        What else the user should know.
    """

    data: NDArray[Any]
    axes: str
    metadata: dict[str, Any] = field(default_factory=dict)
    valid: NDArray[np.bool_] | None = None
    extra_bands: NDArray[Any] | None = None
    pages: Sequence[Callable[[], NDArray[Any] | Stored]] = ()
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """Numbers of the band or channel and of the page, from 1; None without a choice."""

    band: int | None = None
    channel: int | None = None
    page: int | None = None

    @property
    def given(self) -> bool:
        """Whether there is any choice."""
        return (self.band, self.channel, self.page) != (None, None, None)

    def check(self) -> None:
        """Refuse what is not a whole number from 1.

        Raises
        ------
        TypeError, ValueError
        """
        for name in ("band", "channel", "page"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"{name}: got {value!r}, need a whole number, counted from 1")
            if value < 1:
                raise ValueError(f"{name}: got {value}, need 1 or more: it is counted from 1")


def guess_axes(shape: tuple[int, ...]) -> str:
    """Guess the axes of an array without names, as `napari_busref.images.arrays.one_plane`."""
    from napari_busref.images.arrays import bands_last

    if len(shape) < 2:
        return "?" * len(shape)
    if len(shape) == 2:
        return "YX"
    if shape[-1] in (3, 4):
        return "I" * (len(shape) - 3) + "YXS"
    if len(shape) == 3 and bands_last(shape):
        return "YXB"
    return "I" * (len(shape) - 2) + "YX"


def page_of(stored: Stored, choice: Choice, *, single: bool) -> tuple[Stored, Choice, str]:
    """Open the further picture that holds the chosen page.

    Parameters
    ----------
    stored : Stored
    choice : Choice
    single : bool
        As of `choose`.

    Returns
    -------
    stored : Stored
        What holds the page, without further pictures.
    choice : Choice
        What is still to be chosen there.
    taken : str
        Such as ``"page 3 of 5"``; empty without a choice.

    Raises
    ------
    NoSuchPlane
        When the file has no such page.
    """
    choice.check()
    if not stored.pages or (choice.page is None and not single):
        return stored, choice, ""
    own = int(np.prod([stored.data.shape[i] for i in _page_axes(stored.axes)], dtype=int))
    count = own + len(stored.pages)
    number = _number("page", choice.page or 1, count)
    taken = f"page {number} of {count}"
    if number <= own:
        here = replace(choice, page=number if own > 1 else None)
        return replace(stored, pages=()), here, taken
    found = stored.pages[number - own - 1]()
    if not isinstance(found, Stored):
        found = Stored(found, "YXS"[: found.ndim])
    return replace(found, note=stored.note), replace(choice, page=None), taken


def choose(stored: Stored, choice: Choice, *, single: bool) -> tuple[NDArray[Any], str, str]:
    """Choose a band and a page.

    Parameters
    ----------
    stored : Stored
        Its further pictures are left out, see `page_of`.
    choice : Choice
    single : bool
        Take the first band and page where none is chosen.

    Returns
    -------
    data : ndarray
    axes : str
    taken : str
        Such as ``"page 1 of 30, channel 2 of 3"``; empty without a choice.

    Raises
    ------
    NoSuchPlane
        When the file has no such band or page.
    """
    choice.check()
    page, band, channel = choice.page, choice.band, choice.channel
    data, axes = stored.data, stored.axes
    if stored.extra_bands is not None and (band or channel):
        data, axes = stored.extra_bands, "SYX"
    words = []
    pages, bands = _page_axes(axes), [i for i, letter in enumerate(axes) if letter in "CSB"]
    colour = axes.endswith("S") and len(axes) > 2
    # any of the names serves where there is one axis
    if not bands and len(pages) == 1 and page is None and (band or channel):
        page, band, channel = band or channel, None, None
        label = "band" if choice.band else "channel"
    elif not pages and page is not None and bands and not (band or channel):
        band, page, label = page, None, "page"
    else:
        label = ""
    if pages and (page is not None or single):
        sizes = [data.shape[i] for i in pages]
        count = int(np.prod(sizes))
        number = _number(label or "page", page or 1, count)
        index = np.unravel_index(number - 1, sizes)
        for axis, position in sorted(zip(pages, index, strict=True), reverse=True):
            data = np.take(data, int(position), axis)
            axes = axes[:axis] + axes[axis + 1 :]
        words += [f"{label or 'page'} {number} of {count}"] if count > 1 else []
    elif page is not None:
        _number("page", page, 1)
    for name, value in (("band", band), ("channel", channel)):
        bands = [i for i, letter in enumerate(axes) if letter in "CSB"]
        if value is None:
            continue
        if not bands:
            _number(label or name, value, 1)
            continue
        preferred = [i for i in bands if (axes[i] == "C") == (name == "channel")]
        axis = (preferred or bands)[0]
        count = data.shape[axis]
        number = _number(label or name, value, count)
        words.append(f"{label or name} {number} of {count}")
        data, axes = np.take(data, number - 1, axis), axes[:axis] + axes[axis + 1 :]
    if single:
        for axis in reversed(range(len(axes))):
            if axes[axis] in "CB" or (axes[axis] == "S" and axis != len(axes) - 1):
                count, name = data.shape[axis], "channel" if axes[axis] == "C" else "band"
                words += [f"{name} 1 of {count}"] if count > 1 else []
                data, axes = np.take(data, 0, axis), axes[:axis] + axes[axis + 1 :]
        if stored.extra_bands is not None and colour and not words:
            words.append(f"bands 1-3 of {len(stored.extra_bands)} as colour")
    return data, axes, ", ".join(words)


def _page_axes(axes: str) -> list[int]:
    return [i for i, letter in enumerate(axes) if letter not in "YXSCB"]


def _number(name: str, value: int, count: int) -> int:
    if not 1 <= value <= count:
        have = f"it has {count}" if count > 1 else "it has only one"
        raise NoSuchPlane(f"{name}: got {value}, need 1 to {count}: {have}")
    return int(value)
