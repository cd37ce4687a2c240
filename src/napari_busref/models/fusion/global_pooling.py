"""Global pooling for networks that may run tile by tile.

A network that pools globally calls `pool_image` instead of ``mean`` or ``amax``. One that passes
along whole rows calls `run_on_image`. On a whole image both compute directly. When
`napari_busref.fusion.tiling` runs the network on tiles, each pass over the tiles collects the sums
or features of one call. The last pass computes the output with the values of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "PassIncomplete",
    "Pooled",
    "TileAccumulator",
    "largest_of",
    "mean_of",
    "one_pass",
    "pool_image",
    "products_of",
    "run_on_image",
]

Core = tuple[slice, slice]


@dataclass(frozen=True)
class Pooled:
    """One value to pool over the whole image.

    Attributes
    ----------
    features : tuple of Tensor
        Each (B, ..., h, w), all of one resolution.
    local : callable
        Maps these features of a piece of the image to a tensor (B, ...) of at least single
        precision.
    largest : bool
        Whether pieces are combined by their maximum, not by their mean over the pixels.
    weight : int
        Pixels that each one stands for, in a mean.
    """

    features: tuple[Tensor, ...]
    local: Callable[..., Tensor]
    largest: bool = False
    weight: int = 1

    def whole(self) -> Tensor:
        """The pooled value, when the features cover the whole image."""
        value = self.local(*self.features)
        value = value if self.largest else value / self.pixels
        return value.to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features and of the pooled value."""
        return self.features[0].dtype

    @property
    def pixels(self) -> int:
        """Pixels of the features."""
        return self.features[0].shape[-2] * self.features[0].shape[-1]

    def crop(self, core: Core) -> Pooled:
        """The same pooling on a piece of the features."""
        return replace(self, features=tuple(f[(..., *core)] for f in self.features))


def mean_of(features: Tensor, weight: int = 1) -> Pooled:
    """Mean over the pixels: (B, C, h, w) -> (B, C)."""
    return Pooled((features,), lambda f: _single(f).sum((-2, -1)), weight=weight)


def largest_of(features: Tensor) -> Pooled:
    """Maximum over the pixels: (B, C, h, w) -> (B, C)."""
    return Pooled((features,), lambda f: f.amax((-2, -1)), largest=True)


def products_of(first: Tensor, second: Tensor) -> Pooled:
    """Mean over the pixels of all products of channels: (B, ..., C, h, w) -> (B, ..., C, C).

    Attention between channels and its norms derive from these.
    """

    def local(a: Tensor, b: Tensor) -> Tensor:
        return _single(a).flatten(-2) @ _single(b).flatten(-2).transpose(-2, -1)

    return Pooled((first, second), local)


def _single(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


def pool_image(*parts: Pooled | Callable[[Core | None], Sequence[Pooled]]) -> list[Tensor]:
    """Pool over the whole image, on the whole image or on one of its tiles.

    Parameters
    ----------
    *parts : Pooled or callable
        Independent of each other. Each call costs one pass over the tiles. A callable returns
        parts. It gets the rows and columns of the tile that count, to which it must crop them,
        or None on a whole image. Passes that know the values do not call it.
    """
    accumulator = _CURRENT.get()
    if accumulator is not None:
        return accumulator.read(parts)
    whole = [part(None) if callable(part) else [part] for part in parts]
    return [part.whole() for some in whole for part in some]


def run_on_image(
    features: Tensor | Callable[[], Tensor],
    compute: Callable[[Tensor], Tensor] | None = None,
    step: int | None = None,
) -> Tensor:
    """Apply `compute` to the features of the whole image; on a tile, return its part.

    Parameters
    ----------
    features : Tensor or callable
        (B, C, h, w), coarse: memory holds those of the whole image. Passes that know the result
        do not call the callable.
    compute : callable, optional
        Maps them to (B, C', h, w). By default they stay: the margins of tiles then need not hold
        what the features depend on.
    step : int, optional
        Pixels of the image per pixel of the features; a callable needs it.
    """
    accumulator = _CURRENT.get()
    if accumulator is not None:
        return accumulator.part_of(features, compute, step)
    features = features() if callable(features) else features
    return features if compute is None else compute(features)


@contextmanager
def one_pass() -> Iterator[None]:
    """Let calls of `pool_image` and `run_on_image` in the body share one pass.

    None of them may need the result of another.
    """
    accumulator = _CURRENT.get()
    if accumulator is None:
        yield
    else:
        with accumulator.sharing():
            yield


class PassIncomplete(Exception):
    """Raised in a network whose next pooled value is known only after this pass."""


class _Sums:
    """Sums or maxima of one call of `pool_image` over the tiles of a pass."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.pixels: list[int] = []
        self.dtypes: list[torch.dtype] = []

    def add(self, parts: Sequence[Pooled]) -> None:
        values = [part.local(*part.features) for part in parts]
        # MPS has no float64: its sums of tiles have larger rounding errors
        wide = torch.float32 if values[0].device.type == "mps" else torch.float64
        values = [part.weight * value.to(wide) for part, value in zip(parts, values, strict=True)]
        pixels = [0 if part.largest else part.weight * part.pixels for part in parts]
        if not self.values:
            self.values, self.pixels = values, pixels
            self.dtypes = [part.dtype for part in parts]
            return
        for i, (part, value) in enumerate(zip(parts, values, strict=True)):
            self.values[i] = (torch.maximum if part.largest else torch.add)(self.values[i], value)
            self.pixels[i] += pixels[i]

    def result(self) -> list[Tensor]:
        return [
            (value / pixels if pixels else value).to(dtype)
            for value, pixels, dtype in zip(self.values, self.pixels, self.dtypes, strict=True)
        ]


class _Pieces:
    """Features of one call of `run_on_image`, joined over the tiles of a pass."""

    def __init__(self, whole: Tensor, compute: Callable[[Tensor], Tensor] | None) -> None:
        self.whole, self.compute = whole, compute

    def result(self) -> list[Tensor]:
        return [self.whole if self.compute is None else self.compute(self.whole)]


class TileAccumulator:
    """Pooled values of completed passes, and those of the current one.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the image.
    stride : int
        ``stride`` of the network, see `napari_busref.fusion.tiling`.
    alone : bool
        Let each tile compute the features that `run_on_image` would only keep. Its margin must
        hold what they depend on; no memory holds them for the whole image.
    known : list of list of ndarray
        From `known` of an accumulator of the same image and network: passes that are done.
    device : str or torch.device
        Where the network computes.
    limit : float
        Most bytes of the features of the whole image.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        stride: int = 1,
        *,
        alone: bool = False,
        known: Sequence[Sequence[NDArray[np.float32]]] = (),
        device: str | torch.device = "cpu",
        limit: float = math.inf,
    ) -> None:
        self._image, self._stride, self._alone, self._limit = shape, stride, alone, limit
        self._completed = [
            [torch.from_numpy(value).to(device) for value in values] for values in known
        ]
        self._open: dict[int, _Sums | _Pieces] = {}  # by the number of the call
        self._calls = 0
        self._shared = False
        self._shape = self._origin = (0, 0)
        self._core: Core = (slice(0, 0), slice(0, 0))

    @property
    def known(self) -> list[list[NDArray[np.float32]]]:
        """The values of all completed passes as plain data: of each call, its results."""
        return [[value.float().cpu().numpy() for value in values] for values in self._completed]

    @contextmanager
    def tile(self, shape: tuple[int, int], core: Core, origin: tuple[int, int]) -> Iterator[None]:
        """Serve `pool_image` and `run_on_image` in the body, for one tile.

        Parameters
        ----------
        shape : tuple of int
            (H, W) of the padded tile.
        core : tuple of slice
            Its core, which overlaps no other.
        origin : tuple of int
            Position of the padded tile in the image.
        """
        self._calls, self._shape, self._core, self._origin = 0, shape, core, origin
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """See `one_pass`."""
        self._shared = True
        try:
            yield
        finally:
            self._shared = False
        if self._calls > len(self._completed):
            raise PassIncomplete

    def read(self, parts: Sequence[Pooled | Callable[[Core | None], Sequence[Pooled]]]) -> Any:
        """Values of the next call of `pool_image` in this tile.

        Raises
        ------
        PassIncomplete
            When an earlier pass has not collected them; this one adds the tile's share.
        """
        self._calls += 1
        if self._calls <= len(self._completed):
            return self._completed[self._calls - 1]
        cropped: list[Pooled] = []
        for part in parts:
            if callable(part):
                cropped += part(self._core)
            else:
                cropped.append(part.crop(self._at_resolution(part.features[0])))
        sums = self._open.setdefault(self._calls, _Sums())
        assert isinstance(sums, _Sums)
        sums.add(cropped)
        return self._stop()

    def part_of(
        self,
        features: Tensor | Callable[[], Tensor],
        compute: Callable[[Tensor], Tensor] | None,
        step: int | None,
    ) -> Any:
        """Result of the next call of `run_on_image`, cropped to this tile.

        Raises
        ------
        PassIncomplete
            When an earlier pass has not collected the features; this one keeps the tile's.
        """
        if self._alone and compute is None:
            return features() if callable(features) else features
        self._calls += 1
        known = self._calls <= len(self._completed)
        if not known or step is None:
            features = features() if callable(features) else features
            step = self._steps(features)[0]
        rows, cols = (
            slice(at // step, -(-(at + length) // self._stride) * self._stride // step)
            for at, length in zip(self._origin, self._shape, strict=True)
        )
        if known:
            return self._completed[self._calls - 1][0][..., rows, cols]
        assert not callable(features)
        core = self._at_resolution(features)
        if self._calls not in self._open:
            size = [-(-side // self._stride) * self._stride // step for side in self._image]
            needed = math.prod([*features.shape[:2], *size]) * features.element_size()
            if needed > self._limit:
                raise MemoryError(
                    f"model: holds {needed / 2**30:.1f} GiB of features of the whole image, above "
                    f"{self._limit / 2**30:.1f} GiB; memory_limit (--memory-limit) changes it, "
                    "and the models average and maximum hold none"
                )
            whole = features.new_empty(*features.shape[:2], *size)
            self._open[self._calls] = _Pieces(whole, compute)
        pieces = self._open[self._calls]
        assert isinstance(pieces, _Pieces)
        pieces.whole[..., rows, cols][(..., *core)] = features[(..., *core)]
        return self._stop()

    def _stop(self) -> list[Tensor]:
        if not self._shared:
            raise PassIncomplete
        return []  # `sharing` raises before anything reads it

    def end_pass(self) -> bool:
        """End a pass; True when it collected values, which another pass must use."""
        collected = sorted(self._open)
        for number in collected:
            self._completed.append(self._open.pop(number).result())
        return bool(collected)

    def _steps(self, features: Tensor) -> tuple[int, int]:
        """Pixels of the tile per pixel of the features."""
        found = []
        for size, length in zip(self._shape, features.shape[-2:], strict=True):
            padded = -(-size // self._stride) * self._stride  # as networks pad
            exact = padded % length == 0
            found.append(padded // length if exact else max(round(size / length), 1))
        return found[0], found[1]

    def _at_resolution(self, features: Tensor) -> Core:
        """The core in pixels of the features, which may be coarser than the image.

        At the end of the image the network may pad to a multiple of its stride; the core then
        includes the padding.
        """
        found = []
        for size, length, core, step in zip(
            self._shape, features.shape[-2:], self._core, self._steps(features), strict=True
        ):
            ends = core.stop == size
            fits = 0 <= length * step - size < self._stride and core.start % step == 0
            if not fits or (core.stop % step and not ends):
                raise ValueError(
                    f"features of {length} pixels do not divide a tile of {size} pixels, of which "
                    f"{core.start} to {core.stop} count; the network needs a larger stride"
                )
            found.append(slice(core.start // step, length if ends else core.stop // step))
        return found[0], found[1]


_CURRENT: ContextVar[TileAccumulator | None] = ContextVar("accumulator", default=None)
