"""What a network sums up over a whole image, so that tiles can give the same sums.

A network that pools globally calls `over_image` where it would call ``mean`` or ``amax``. On a
whole image that is all it does. While `napari_busref.tiling` runs the network tile by tile, the
first passes over the tiles only add up these sums, one call of `over_image` a pass, and the last
pass computes with the sums of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Ledger", "Part", "Unfinished", "largest_of", "mean_of", "over_image", "products_of"]

Core = tuple[slice, slice]


@dataclass(frozen=True)
class Part:
    """One value to be had over the whole image.

    Attributes
    ----------
    features : tuple of Tensor
        Each (B, ..., h, w), all of one resolution.
    local : callable
        From these features, of a piece of the image, to a tensor (B, ...) of at least single
        precision.
    largest : bool
        The values of pieces are combined by their maximum, else they are added and the sum is
        divided by the number of pixels.
    """

    features: tuple[Tensor, ...]
    local: Callable[..., Tensor]
    largest: bool = False

    def whole(self) -> Tensor:
        """The value, where the features are those of the whole image."""
        value = self.local(*self.features)
        value = value if self.largest else value / self.pixels
        return value.to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features, and of the value in the end."""
        return self.features[0].dtype

    @property
    def pixels(self) -> int:
        """Pixels of the features."""
        return self.features[0].shape[-2] * self.features[0].shape[-1]

    def crop(self, core: Core) -> Part:
        """The same on a piece of the features."""
        return Part(tuple(f[(..., *core)] for f in self.features), self.local, self.largest)


def mean_of(features: Tensor) -> Part:
    """Mean over the pixels: (B, C, h, w) -> (B, C)."""
    return Part((features,), lambda f: _single(f).sum((-2, -1)))


def largest_of(features: Tensor) -> Part:
    """Maximum over the pixels: (B, C, h, w) -> (B, C)."""
    return Part((features,), lambda f: f.amax((-2, -1)), largest=True)


def products_of(first: Tensor, second: Tensor) -> Part:
    """Mean over the pixels of all products of channels: (B, ..., C, h, w) -> (B, ..., C, C).

    Attention between channels, and the norms that it divides by, are made of these.
    """

    def local(a: Tensor, b: Tensor) -> Tensor:
        return _single(a).flatten(-2) @ _single(b).flatten(-2).transpose(-2, -1)

    return Part((first, second), local)


def _single(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


def over_image(*parts: Part) -> list[Tensor]:
    """Values of the whole image, whether the network sees all of it or one tile.

    Parameters
    ----------
    *parts : Part
        None may depend on the value of another one of the same call. Fewer calls are fewer passes
        over the tiles.
    """
    ledger = _CURRENT.get()
    return [part.whole() for part in parts] if ledger is None else ledger.read(parts)


class Unfinished(Exception):
    """Raised in a network whose next value is not known yet; it is after the pass."""


class Ledger:
    """Values of the whole image that are known so far, and those being added up.

    Parameters
    ----------
    stride : int
        Of the network, see `napari_busref.tiling`.
    """

    def __init__(self, stride: int = 1) -> None:
        self._stride = stride
        self._known: list[list[Tensor]] = []
        self._sums: list[Tensor] = []
        self._pixels: list[int] = []
        self._calls = 0
        self._shape = (0, 0)
        self._core: Core = (slice(0, 0), slice(0, 0))

    @contextmanager
    def tile(self, shape: tuple[int, int], core: Core) -> Iterator[None]:
        """In the body, `over_image` reads here.

        Parameters
        ----------
        shape : tuple of int
            (H, W) of the tile as the network sees it.
        core : tuple of slice
            The part of it that no other tile has.
        """
        self._calls, self._shape, self._core = 0, shape, core
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def read(self, parts: tuple[Part, ...]) -> list[Tensor]:
        """Values for the next call of `over_image` in this tile.

        Raises
        ------
        Unfinished
            When they are not known; what the tile adds to them is booked.
        """
        self._calls += 1
        if self._calls <= len(self._known):
            known = self._known[self._calls - 1]
            return [value.to(part.dtype) for value, part in zip(known, parts, strict=True)]
        self._add([part.crop(self._at_resolution(part)) for part in parts])
        raise Unfinished

    def settle(self) -> bool:
        """End a pass. True when it has found values, so that another pass is needed."""
        if not self._sums:
            return False
        self._known.append(
            [
                value / pixels if pixels else value
                for value, pixels in zip(self._sums, self._pixels, strict=True)
            ]
        )
        self._sums, self._pixels = [], []
        return True

    def _add(self, parts: list[Part]) -> None:
        values = [part.local(*part.features) for part in parts]
        # MPS has no float64; there the sums of tiles are rounded a little more
        wide = torch.float32 if values[0].device.type == "mps" else torch.float64
        values = [value.to(wide) for value in values]
        if not self._sums:
            self._sums = values
            self._pixels = [0 if part.largest else part.pixels for part in parts]
            return
        for i, (part, value) in enumerate(zip(parts, values, strict=True)):
            if part.largest:
                self._sums[i] = torch.maximum(self._sums[i], value)
            else:
                self._sums[i] = self._sums[i] + value
                self._pixels[i] += part.pixels

    def _at_resolution(self, part: Part) -> Core:
        """The core in pixels of the features, which may be coarser than the image.

        Where the tile ends with the image the features may reach further, because the network
        pads to a multiple of its stride; all of that belongs to the core.
        """
        found = []
        for size, length, core in zip(
            self._shape, part.features[0].shape[-2:], self._core, strict=True
        ):
            step = max(round(size / length), 1)
            ends = core.stop == size
            fits = 0 <= length * step - size < self._stride and core.start % step == 0
            if not fits or (core.stop % step and not ends):
                raise ValueError(
                    f"features of {length} pixels do not divide a tile of {size} pixels, of which "
                    f"{core.start} to {core.stop} count; the network needs a larger stride"
                )
            found.append(slice(core.start // step, length if ends else core.stop // step))
        return found[0], found[1]


_CURRENT: ContextVar[Ledger | None] = ContextVar("ledger", default=None)
