"""Torch's threads follow the load of the machine.

A thread of OpenMP that has finished its part spins until the others have finished theirs. Beside
one busy process on two cores, a pair then takes 50 times as long as on one thread.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "adapt_threads",
    "allowed_cores",
    "busy_elsewhere",
    "following_load",
    "free_cores",
    "pool_threads",
]

_PERIOD = 0.2  # s between two readings in one call
_READINGS = 3  # the smallest counts: a short burst of another process is no load
_PAUSE = 0.002  # s between them
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_LOAD = Path("/proc/loadavg")
_TASKS = Path("/proc/self/task")

_lock = threading.Lock()
_calls = 0  # that follow the load now, in all threads
_before = 0  # torch's threads before the first of them
_here = threading.local()


def allowed_cores() -> int:
    """Count the cores that this process may use: affinity, and the quota of a container."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return max(count, 1)


def pool_threads() -> int:
    """Count the threads for a pool: the allowed cores, and at most OMP_NUM_THREADS."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed_cores(), max(int(given), 1)) if given.isdecimal() else allowed_cores()


def busy_elsewhere() -> int | None:
    """Count the threads of other processes that run or wait for a core.

    Returns
    -------
    int or None
        None where the system does not tell (only Linux does).
    """
    try:
        runnable = int(_LOAD.read_text().split()[3].partition("/")[0])
        own = sum(_runs(task) for task in os.listdir(_TASKS))
    except (OSError, ValueError, IndexError):
        return None
    return max(runnable - own, 0)


def _runs(task: str) -> bool:
    try:
        return (_TASKS / task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):  # it has ended
        return False


def free_cores(read: Callable[[], int | None] = busy_elsewhere) -> int:
    """Count the allowed cores that no other process uses, at least 1.

    Parameters
    ----------
    read : callable
        As `busy_elsewhere`. The smallest of three readings counts.
    """
    allowed = allowed_cores()
    if allowed == 1:
        return 1
    busy = math.inf
    for number in range(_READINGS):
        if number:
            time.sleep(_PAUSE)
        reading = read()
        if not reading:
            return allowed
        busy = min(busy, reading)
    # cores that this process may not use serve the others first
    return max(min(allowed, (os.cpu_count() or 1) - int(busy)), 1)


class _Follower:
    """Sets torch's threads in one thread, at most every `_PERIOD` seconds."""

    def __init__(self, most: int, read: Callable[[], int | None]) -> None:
        self._most, self._read = most, read
        self._due = -math.inf

    def adapt(self) -> None:
        import torch

        now = time.monotonic()
        if self._most == 1 or now < self._due:
            return
        self._due = now + _PERIOD
        wanted = min(self._most, free_cores(self._read))
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)


@contextmanager
def following_load(read: Callable[[], int | None] = busy_elsewhere) -> Iterator[None]:
    """Let torch use the free cores in the body, and no more threads than it was allowed.

    `adapt_threads` follows a change of the load. Afterwards torch has as many threads as before
    the first of simultaneous calls. A context within another in one thread has no effect.

    Parameters
    ----------
    read : callable
        As `busy_elsewhere`.
    """
    global _before, _calls
    import torch

    if getattr(_here, "follower", None) is not None:
        yield
        return
    with _lock:
        if not _calls:
            _before = torch.get_num_threads()
        _calls += 1
        before = _before
    _here.follower = _Follower(before, read)
    try:
        adapt_threads()
        yield
    finally:
        _here.follower = None
        with _lock:
            _calls -= 1
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def adapt_threads() -> None:
    """Follow a change of the load, within `following_load` in this thread."""
    follower = getattr(_here, "follower", None)
    if follower is not None:
        follower.adapt()
