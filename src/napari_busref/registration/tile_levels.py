"""Refine a transform in tiles: level by level, and a part of the image first where asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.registration.joined_field import join, outlying
from napari_busref.registration.tiles import SIDE, Source, Tile, TileFit, fit_tile
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms.transform import Transform, Window

__all__ = ["Refined", "Run", "expected_seconds", "in_tiles", "part_first", "tiles_by", "windows"]

Place = tuple[int, int]
"""Row and column of a tile of a level."""

Run = Callable[[Callable[[Tile], TileFit | None], Iterable[Tile]], Iterable[TileFit | None]]
"""Applies a function to tiles of one level and gives the results in order, as `map` does."""

_run: ContextVar[Run] = ContextVar("tiles", default=map)

_STILL = 0.3  # fixed pixels; where the median move is less, finer levels are left out
_TILE_SECONDS = 6.0
_TOGETHER = 32  # tiles after which `part_first` joins what is done; a join takes as long as one


@contextmanager
def tiles_by(run: Run) -> Iterator[None]:
    """Let `in_tiles` fit tiles elsewhere, for example on workers.

    Parameters
    ----------
    run : callable
    """
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


@dataclass(frozen=True, eq=False)
class Refined:
    """The transform so far, and what each level of tiles said.

    Attributes
    ----------
    transform : Transform
    agreement : ndarray of float32 or None
        As of `LargeRegistrationResult`.
    levels : list of dict
        ``step``, ``tiles``, ``kept`` and ``median_move_px`` of each level.
    """

    transform: Transform
    agreement: NDArray[np.float32] | None = None
    levels: list[dict[str, Any]] = field(default_factory=list)

    def joined(self, fits: Iterable[TileFit], step: int) -> tuple[Transform, float]:
        """The transform with the moves of tiles, and their median length."""
        moves, median = join(fits, self.transform.fixed_shape, step)
        return moves.compose(self.transform), median


def expected_seconds(shape: tuple[int, int], steps: Sequence[int]) -> float:
    """CPU seconds for the tiles of levels over an image."""
    return sum(math.prod(_counts(shape, step)) for step in steps) * _TILE_SECONDS


def windows(shape: tuple[int, int], side: int) -> Iterator[Window]:
    """Cut an image into squares, row by row."""
    rows, cols = shape
    for top in range(0, rows, side):
        for left in range(0, cols, side):
            yield slice(top, min(top + side, rows)), slice(left, min(left + side, cols))


def in_tiles(
    sources: tuple[Source, Source],
    found: Refined,
    steps: Sequence[int],
    device: str,
    reporter: Reporter,
) -> Iterator[Refined]:
    """Refine a transform level by level, until it moves no more; yield it after each level.

    Tiles are fitted one after the other, or as `tiles_by` says.

    Parameters
    ----------
    sources : tuple of Source
        Fixed and moving.
    found : Refined
        The start.
    steps : sequence of int
        Fixed pixels along a side of the pixels of each level, coarse to fine.
    device : str
    reporter : Reporter
    """
    shape = found.transform.fixed_shape
    count = _Count(reporter, sum(math.prod(_counts(shape, step)) for step in steps))
    run = _run.get()
    for step in steps:
        level = _Level(sources, found.transform, step, device)
        fits: dict[Place, TileFit] = {}
        for place, fit in zip(level.tiles, run(fit_tile, level.tiles.values()), strict=True):
            count.one_more()
            if fit is not None:
                fits[place] = fit
        kept = _without_outliers(fits, step)
        if not kept:
            return
        transform, median = found.joined(kept.values(), step)
        found = replace(level.said(found, fits, kept, median), transform=transform)
        yield found
        if median < _STILL:
            return


def part_first(
    sources: tuple[Source, Source],
    found: Refined,
    steps: Sequence[int],
    first: Window,
    device: str,
    reporter: Reporter,
) -> Iterator[tuple[Refined, bool]]:
    """Refine a part of the fixed image on all levels, then the rest; yield what is done so far.

    The rest keeps what the part has found: its tiles are joined with those of the part. Within a
    level, the tiles nearest to the part come first.

    Parameters
    ----------
    sources, found, steps, device, reporter
        As of `in_tiles`. No level is left out.
    first : tuple of slice
        Rows and columns of the fixed image.

    Yields
    ------
    Refined
    bool
        Whether the part, or everything, is complete.
    """
    shape = found.transform.fixed_shape
    count = _Count(reporter, sum(math.prod(_counts(shape, step)) for step in steps))
    known: dict[int, dict[Place, TileFit]] = {}  # the part's tiles, by level
    starts: dict[int, Transform] = {}
    for rest in (False, True):
        for step in steps:
            level = _Level(sources, found.transform, step, device)
            places = level.nearest(first, rest=rest)
            earlier = {
                place: _since(fit, starts[step], found.transform)
                for place, fit in known.get(step, {}).items()
            }
            finest = known.get(steps[-1], {}) if rest and step != steps[-1] else {}
            held = [_since(fit, starts[steps[-1]], found.transform) for fit in finest.values()]
            fits: dict[Place, TileFit] = {}
            begin = found
            for number, place in enumerate(places, start=1):
                fit = fit_tile(level.tiles[place])
                count.one_more()
                if fit is not None:
                    fits[place] = fit
                last = number == len(places)
                if not (last or (rest and number % _TOGETHER == 0)):
                    continue
                kept = _without_outliers(earlier | fits, step)
                if kept:
                    transform, median = begin.joined([*kept.values(), *held], step)
                    found = level.said(begin, earlier | fits, kept, median)
                    found = replace(found, transform=transform)
                if rest:
                    yield found, last and step == steps[-1]
            if not rest:
                known[step], starts[step] = fits, begin.transform
        if not rest:
            yield found, True


class _Count:
    """Reports the tiles that are done."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total, self._done = reporter, total, 0
        reporter.expect(1.0, total * _TILE_SECONDS)

    def one_more(self) -> None:
        """Report a tile; raise Cancelled when the run is cancelled."""
        self._done += 1
        words = f"aligning the details: tile {self._done} of {self._total}"
        self._reporter.step(words, self._done / self._total)


class _Level:
    """The tiles of a level."""

    def __init__(
        self, sources: tuple[Source, Source], transform: Transform, step: int, device: str
    ) -> None:
        self.step, self.counts = step, _counts(transform.fixed_shape, step)
        shape = sources[0].level(step).shape
        self.tiles = {
            (int(place[0]), int(place[1])): Tile(*sources, transform, step, window, device)
            for place, window in zip(np.ndindex(*self.counts), windows(shape, SIDE), strict=True)
        }

    def nearest(self, part: Window, *, rest: bool) -> list[Place]:
        """The tiles that touch a part of the fixed image; or the others, the nearest first."""
        far: dict[Place, int] = {}
        for place, tile in self.tiles.items():
            gaps = [
                max(near.start - core.stop * self.step, core.start * self.step - near.stop + 1, 0)
                for near, core in zip(part, tile.core, strict=True)
            ]
            far[place] = max(gaps)
        return sorted((place for place in far if (far[place] > 0) == rest), key=far.__getitem__)

    def said(
        self,
        found: Refined,
        fits: dict[Place, TileFit],
        kept: dict[Place, TileFit],
        median: float,
    ) -> Refined:
        """What is known with this level."""
        agreement = np.full(self.counts, np.nan, np.float32)
        for place, fit in fits.items():
            agreement[place] = fit.agreement
        tiles = {"step": self.step, "tiles": len(self.tiles), "kept": len(kept)}
        levels = [*found.levels, tiles | {"median_move_px": median}]
        return replace(found, agreement=agreement, levels=levels)


def _without_outliers(fits: dict[Place, TileFit], step: int) -> dict[Place, TileFit]:
    left_out = outlying(fits, step)
    return {place: fit for place, fit in fits.items() if place not in left_out}


def _since(fit: TileFit, before: Transform, now: Transform) -> TileFit:
    """What a tile says of another start than its own."""
    moved = now.points(before.points(fit.position), inverse=True) - fit.position
    turned = np.einsum("nij,nj->ni", fit.information, moved)
    return replace(fit, moment=fit.moment + turned)


def _counts(shape: tuple[int, int], step: int) -> tuple[int, int]:
    """Tiles of a level along both sides."""
    rows, cols = (-(-size // (step * SIDE)) for size in shape)
    return rows, cols
