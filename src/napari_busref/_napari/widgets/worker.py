"""Running a long call in another thread: with progress, cancel and every error reported."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

from napari.qt.threading import GeneratorWorkerSignals, WorkerBase, create_worker
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QEventLoop, QTimer

from napari_busref.runtime.progress import Cancelled

__all__ = ["Job", "Stopper", "put_off_garbage", "serve_until", "start_job"]

_SETTLE = 1000  # ms after a job, in which its results get into the window


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
        Raises `Cancelled` soon after its ``cancel`` event is set, or returns what it has.
    *args, **kwargs
        Passed on.

    Attributes
    ----------
    listening : bool
        Whether what `start_job` connected is still called.
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
        self.listening = True

    def stop(self) -> None:
        """Ask the call to stop; if it then returns something, that counts."""
        self.cancel.set()

    def quit(self) -> None:
        """Ask the call to stop, for nothing; the window also calls this when it is closed."""
        super().quit()
        self.cancel.set()

    def let_go(self) -> None:
        """Quit, and call nobody any more: the thread ends when it comes to it."""
        self.listening = False
        self.quit()

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


class Stopper:
    """Lets the running job go; outlives the panel, whose end it reacts to."""

    job: Job | None = None

    def let_go(self) -> None:
        """Do without the job, if there is one."""
        if self.job is not None:
            self.job.let_go()
            self.job = None


def serve_until(*signals: Any) -> None:
    """Serve the window until one of the signals is emitted."""
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
    job: Job = create_worker(
        function, *args, _worker_class=Job, _ignore_errors=True, _start_thread=False, **kwargs
    )
    for signal, slot in ({"warned": _relay_warning} | connect).items():
        getattr(job, signal).connect(_while_listening(job, slot))
    job.start()
    return job


def put_off_garbage(job: Job) -> None:
    """Let Python search the objects that there are now for garbage only after a job.

    That takes a quarter of a second in a process with napari and torch, in which the window would
    stand still. What is made meanwhile is searched as ever.
    """
    gc.freeze()
    job.finished.connect(_search_again)


def _search_again() -> None:
    QTimer.singleShot(_SETTLE, gc.unfreeze)


def _while_listening(job: Job, slot: Callable[..., Any]) -> Callable[..., None]:
    # a queued call would come even after its signal was disconnected
    listener = weakref.ref(job)

    def call(*args: Any) -> None:
        there = listener()
        if there is not None and there.listening:
            slot(*args)

    return call


def _relay_warning(arguments: tuple[Any, ...]) -> None:
    notification_manager.receive_warning(*arguments)
