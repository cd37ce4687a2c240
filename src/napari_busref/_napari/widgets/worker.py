"""Jobs: long calls in another thread, with progress, cancellation and every error reported."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

from napari.qt.threading import GeneratorWorkerSignals, WorkerBase, create_worker
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QEventLoop, QTimer

from napari_busref.runtime.pace import Pace
from napari_busref.runtime.progress import Cancelled

__all__ = ["Job", "RunningJobs", "postpone_garbage_collection", "serve_until", "start_job"]

_MIN_PROGRESS = 0.002  # smaller steps are not reported
_UNFREEZE_DELAY = 1000  # ms after a job, in which its results are drawn


class Job(WorkerBase):
    """One call ``function(*args, progress=..., cancel=..., **kwargs)`` in a worker thread.

    It has the signals of napari's generator workers: ``started``, ``yielded`` with
    ``(stage, fraction)`` for each progress report, then one of ``returned`` with the result,
    ``errored`` with the exception or ``aborted``, and at the very end always ``finished``.

    Unlike a generator worker it stops wherever the call checks ``cancel``, not only where it
    yields. It also reports a ``RuntimeError``, which napari's workers swallow and torch raises
    for nearly everything.

    Parameters
    ----------
    function : callable
        Raises `Cancelled` soon after its ``cancel`` event is set, or returns what it has.
    *args, **kwargs
        Passed on.

    Attributes
    ----------
    pace : Pace
        What to show of the progress at any time.
    listening : bool
        Whether the slots that `start_job` connected are still called.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(SignalsClass=GeneratorWorkerSignals)
        self.cancel = threading.Event()
        self._call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = (
            function,
            args,
            kwargs,
        )
        self._reported = ("", -1.0)
        self.pace = Pace()
        self.listening = True

    def stop(self) -> None:
        """Cancel the call, but deliver what it returns."""
        self.cancel.set()

    def quit(self) -> None:
        """Cancel the call and drop its result; the window also calls this when it closes."""
        super().quit()
        self.cancel.set()

    def abandon(self) -> None:
        """Quit and call no slot any more; the thread ends at its next check."""
        self.listening = False
        self.quit()

    def work(self) -> Any:
        """Make the call, in the worker thread."""
        if self._call is None:
            raise ValueError("a job runs only once")
        function, args, kwargs = self._call
        self._call = None  # napari keeps finished workers, and they must not keep the images
        try:
            result = function(*args, progress=_JobProgress(self), cancel=self.cancel, **kwargs)
        except Cancelled:
            super().quit()
            result = None
        if self.abort_requested:
            self.aborted.emit()
        return result

    def report(self, stage: str, fraction: float) -> None:
        """Receive a report of the call, in its thread."""
        self.pace(stage, fraction)
        # A loop may report thousands of times, which would flood the event queue.
        if stage != self._reported[0] or fraction - self._reported[1] >= _MIN_PROGRESS:
            self._reported = (stage, fraction)
            self.yielded.emit((stage, fraction))


class _JobProgress:
    """The progress callback of a job."""

    def __init__(self, job: Job) -> None:
        self._job = weakref.ref(job)

    def __call__(self, stage: str, fraction: float) -> None:
        if (job := self._job()) is not None:
            job.report(stage, fraction)

    def expect(self, fraction: float, seconds: float) -> None:
        if (job := self._job()) is not None:
            job.pace.expect(fraction, seconds)


class RunningJobs:
    """The running jobs of a panel by name; outlives the panel and abandons them at its end."""

    def __init__(self) -> None:
        self.by_name: dict[str, Job] = {}

    def abandon(self) -> None:
        """Abandon all jobs."""
        for job in self.by_name.values():
            job.abandon()
        self.by_name.clear()


def serve_until(*signals: Any) -> None:
    """Process the window's events until one of the signals is emitted."""
    loop = QEventLoop()
    for signal in signals:
        signal.connect(loop.quit)
    loop.exec()


def start_job(
    function: Callable[..., Any],
    *args: Any,
    connect: dict[str, Callable[..., Any]],
    **kwargs: Any,
) -> Job:
    """Start a `Job` and register it with the window, which confirms before closing on one.

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
    job: Job = create_worker(
        function, *args, _worker_class=Job, _ignore_errors=True, _start_thread=False, **kwargs
    )
    for signal, slot in ({"warned": _relay_warning} | connect).items():
        getattr(job, signal).connect(_while_listening(job, slot))
    job.start()
    return job


def postpone_garbage_collection(job: Job) -> None:
    """Exempt the objects of this moment from garbage collection until a job has ended.

    Collecting them takes 0.25 s in a process with napari and torch, and blocks the window.
    Objects that are made meanwhile are collected as usual.
    """
    gc.freeze()
    job.finished.connect(_unfreeze_later)


def _unfreeze_later() -> None:
    QTimer.singleShot(_UNFREEZE_DELAY, gc.unfreeze)


def _while_listening(job: Job, slot: Callable[..., Any]) -> Callable[..., None]:
    # a queued call would come even after its signal was disconnected
    reference = weakref.ref(job)

    def call(*args: Any) -> None:
        listener = reference()
        if listener is not None and listener.listening:
            slot(*args)

    return call


def _relay_warning(arguments: tuple[Any, ...]) -> None:
    notification_manager.receive_warning(*arguments)
