"""Progress reports and cancelling, the same way for every long call."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """What the ``progress=`` argument of every long call accepts.

    Parameters
    ----------
    stage : str
        What is being done now, in a few words.
    fraction : float
        Share of the whole job that is done, in [0, 1], never decreasing.
    """

    def __call__(self, stage: str, fraction: float) -> None:
        """Take note of the state of the job."""


class Cancelled(Exception):
    """Raised in the worker once the ``cancel`` event is set.

    Deliberately no ``RuntimeError``: napari's generator workers report neither an error nor the
    end of the job when one of those passes through them.
    """


def check(cancel: threading.Event | None) -> None:
    """Raise `Cancelled` when the event is set.

    Parameters
    ----------
    cancel : threading.Event or None
        None means that the job cannot be cancelled.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled("cancelled by the user")


class Reporter:
    """A progress callback and a cancel event in one object that can be handed down.

    Parameters
    ----------
    progress : Progress, optional
        Called with the stage and the fraction of the whole job.
    cancel : threading.Event, optional
        Looked at before every report.

    Examples
    --------
    >>> reporter = Reporter(lambda stage, fraction: print(f"{stage}: {fraction:.2f}"))
    >>> reporter.step("reading", 0)
    reading: 0.00
    >>> model = reporter.part(0.2, 0.8)  # the model sees a job of its own, from 0 to 1
    >>> model.step("matching", 0.5)
    matching: 0.50
    """

    def __init__(
        self, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> None:
        self._progress = progress
        self._cancel = cancel
        self._range = (0.0, 1.0)
        self._furthest = [0.0]  # shared with the parts: the reported fraction never goes back

    def step(self, stage: str, fraction: float) -> None:
        """Stop here when cancelled, otherwise report.

        Parameters
        ----------
        stage : str
            What begins now.
        fraction : float
            Share of this reporter's part of the job that is done, clipped to [0, 1].

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
            self._progress(stage, self._furthest[0])

    def check(self) -> None:
        """Raise `Cancelled` when the cancel event is set; report nothing."""
        check(self._cancel)

    def regardless(self) -> Reporter:
        """Return a reporter that goes on where this one is, and is not cancelled any more."""
        heir = Reporter(self._progress)
        heir._range, heir._furthest = self._range, self._furthest
        return heir

    def part(self, low: float, high: float) -> Reporter:
        """Return a reporter for the part of this job between two fractions.

        Parameters
        ----------
        low, high : float
            ``0 <= low <= high <= 1``: where 0 and 1 of the part lie in this job.
        """
        if not 0 <= low <= high <= 1:
            raise ValueError(f"low and high: got {low} and {high}, need 0 <= low <= high <= 1")
        child = Reporter(self._progress, self._cancel)
        start, stop = self._range
        child._range = (start + (stop - start) * low, start + (stop - start) * high)
        child._furthest = self._furthest
        return child
