"""What all panels share: jobs in other threads, progress, failure, Cancel and Undo."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QProgressBar, QSizePolicy, QWidget

from napari_busref._napari.layers.undo import History, Undo
from napari_busref._napari.widgets.activity import Activity
from napari_busref._napari.widgets.docks import DockedPanel
from napari_busref._napari.widgets.forms import Message, button
from napari_busref._napari.widgets.words import error_text
from napari_busref._napari.widgets.worker import Job, RunningJobs, serve_until, start_job
from napari_busref.runtime.durations import DURATIONS
from napari_busref.runtime.pace import time_left

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["JobPanel", "RunPanel"]

_log = logging.getLogger(__name__)

_BAR_STEPS = 100  # each draws the whole window, which is slow without a GPU
_TICK = 250  # ms between updates of the progress
_GRACE = 400  # ms that a cancelled job has to end before it is abandoned


class JobPanel(DockedPanel):
    """A panel whose work runs in other threads.

    A subclass lays out `stage`, `bar`, `undo_button` and `redo_button`, starts work with
    `_start`, adds layers within `_undoable`, and extends `_show_state`.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    idle : Signal
        Emitted at the end of every job, however it ended, once nothing else runs.
    """

    idle = Signal()

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self._jobs = RunningJobs()
        self._history = History()
        self._before_run: Any = None  # what `_memento` returned
        self._started = 0.0  # perf_counter
        self._shown_job: Job | None = None  # the job whose progress is shown
        self._activity = Activity(self.TITLE, self)
        self.stage = Message("stage")
        self.bar = QProgressBar()
        self.bar.setRange(0, _BAR_STEPS)
        self.bar.setTextVisible(False)
        self.bar.setToolTip("Progress of the run")
        self.bar.hide()
        self.undo_button = button(
            "&Undo",
            "Undo the last run: remove the layers that it added, restore those that it changed.\n"
            "Again: undo the one before it",
            self.undo,
        )
        self.redo_button = button("Red&o", "Redo the run that was undone last", self.redo)
        self._clock = QTimer(self)
        self._clock.setInterval(_TICK)
        self._clock.timeout.connect(self._show_activity)
        self.destroyed.connect(self._jobs.abandon)
        self.destroyed.connect(self._activity.close)

    # -- for scripts ----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a job runs."""
        return bool(self._jobs.by_name)

    def wait(self) -> None:
        """Process the window's events until nothing runs."""
        if self._busy:
            serve_until(self.idle, self.destroyed)

    def undo(self) -> bool:
        """Undo the last run; return False when there was nothing to undo or it failed."""
        return self._travel(self._history.undo, 0, "undone: the layers are as they were before")

    def redo(self) -> bool:
        """Redo the run that was undone last; return False as `undo` does."""
        return self._travel(self._history.redo, 1, "redone")

    def _travel(self, step: Callable[..., Any], direction: int, said: str) -> bool:
        if self.running or not self._history.counts[direction]:
            return False
        try:
            note = step(self._viewer.layers, self._memento())
        except Exception as error:  # an exception would be lost in a slot
            self._fail(error)
            return False
        finally:
            self._show_state()
        self.stage.say(said)
        self._recall(note)
        return True

    def reword(self) -> None:
        """Use the words of another trade; the switch of the trade calls this."""
        self.reset_choices()
        self._show_state()

    def reset_choices(self, event: Any = None) -> None:
        """Offer the current layers; napari calls this when layers change."""

    # -- for subclasses -------------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        """Whether `idle` is still to come."""
        return self.running

    def _attempt(self, begin: Callable[..., None], *args: Any) -> bool:
        """Call a function that starts a job; return False and notify the user if it cannot."""
        if self.running:
            show_error(f"{self.TITLE}: a run is going on; wait for its end or cancel it")
            return False
        self._before_run = self._memento()
        try:
            begin(*args)
        except (ValueError, TypeError, OSError) as error:
            self._fail(error)
            return False
        return True

    def _start(
        self,
        function: Callable[..., Any],
        *args: Any,
        returned: Callable[[Any], None],
        name: str = "run",
        quiet: bool = False,
    ) -> Job:
        """Start a job.

        Parameters
        ----------
        function : callable
            As for `Job`.
        *args
            Passed on to `function`.
        returned : callable
            Receives the result in the main thread; what it raises is reported as a failure.
        name : str
            Key of the job.
        quiet : bool
            Whether to show no progress.
        """
        slots: dict[str, Callable[..., Any]] = {
            "returned": partial(self._conclude, returned),
            "errored": partial(self._conclude, self._fail),
            "aborted": partial(self._conclude, self._on_cancelled),
            "finished": partial(self._on_finished, name),
        }
        if not quiet:
            slots["yielded"] = self._show_progress
            self._started = perf_counter()
            self.bar.setValue(0)
            self.bar.show()
            DURATIONS.read()
        job = start_job(function, *args, connect=slots)
        self._jobs.by_name[name] = job
        if not quiet:
            self._shown_job = job
            self._show_progress()
            self._clock.start()
        self._show_state()
        return job

    @contextmanager
    def _undoable(self, touched: Sequence[Layer] = ()) -> Iterator[None]:
        """Make the changes of the layers within the context undoable, unless it raises."""
        undo = Undo(self._viewer.layers, touched=touched)
        yield
        undo.done(self._viewer.layers)
        self._history.add(undo, self._before_run)
        self._show_state()

    def _memento(self) -> Any:
        """What the panel says now of the layers, for `_recall` after Undo or Redo."""

    def _recall(self, memento: Any) -> None:
        """Say again what `_memento` returned; None before the first run."""

    def _show_state(self) -> None:
        """Enable the controls that apply now; called whenever a job starts or ends."""
        for one, count in zip(
            (self.undo_button, self.redo_button), self._history.counts, strict=True
        ):
            one.setEnabled(count > 0 and not self.running)

    def _fail(self, error: BaseException) -> None:
        """Report an error in the panel and as a notification."""
        text = error_text(error)
        _log.debug("%s failed", self.TITLE, exc_info=error)
        self._show_failure(text)
        show_error(f"{self.TITLE}: {text}")

    def _show_failure(self, text: str) -> None:
        self.stage.say(text)

    def _on_cancelled(self) -> None:
        self.stage.say("cancelled; no layer was changed")

    def _on_finished(self, name: str) -> None:
        self._end(name)
        self._emit_idle()

    def _emit_idle(self) -> None:
        if not self._busy:
            self.idle.emit()

    def _end(self, name: str = "run") -> None:
        """Part with a job, whether it has ended or not."""
        job = self._jobs.by_name.pop(name, None)
        if job is not None:
            job.abandon()
        self._clock.stop()
        if job is not None and job is self._shown_job:
            self._shown_job = None
            self._activity.close()
            DURATIONS.write()
        self.bar.hide()  # a full bar looks like a second button
        self._show_state()

    # -- inside ---------------------------------------------------------------------------------

    def _conclude(self, slot: Callable[..., None], *result: Any) -> None:
        self._clock.stop()  # it would overwrite the slot's message
        try:
            slot(*result)
        except Exception as error:  # an exception would be lost in a slot
            self._fail(error)

    def _show_progress(self, _: Any = None) -> tuple[str, float, str] | None:
        if self._shown_job is None:
            return None
        stage, fraction, left = self._shown_job.pace.now()
        seconds = perf_counter() - self._started
        words, time = stage or "getting ready", time_left(left)
        self.bar.setValue(round(_BAR_STEPS * fraction))
        self.stage.say(f"{words} · {100 * fraction:.0f} % · {time or f'{seconds:.0f} s'}")
        return words, fraction, time

    def _show_activity(self) -> None:
        progress = self._show_progress()
        if progress is not None:
            self._activity.show(*progress)
        if self._shown_job is None:  # the run ended while napari drew its entry
            self._activity.close()


class RunPanel(JobPanel):
    """A panel with one button that starts a run, and cancels it while it goes on.

    A subclass implements `_begin`, and sets the words of the button.

    Attributes
    ----------
    button : QPushButton
        Starts or cancels.
    """

    #: Text of the button while nothing runs.
    RUN = "&Run"
    #: Its tooltip then.
    RUN_TOOLTIP = "Start; the viewer can be used meanwhile"
    #: Text and tooltip while something runs.
    CANCEL = ("&Cancel", "Stop the run")
    #: Whether a cancelled run that does not end within 400 ms is abandoned.
    ABANDONS = True

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self.button = button(self.RUN, self.RUN_TOOLTIP, self._button_clicked, name="run")
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._grace = QTimer(self)
        self._grace.setInterval(_GRACE)
        self._grace.setSingleShot(True)
        self._grace.timeout.connect(self._abandon)

    def run(self) -> bool:
        """Start a run with the current choices, as the button does.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        return self._attempt(self._begin)

    def _begin(self) -> None:
        """Start a job; raise ValueError, TypeError or OSError if the choices do not allow it."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop the run and drop its result."""
        if self.running:
            for job in self._jobs.by_name.values():
                job.quit()
            if self.ABANDONS:
                self._grace.start()
            self._show_state()

    def _show_state(self) -> None:
        super()._show_state()
        if any(job.abort_requested for job in self._jobs.by_name.values()):
            self._show_button("Cancelling…", "", enabled=False)
        elif self.running:
            self._show_button(*self.CANCEL)
        else:
            self._show_button(self.RUN, self.RUN_TOOLTIP)

    def _show_button(self, text: str, tooltip: str, *, enabled: bool = True) -> None:
        self.button.setText(text)
        self.button.setToolTip(tooltip)
        self.button.setEnabled(enabled)

    def _end(self, name: str = "run") -> None:
        self._grace.stop()
        super()._end(name)

    def _abandon(self) -> None:
        """End a cancelled run for the user; its thread ends at its next check."""
        if self.running:
            self._on_cancelled()
            self._on_finished("run")

    def _button_clicked(self) -> None:
        if self.running:
            self.cancel()
        else:
            self.run()
