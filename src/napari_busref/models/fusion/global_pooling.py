"""Global pooling for networks that may run tile by tile.

A network that pools globally calls `pool_image` instead of ``mean`` or ``amax``. One that passes
along whole rows calls `run_on_image`. On a whole image both compute directly. When
`napari_busref.fusion.tiling` runs the network on tiles, each pass over the tiles collects the sums
or features of one call. The last pass computes the output with the values of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "PassIncomplete",
    "Pooled",
    "TileAccumulator",
    "largest_of",
    "mean_of",
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
    """

    features: tuple[Tensor, ...]
    local: Callable[..., Tensor]
    largest: bool = False

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
        return Pooled(tuple(f[(..., *core)] for f in self.features), self.local, self.largest)


def mean_of(features: Tensor) -> Pooled:
    """Mean over the pixels: (B, C, h, w) -> (B, C)."""
    return Pooled((features,), lambda f: _single(f).sum((-2, -1)))


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


def pool_image(*parts: Pooled) -> list[Tensor]:
    """Pool over the whole image, on the whole image or on one of its tiles.

    Parameters
    ----------
    *parts : Pooled
        Independent of each other. Each call costs one pass over the tiles.
    """
    accumulator = _CURRENT.get()
    return [part.whole() for part in parts] if accumulator is None else accumulator.read(parts)


def run_on_image(features: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `compute` to the features of the whole image; on a tile, return its part.

    Parameters
    ----------
    features : Tensor
        (B, C, h, w), coarse: memory holds those of the whole image.
    compute : callable
        Maps them to (B, C', h, w).
    """
    accumulator = _CURRENT.get()
    return compute(features) if accumulator is None else accumulator.part_of(features, compute)


class PassIncomplete(Exception):
    """Raised in a network whose next pooled value is known only after this pass."""


class TileAccumulator:
    """Pooled values of completed passes, and the sums of the current one.

    Parameters
    ----------
    stride : int
        ``stride`` of the network, see `napari_busref.fusion.tiling`.
    """

    def __init__(self, stride: int = 1) -> None:
        self._stride = stride
        self._completed: list[list[Tensor]] = []
        self._sums: list[Tensor] = []
        self._pixels: list[int] = []
        self._pieces: list[tuple[Core, Tensor]] = []
        self._compute: Callable[[Tensor], Tensor] | None = None
        self._calls = 0
        self._shape = self._origin = (0, 0)
        self._core: Core = (slice(0, 0), slice(0, 0))

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

    def read(self, parts: tuple[Pooled, ...]) -> list[Tensor]:
        """Values of the next call of `pool_image` in this tile.

        Raises
        ------
        PassIncomplete
            When an earlier pass has not collected them; this one adds the tile's share.
        """
        self._calls += 1
        if self._calls <= len(self._completed):
            values = self._completed[self._calls - 1]
            return [value.to(part.dtype) for value, part in zip(values, parts, strict=True)]
        self._add([part.crop(self._at_resolution(part.features[0])) for part in parts])
        raise PassIncomplete

    def part_of(self, features: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Result of the next call of `run_on_image`, cropped to this tile.

        Raises
        ------
        PassIncomplete
            When an earlier pass has not collected the features; this one keeps the tile's.
        """
        self._calls += 1
        core = self._at_resolution(features)
        rows, cols = (
            slice(at // step, at // step + length)
            for at, step, length in zip(
                self._origin, self._steps(features), features.shape[-2:], strict=True
            )
        )
        if self._calls <= len(self._completed):
            return self._completed[self._calls - 1][0][..., rows, cols]
        position = (
            slice(rows.start + core[0].start, rows.start + core[0].stop),
            slice(cols.start + core[1].start, cols.start + core[1].stop),
        )
        self._pieces.append((position, features[(..., *core)].clone()))
        self._compute = compute
        raise PassIncomplete

    def end_pass(self) -> bool:
        """End a pass; True when it collected values, which another pass must use."""
        if self._pieces and self._compute is not None:
            height, width = (
                max(position[axis].stop for position, _ in self._pieces) for axis in (0, 1)
            )
            first = self._pieces[0][1]
            whole = first.new_empty(*first.shape[:2], height, width)
            for position, piece in self._pieces:
                whole[(..., *position)] = piece
            self._pieces = []
            self._completed.append([self._compute(whole)])
            return True
        if not self._sums:
            return False
        self._completed.append(
            [
                value / pixels if pixels else value
                for value, pixels in zip(self._sums, self._pixels, strict=True)
            ]
        )
        self._sums, self._pixels = [], []
        return True

    def _add(self, parts: list[Pooled]) -> None:
        values = [part.local(*part.features) for part in parts]
        # MPS has no float64: its sums of tiles have larger rounding errors
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

    def _steps(self, features: Tensor) -> tuple[int, int]:
        """Pixels of the tile per pixel of the features."""
        rows, cols = (
            max(round(size / length), 1)
            for size, length in zip(self._shape, features.shape[-2:], strict=True)
        )
        return rows, cols

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
