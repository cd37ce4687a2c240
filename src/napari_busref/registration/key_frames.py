"""The order in which the frames of a series are registered, here or by an executor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_busref.images.arrays import to_array
from napari_busref.images.frames import Frames
from napari_busref.registration._register import register
from napari_busref.registration.drift import Drift, RegisteredFrame
from napari_busref.registration.prepare import initial_transform
from napari_busref.registration.quality import unregistered
from napari_busref.runtime.errors import one_line
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms.transform import Transform

__all__ = ["Images", "Series", "SeriesRun"]

_SEGMENT = 10  # frames that start from one key frame, one after the other
_PERIOD = 0.05  # s between two looks for a cancellation
_LASTING = (ValueError, TypeError, ArithmeticError)  # errors that come again

#: The frames of a series by their numbers.
Images = Mapping[int, Any] | Sequence[Any] | Frames


@dataclass(frozen=True, eq=False)
class Series:
    """The frames and how to register them; a part of it travels to other processes."""

    fixed: Images
    moving: Images
    initial: Transform | tuple[ArrayLike, ArrayLike] | None
    options: dict[str, Any]

    def part(self, numbers: Sequence[int]) -> Series:
        """What these frames need; frames of files are read where they are registered."""
        fixed, moving = (
            images if isinstance(images, Frames) else {n: _read(images, n) for n in numbers}
            for images in (self.fixed, self.moving)
        )
        return replace(self, fixed=fixed, moving=moving)

    @cached_property
    def start(self) -> Transform:
        """The initial transform.

        Raises
        ------
        ValueError, OSError
            When no frame can be read.
        """
        first: Exception | None = None
        for n in range(len(self.moving)):
            try:
                fixed, moving = self._pair(n)
                break
            except (OSError, ValueError) as error:
                first = first or error
        else:
            assert first is not None  # there are frames
            raise first
        return initial_transform(self.initial, fixed.shape[:2], moving.shape[:2])[0]

    def _pair(self, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
        found = []
        for name in ("fixed", "moving"):
            image = getattr(self, name)[n]
            if isinstance(image, Exception):  # of another process
                raise image
            found.append(to_array(image, name)[0])
        return found[0], found[1]

    def register(self, n: int, start: Transform, **options: Any) -> RegisteredFrame:
        """Register a frame; an empty, damaged or odd one is not registered, with the reason."""
        try:
            pair = self._pair(n)
            for name, image in zip(("fixed", "moving"), pair, strict=True):
                need = getattr(start, f"{name}_shape")
                if image.shape[:2] != need:
                    raise ValueError(f"{name}: the frame is of shape {image.shape}, need {need}")
        except (OSError, ValueError) as error:
            return _lost(start, error)
        try:
            found = register(*pair, initial=start, **(self.options | options))
        except ValueError as error:
            if str(error).startswith(("fixed: ", "moving: ")):
                return _lost(start, error)
            raise
        return RegisteredFrame(found.transform, found.quality, found.mask)


class SeriesRun:
    """One call of `register_series`.

    Parameters
    ----------
    series : Series
    executor : concurrent.futures.Executor, optional
    reporter : Reporter
    cancel : threading.Event, optional
        For calls here; a call elsewhere ends with its frames.
    """

    def __init__(
        self,
        series: Series,
        executor: Executor | None,
        reporter: Reporter,
        cancel: threading.Event | None,
    ) -> None:
        self._series, self._executor = series, executor
        self._reporter, self._cancel = reporter, cancel
        self._count, self._done = len(series.moving), 0
        self._known: dict[int, RegisteredFrame] = {}

    def work(self) -> dict[int, RegisteredFrame]:
        """Register key frames, then their neighbours, then what lies beside the drift."""
        count = self._count
        segments = [
            range(first, min(first + _SEGMENT, count)) for first in range(0, count, _SEGMENT)
        ]
        keys = [segment[len(segment) // 2] for segment in segments]
        reference = self._reference(keys)
        left = {n: (n, [reference]) for n in keys if n not in self._known}
        self._each(_search, left)
        reliable = [n for n, one in self._known.items() if one.quality.reliable]
        jobs = {}
        for key, segment in zip(keys, segments, strict=True):
            if reliable:
                nearest = self._known[min(reliable, key=lambda n: abs(n - key))]
                known = {n: self._known[n] for n in segment if n in self._known}
                jobs[key] = (key, list(segment), known, nearest.transform)
        self._each(_segment, jobs)
        drift = Drift(self._known)
        again = {n: (n, drift.starts(n)) for n in drift.to_repeat()}
        before = dict(self._known)
        self._each(_again, again)
        for n in again:
            self._known[n] = drift.better(n, self._known[n], before[n])
        self._reporter.step("finished", 1.0)
        return {n: self._known[n] for n in range(count)}

    def _reference(self, keys: list[int]) -> Transform:
        """Register key frames from the middle outward, then others, until one is reliable."""
        middle = keys[len(keys) // 2]
        order = sorted(keys, key=lambda n: abs(n - middle))
        for n in [*order, *(n for n in range(self._count) if n not in keys)]:
            self._each(_search, {n: (n, [self._series.start])})
            if self._known[n].quality.reliable:
                return self._known[n].transform
        return self._series.start

    def _each(self, function: Callable[..., dict[int, RegisteredFrame]], jobs: Any) -> None:
        """Call a function of a series with arguments, here or by the executor."""
        for found in self._results(function, jobs):
            self._known |= found

    def _results(
        self, function: Callable[..., dict[int, RegisteredFrame]], jobs: Mapping[int, Any]
    ) -> Iterator[dict[int, RegisteredFrame]]:
        if self._executor is None:
            for arguments in jobs.values():
                self._reporter.check()
                cancellable = {"cancel": self._cancel, "on_frame": self._report}
                yield function(self._series, *arguments, **cancellable)
            return
        keys: dict[Future[dict[int, RegisteredFrame]], int] = {}
        again = set(jobs)  # a worker that dies has a second chance

        def submit(key: int) -> None:
            numbers = jobs[key][1] if function is _segment else [key]
            assert self._executor is not None
            part = self._series.part(numbers)
            keys[self._executor.submit(function, part, *jobs[key])] = key

        try:
            for key in jobs:
                submit(key)
            while keys:
                ended, _ = wait(keys, _PERIOD, return_when=FIRST_COMPLETED)
                self._reporter.check()
                for future in ended:
                    key, error = keys.pop(future), future.exception()
                    if error is not None and (isinstance(error, _LASTING) or key not in again):
                        raise error
                    if error is not None:
                        again.remove(key)
                        submit(key)
                        continue
                    self._report(len(future.result()))
                    yield future.result()
        finally:
            for future in keys:
                future.cancel()

    def _report(self, frames: int = 1) -> None:
        self._done += frames
        shown = min(self._done, self._count)
        self._reporter.step(f"frame {shown} of {self._count}", shown / self._count)


def _search(
    series: Series, n: int, starts: Sequence[Transform], *, on_frame: Any = None, **more: Any
) -> dict[int, RegisteredFrame]:
    """Register a key frame with the search of the options."""
    return _first_reliable(series, n, starts, on_frame, **more)


def _again(
    series: Series, n: int, starts: Sequence[Transform], *, on_frame: Any = None, **more: Any
) -> dict[int, RegisteredFrame]:
    """Register a frame from where the model puts it, without a search."""
    return _first_reliable(series, n, starts, on_frame, search="none", **more)


def _first_reliable(
    series: Series, n: int, starts: Sequence[Transform], on_frame: Any, **options: Any
) -> dict[int, RegisteredFrame]:
    found = []
    for start in starts:
        found.append(series.register(n, start, **options))
        if found[-1].quality.reliable:
            break
    if on_frame is not None:
        on_frame()
    return {n: max(found, key=lambda one: (one.quality.reliable, one.quality.score))}


def _segment(
    series: Series,
    key: int,
    numbers: Sequence[int],
    known: Mapping[int, RegisteredFrame],
    start: Transform,
    *,
    on_frame: Any = None,
    **more: Any,
) -> dict[int, RegisteredFrame]:
    """Register the frames around a key frame, each from its nearest reliable neighbour."""
    found = dict(known)
    for n in sorted(numbers, key=lambda n: abs(n - key)):
        if n not in known:
            good = [m for m, one in found.items() if one.quality.reliable]
            beside = min(good, key=lambda m: abs(m - n), default=None)
            chosen = start if beside is None else found[beside].transform
            found |= _again(series, n, [chosen], on_frame=on_frame, **more)
    return {n: one for n, one in found.items() if n not in known}


def _read(images: Images, n: int) -> Any:
    """A frame, or the error that reading it raises."""
    try:
        return images[n]
    except (OSError, ValueError) as error:
        return error


def _lost(start: Transform, error: Exception) -> RegisteredFrame:
    mask = np.zeros(start.fixed_shape, bool)
    return RegisteredFrame(start, unregistered(mask, one_line(error)), mask)
