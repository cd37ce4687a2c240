"""What a progress bar shows between two reports of a job: an even bar, and the time left."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

__all__ = ["Pace", "PaceNow", "time_left"]

_LINEAR = 0.8  # of the way to the next report; the rest takes ever longer if the report is late
_SETTLED = 0.02  # fraction below which the time left is unknown


class PaceNow(NamedTuple):
    """The state of a job.

    Attributes
    ----------
    stage : str
    fraction : float
        In [0, 1]; never decreases.
    left : float
        Seconds until the end; NaN while unknown.
    """

    stage: str
    fraction: float
    left: float


class Pace:
    """A progress callback that knows how a job goes on between its reports.

    A network runs for seconds without a report. Where the job forecasts the duration of a stage,
    the bar moves on in the meantime.

    Parameters
    ----------
    clock : callable
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._stage, self._shown = "", 0.0
        self._began = self._at = clock()  # of the job and of the last report
        self._low = self._high = 0.0  # of the last report, and at the end of its stage
        self._rate = math.nan  # seconds for the whole bar, at the pace of this stage

    def __call__(self, stage: str, fraction: float) -> None:
        """Receive a report."""
        with self._lock:
            self._stage, self._low, self._at = stage, fraction, self._clock()
            self._shown = max(self._shown, fraction)
            self._high = max(self._high, fraction)

    def expect(self, fraction: float, seconds: float) -> None:
        """Receive the forecast that a fraction is reached in some seconds."""
        with self._lock:
            if fraction > self._low:
                self._high, self._rate = fraction, seconds / (fraction - self._low)

    def now(self) -> PaceNow:
        """The state to show now."""
        with self._lock:
            now, gap = self._clock(), self._high - self._low
            if gap > 0 and self._rate > 0:
                part = (now - self._at) / (gap * self._rate)
                late = max(part - _LINEAR, 0.0) / (1 - _LINEAR)
                part = min(part, _LINEAR) + (1 - _LINEAR) * (1 - math.exp(-late))
                self._shown = max(self._shown, self._low + gap * part)
            return PaceNow(self._stage, self._shown, self._left(now))

    def _left(self, now: float) -> float:
        done, elapsed = self._shown, now - self._began
        if done < _SETTLED or (math.isnan(self._rate) and elapsed < 1):
            return math.nan
        seen = elapsed / done  # seconds for the whole bar, from those so far
        whole = seen if math.isnan(self._rate) else done * seen + (1 - done) * self._rate
        return whole * (1 - done)


def time_left(seconds: float) -> str:
    """Say how much time is left; empty where that is unknown or below a second."""
    if not seconds >= 1:
        return ""
    if seconds < 100:
        step = 1 if seconds < 15 else 5
        return f"about {step * round(seconds / step)} s left"
    return f"about {seconds / 60:.0f} min left"
