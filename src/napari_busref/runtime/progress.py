"""Progress reports and cancellation of long calls."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """The ``progress=`` argument of every long call.

    Parameters
    ----------
    stage : str
        The current step, in a few words.
    fraction : float
        Completed share of the whole job, in [0, 1], never decreasing.
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
            self._progress(stage, self._furthest[0])

    def check(self) -> None:
        """Raise `Cancelled` when the cancel event is set, without a report."""
        check(self._cancel)

    def regardless(self) -> Reporter:
        """Return a reporter that continues here and ignores the cancel event."""
        heir = Reporter(self._progress)
        heir._range, heir._furthest = self._range, self._furthest
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
        child = Reporter(self._progress, self._cancel)
        start, stop = self._range
        child._range = (start + (stop - start) * low, start + (stop - start) * high)
        child._furthest = self._furthest
        return child
