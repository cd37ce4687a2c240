"""Refine a transform in tiles: level by level, and a part of the image first where asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.registration.joined_field import join, outlying
from napari_busref.registration.tiles import SIDE, Source, Tile, TileFit, fit_tile
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms.transform import Transform, Window

__all__ = [
    "Images",
    "Refined",
    "Run",
    "expected_seconds",
    "in_tiles",
    "part_first",
    "tiles_by",
    "windows",
]

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


@dataclass(frozen=True, eq=False)
class Images:
    """The images that tiles compare.

    Attributes
    ----------
    fixed, moving : Source
    known : ndarray of bool, shape (h, w)
        Where a coarse level of the fixed image can tell: both images have texture there.
    device : str
    """

    fixed: Source
    moving: Source
    known: NDArray[np.bool_]
    device: str


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
    images: Images, found: Refined, steps: Sequence[int], reporter: Reporter
) -> Iterator[Refined]:
    """Refine a transform level by level, until it moves no more; yield it after each level.

    Tiles are fitted one after the other, or as `tiles_by` says.

    Parameters
    ----------
    images : Images
    found : Refined
        The start.
    steps : sequence of int
        Fixed pixels along a side of the pixels of each level, coarse to fine.
    reporter : Reporter
    """
    shape = found.transform.fixed_shape
    count = _Count(reporter, sum(math.prod(_counts(shape, step)) for step in steps))
    run = _run.get()
    for step in steps:
        level = _Level(images, found, step)
        fits: dict[Place, TileFit] = {}
        for place, fit in zip(level.tiles, run(fit_tile, level.tiles.values()), strict=True):
            count.one_more()
            if fit is not None:
                fits[place] = fit
        reached = level.joined(fits)
        if reached is None:
            return
        found = reached
        yield found
        if found.levels[-1]["median_move_px"] < _STILL:
            return


def part_first(
    images: Images, found: Refined, steps: Sequence[int], first: Window, reporter: Reporter
) -> Iterator[tuple[Refined, bool]]:
    """Refine a part of the fixed image on all levels, then the rest; yield what is done so far.

    The rest keeps what the part has found: its tiles are joined with those of the part. Within a
    level, the tiles nearest to the part come first.

    Parameters
    ----------
    images, found, steps, reporter
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
    for rest in (False, True):
        for step in steps:
            level = _Level(images, found, step)
            places = level.nearest(first, rest=rest)
            fits = dict(known.get(step, {}))
            finer = known.get(steps[-1], {}).values() if step != steps[-1] else ()
            for number, place in enumerate(places, start=1):
                fit = fit_tile(level.tiles[place])
                count.one_more()
                if fit is not None:
                    fits[place] = fit
                last = number == len(places)
                if not (last or (rest and number % _TOGETHER == 0)):
                    continue
                found = level.joined(fits, finer) or found
                if rest:
                    yield found, last and step == steps[-1]
            if not rest:
                known[step] = fits
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

    def __init__(self, images: Images, found: Refined, step: int) -> None:
        self.step, self.found, self.known = step, found, images.known
        self.counts = _counts(images.fixed.shape, step)
        cores = zip(
            np.ndindex(*self.counts), windows(images.fixed.level(step).shape, SIDE), strict=True
        )
        given = images.fixed, images.moving, found.transform, step
        self.tiles = {
            (int(row), int(col)): Tile(*given, core, images.device) for (row, col), core in cores
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

    def joined(self, fits: dict[Place, TileFit], others: Iterable[TileFit] = ()) -> Refined | None:
        """Join the tiles of the level and of a finer one, without outliers; None for nothing."""
        start = self.found.transform
        left_out = outlying(fits, start, self.step)
        kept = [fit for place, fit in fits.items() if place not in left_out]
        if not kept:
            return None
        transform, median = join([*kept, *others], start, self.step, self.known)
        agreement = np.full(self.counts, np.nan, np.float32)
        for place, fit in fits.items():
            agreement[place] = fit.agreement
        said = {"step": self.step, "tiles": len(self.tiles), "kept": len(kept)}
        levels = [*self.found.levels, said | {"median_move_px": median}]
        return Refined(transform, agreement, levels)


def _counts(shape: tuple[int, int], step: int) -> tuple[int, int]:
    """Tiles of a level along both sides."""
    rows, cols = (-(-size // (step * SIDE)) for size in shape)
    return rows, cols
