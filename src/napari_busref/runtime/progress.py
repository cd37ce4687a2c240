"""Progress reports and cancellation of long calls."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from time import perf_counter
from typing import Protocol, Self

from napari_busref.runtime.durations import DURATIONS, Stage, stage

__all__ = ["Cancelled", "Plan", "Progress", "Reporter", "check"]


class Progress(Protocol):
    """The ``progress=`` argument of every long call.

    Parameters
    ----------
    stage : str
        The current step, in a few words.
    fraction : float
        Completed share of the whole job, in [0, 1], never decreasing.

    Notes
    -----
    A callback that has a method ``expect(fraction, seconds)`` is also told, whenever a stage
    begins, which fraction it ends at and how long it is expected to take.
    """

    def __call__(self, stage: str, fraction: float) -> None:
        """Receive the state of the job."""


class Cancelled(Exception):
    """Raised in the worker once the ``cancel`` event is set.

    Not a ``RuntimeError``: napari's generator workers swallow those, and report neither an error
    nor the end of the job.
    """


def check(cancel: threading.Event | None) -> None:
    """Raise `Cancelled` when the event is set.

    Parameters
    ----------
    cancel : threading.Event or None
        None if the job cannot be cancelled.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled("cancelled by the user")


class Reporter:
    """A progress callback and a cancel event, passed down as one object.

    Parameters
    ----------
    progress : Progress, optional
        Called with the stage and the fraction of the whole job.
    cancel : threading.Event, optional
        Checked before every report.

    Examples
    --------
    >>> reporter = Reporter(lambda stage, fraction: print(f"{stage}: {fraction:.2f}"))
    >>> reporter.step("reading", 0)
    reading: 0.00
    >>> model = reporter.part(0.2, 0.8)  # the model reports from 0 to 1
    >>> model.step("matching", 0.5)
    matching: 0.50
    """

    def __init__(
        self, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> None:
        self._progress = progress
        self._cancel = cancel
        self._range = (0.0, 1.0)
        self._prefix = self._words = ""
        self._furthest = [0.0]  # shared with the parts, so the fraction never decreases

    def step(self, stage: str, fraction: float) -> None:
        """Report a step, unless the job is cancelled.

        Parameters
        ----------
        stage : str
            The step that begins.
        fraction : float
            Completed share of this reporter's part of the job, clipped to [0, 1].

        Raises
        ------
        Cancelled
            When the cancel event is set.
        """
        self.check()
        low, high = self._range
        done = low + (high - low) * min(max(float(fraction), 0.0), 1.0)
        self._furthest[0] = max(self._furthest[0], done)
        if self._progress is not None:
            self._progress(self._prefix + (self._words or stage), self._furthest[0])

    __call__ = step  # a reporter is the progress callback of a part

    def expect(self, fraction: float, seconds: float) -> None:
        """Forecast in how many seconds this reporter's part is done up to a fraction."""
        if (forecast := getattr(self._progress, "expect", None)) is not None:
            low, high = self._range
            forecast(low + (high - low) * fraction, seconds)

    def check(self) -> None:
        """Raise `Cancelled` when the cancel event is set, without a report."""
        check(self._cancel)

    def regardless(self) -> Reporter:
        """Return a reporter that continues here and ignores the cancel event."""
        return self._heir(self._range, None)

    def prefixed(self, prefix: str) -> Reporter:
        """Return a reporter for all of this part that puts words before those of every step."""
        heir = self._heir(self._range, self._cancel)
        heir._prefix += prefix
        return heir

    def named(self, words: str) -> Reporter:
        """Return a reporter for all of this part that gives every step the same words."""
        heir = self._heir(self._range, self._cancel)
        heir._words = words
        return heir

    def part(self, low: float, high: float) -> Reporter:
        """Return a reporter for a part of this job.

        Parameters
        ----------
        low, high : float
            ``0 <= low <= high <= 1``: fractions of this job where the part starts and ends.
        """
        if not 0 <= low <= high <= 1:
            raise ValueError(f"low and high: got {low} and {high}, need 0 <= low <= high <= 1")
        start, stop = self._range
        limits = (start + (stop - start) * low, start + (stop - start) * high)
        return self._heir(limits, self._cancel)

    def _heir(self, limits: tuple[float, float], cancel: threading.Event | None) -> Reporter:
        heir = Reporter(self._progress, cancel)
        heir._range, heir._furthest = limits, self._furthest
        heir._prefix, heir._words = self._prefix, self._words
        return heir


class Plan:
    """The stages of a job in order, each with the share of the progress that its time has.

    A stage that is left out gives its share to those after it. So does a stage that was not
    planned: it takes its share from them. The plan teaches `DURATIONS` how long stages take.

    Parameters
    ----------
    reporter : Reporter, optional
        Of the whole job.
    stages : iterable of Stage
        The expected ones.

    Examples
    --------
    >>> reporter = Reporter(lambda words, fraction: print(f"{words}: {fraction:.2f}"))
    >>> stages = [Stage("read", "reading", 1.0), Stage("fuse", "fusing", 3.0)]
    >>> plan = Plan(reporter, stages)
    >>> _ = plan.begin("read")
    reading: 0.00
    >>> plan.begin("fuse").step("tile 2 of 4", 0.5)
    fusing: 0.25
    fusing: 0.62
    """

    def __init__(self, reporter: Reporter | None = None, stages: Iterable[Stage] = ()) -> None:
        self._reporter = reporter or Reporter()
        self._waiting = list(stages)
        self._current: tuple[Stage, float] | None = None  # and when it began
        self._end = 0.0  # fraction of the reporter's part at which the current stage ends
        self._actual = self._expected = 0.0  # seconds of the finished stages

    def begin(self, name: str) -> Reporter:
        """Begin a stage, report it, and return its reporter.

        Parameters
        ----------
        name : str
            Of a stage of the plan, or of the table of durations.

        Raises
        ------
        Cancelled
            When the cancel event is set.
        """
        self._reporter.check()
        self._finish()
        chosen = self._take(name)
        whole = chosen.seconds + sum(one.seconds for one in self._waiting)
        low = self._end
        self._end = low + (1 - low) * (chosen.seconds / whole if whole > 0 else 1.0)
        part = self._reporter.part(low, min(self._end, 1.0)).named(chosen.words)
        self._current = chosen, perf_counter()
        if chosen.words:  # else the stage has a plan of its own
            part.step(chosen.words, 0.0)
            part.expect(1.0, chosen.seconds * (self._actual + 1.0) / (self._expected + 1.0))
        return part

    def end(self, words: str) -> None:
        """End the job."""
        self._finish()
        self._reporter.step(words, 1.0)

    def check(self) -> None:
        """Raise `Cancelled` when the cancel event is set."""
        self._reporter.check()

    def regardless(self) -> Self:
        """Return a plan that continues here and ignores the cancel event."""
        heir = copy.copy(self)
        heir._reporter, heir._waiting = self._reporter.regardless(), list(self._waiting)
        return heir

    def _take(self, name: str) -> Stage:
        """Take a stage from the plan, with all before it; a stage out of the plan as it is."""
        for index, one in enumerate(self._waiting):
            if one.name == name or one.name.startswith((f"{name}: ", f"{name}, ")):
                del self._waiting[: index + 1]
                return one
        return stage(name)

    def _finish(self) -> None:
        """Measure the stage that has just ended."""
        if self._current is not None:
            done, began = self._current
            seconds = perf_counter() - began
            DURATIONS.learn(done, seconds)
            self._actual += seconds
            self._expected += done.seconds
            self._current = None
