"""Seconds that each stage of a long call takes."""

from __future__ import annotations

from time import perf_counter


class Stopwatch:
    """Measure the seconds of each stage.

    Attributes
    ----------
    timings : dict
        From the name of a stage to its seconds.
    """

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self._start = self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = perf_counter()
        self.timings[stage] = self.timings.get(stage, 0.0) + now - self._last
        self._last = now

    def total(self) -> dict[str, float]:
        """Return all stages, and ``"total"`` since the start."""
        return self.timings | {"total": perf_counter() - self._start}
