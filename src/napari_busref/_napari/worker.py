"""Running a long call in another thread: with progress, cancel and every error reported."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from napari.qt.threading import GeneratorWorkerSignals, WorkerBase, create_worker
from napari.utils.notifications import notification_manager

from napari_busref.progress import Cancelled

__all__ = ["Job", "start_job"]


class Job(WorkerBase):
    """One call ``function(*args, progress=..., cancel=..., **kwargs)`` in a worker thread.

    It has the signals of napari's generator workers: ``started``, ``yielded`` with
    ``(stage, fraction)`` at every progress report, then one of ``returned`` with the result,
    ``errored`` with the exception or ``aborted``, and at the very end always ``finished``.

    Unlike a generator worker it needs no generator, so the call is stopped at the next place where
    it looks at ``cancel`` and not only where it yields; and a ``RuntimeError``, which torch raises
    for nearly everything, is reported like any other error instead of being swallowed.

    Parameters
    ----------
    function : callable
        Raises `Cancelled` soon after its ``cancel`` event is set.
    *args, **kwargs
        Passed on.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(SignalsClass=GeneratorWorkerSignals)
        self.cancel = threading.Event()
        self._call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = (
            function,
            args,
            kwargs,
        )
        self._last = ("", -1.0)

    def quit(self) -> None:
        """Ask the call to stop; the window also calls this when it is closed."""
        super().quit()
        self.cancel.set()

    def work(self) -> Any:
        """Make the call; for the worker thread."""
        if self._call is None:
            raise ValueError("a job runs only once")
        function, args, kwargs = self._call
        self._call = None  # napari keeps finished workers, and they must not keep the images
        try:
            result = function(*args, progress=self._report, cancel=self.cancel, **kwargs)
        except Cancelled:
            super().quit()  # cancelled by whatever means, there is nothing to return
            result = None
        if self.abort_requested:
            self.aborted.emit()
        return result

    def _report(self, stage: str, fraction: float) -> None:
        # A loop may report thousands of times; the event queue need not hold all of that.
        if stage != self._last[0] or fraction - self._last[1] >= 0.002:
            self._last = (stage, fraction)
            self.yielded.emit((stage, fraction))


def start_job(
    function: Callable[..., Any],
    *args: Any,
    connect: dict[str, Callable[..., Any]],
    **kwargs: Any,
) -> Job:
    """Start a `Job` and make it known to the window, which asks before it closes on a busy one.

    Parameters
    ----------
    function : callable
        As for `Job`.
    connect : dict
        Signal name to slot. Slots run in the main thread. Errors go nowhere else, so connect
        ``errored``; warnings become napari notifications.
    *args, **kwargs
        Passed on to `function`.

    Returns
    -------
    Job
    """
    return create_worker(
        function,
        *args,
        _worker_class=Job,
        _ignore_errors=True,
        _connect={"warned": _relay_warning} | connect,
        _start_thread=True,
        **kwargs,
    )


def _relay_warning(arguments: tuple[Any, ...]) -> None:
    notification_manager.receive_warning(*arguments)
