"""The panel "Fine-tune"."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QProgressBar, QWidget

from napari_busref._napari.finetune.loss_curve import LossCurve
from napari_busref._napari.finetune.preview import PreviewLayers
from napari_busref._napari.finetune.settings import TrainingSettings
from napari_busref._napari.finetune.source import TrainingSource
from napari_busref._napari.widgets.forms import (
    button,
    form,
    narrow,
    row,
    scrolled,
    tab_order,
    text,
)
from napari_busref._napari.widgets.words import error_text
from napari_busref._napari.widgets.worker import Stopper, serve_until, start_job
from napari_busref.models.user_folder import list_user_models
from napari_busref.models.user_models import remove_user_model
from napari_busref.training.finetuning.finetune import finetune, resume_finetuning
from napari_busref.training.finetuning.pairs import AlignedPair
from napari_busref.training.finetuning.plan import (
    discard_finetuning,
    logged_losses,
    read_plan,
    unfinished_finetunings,
)
from napari_busref.training.finetuning.recipes import HEADLINES
from napari_busref.training.finetuning.result import Finetuned, Preview, TrainingCallback

if TYPE_CHECKING:
    import napari

    from napari_busref.runtime.progress import Progress

__all__ = ["FineTune"]

_log = logging.getLogger(__name__)

_STEPS = 1000  # of the progress bar
_BETTER, _WORSE = "#3fa34d", "#e3a008"
_TICK = 200  # ms between two looks at the clock


class _Live(QObject):
    """Carries what happens in the worker over to the main thread."""

    logged = Signal(str, int, int, float)
    measured = Signal(object)


class _Relay(TrainingCallback):
    """Passes on what a training tells, until nobody listens any more."""

    def __init__(self, live: _Live) -> None:
        self._live = live

    def logged(self, kind: str, step: int, steps: int, loss: float) -> None:
        self._live.logged.emit(kind, step, steps, loss)

    def measured(self, preview: Preview) -> None:
        self._live.measured.emit(preview)


@dataclass(frozen=True)
class _Request:
    """What the worker is asked for: a new training, or to go on with the one in a folder."""

    watcher: TrainingCallback
    pairs: Sequence[AlignedPair] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def _work(request: _Request, *, progress: Progress, cancel: threading.Event) -> list[Finetuned]:
    common: dict[str, Any] = {
        "watcher": request.watcher,
        "progress": progress,
        "cancel": cancel,
        **request.settings,
    }
    if request.folder is not None:
        return resume_finetuning(request.folder, **common)
    return finetune(request.pairs, **common)


class FineTune(QWidget):
    """Go on with the training of the shipped models on aligned pairs of one's own.

    The work is done in another thread. What comes out is a model of the user, by the chosen name,
    which the other panels then offer. A training that is stopped, by the button, by closing the
    panel or napari, or by an error, keeps a checkpoint and can be resumed.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    source : TrainingSource
        Which pairs are trained on.
    choices : TrainingSettings
        What is trained, and how long.
    unfinished : magicgui.widgets.ComboBox
        Folders of trainings that were stopped; read and set ``value``.
    models : magicgui.widgets.ComboBox
        Names of the user's models.
    curve : LossCurve
    results : list of Finetuned
        Of the last training; empty while one is running and when it failed or was stopped.
    idle : Signal
        Emitted at the end of every training, however it ended.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Fine-tune"
    ... )  # doctest: +SKIP
    >>> panel.source.fixed_folder.setText("pairs/visible")  # doctest: +SKIP
    >>> panel.source.moving_folder.setText("pairs/infrared")  # doctest: +SKIP
    >>> panel.choices.name.setText("our camera")  # doctest: +SKIP
    >>> panel.train()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    idle = Signal()

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self.results: list[Finetuned] = []
        self._kind = ""  # that is trained now
        self._running_folder: Path | None = None
        self._started = 0.0
        self._report = ("", 0.0)
        self._preview = PreviewLayers(napari_viewer.layers)
        self._stopper = Stopper()
        self._live: _Live | None = None
        self.source = TrainingSource(napari_viewer)
        self.choices = TrainingSettings()
        self._make_controls()
        self._lay_out()
        self._clock = QTimer(self)
        self._clock.setInterval(_TICK)
        self._clock.timeout.connect(self._show_stage)
        self.destroyed.connect(self._stopper.let_go)
        self.reset_choices()
        self._refresh()

    # -- for scripts ----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a training is going on."""
        return self._stopper.job is not None

    def train(self) -> bool:
        """Start a training with what is chosen, as the button does.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        try:
            settings = self.choices.settings()
            pairs, settings["source"] = self.source.pairs()
        except (ValueError, TypeError, OSError) as error:
            self._fail(error)
            return False
        return self._begin(settings["output"], pairs=pairs, settings=settings)

    def resume(self, *, finish: bool = False) -> bool:
        """Go on with the chosen unfinished training; or finish it with what was learned so far.

        Returns
        -------
        bool
            False when there is none; a notification says so.
        """
        folder = self.unfinished.value
        if folder is None:
            self._fail(ValueError("there is no training that was stopped"))
            return False
        limits = self.choices.limits()
        if finish:
            del limits["max_minutes"]
        return self._begin(folder, folder=folder, settings={"finish": finish, **limits})

    def stop(self) -> None:
        """Stop the training with a checkpoint, within a step of it."""
        if self._stopper.job is not None:
            self._stopper.job.quit()
            self.button.setText("Stopping…")
            self.button.setEnabled(False)

    def wait(self) -> None:
        """Serve the window until the training has ended."""
        if self.running:
            serve_until(self.idle, self.destroyed)

    def discard(self) -> None:
        """Delete the chosen unfinished training."""
        folder = self.unfinished.value
        if folder is not None and not self.running:
            try:
                discard_finetuning(folder)
            except (ValueError, OSError) as error:
                self._fail(error)
            self._refresh()

    def remove_model(self) -> None:
        """Delete the chosen one of the user's models."""
        name = self.models.value
        if name is None:
            return
        try:
            remove_user_model(name)
        except (ValueError, OSError) as error:
            self._fail(error)
        self._models_changed()

    def reset_choices(self, event: Any = None) -> None:
        """Offer the layers and models that there are now; napari calls this."""
        self.source.reset_choices()

    def _unfinished_choices(self, _: Any = None) -> list[tuple[str, Path]]:
        folders = unfinished_finetunings()
        own = self.choices.folder.text().strip()
        if own:
            folders = [*unfinished_finetunings(own), *folders]
        return [(read_plan(folder).name, folder) for folder in dict.fromkeys(folders)]

    # -- training (all of this in the main thread) -----------------------------------------------

    def _begin(self, output: Path, **request: Any) -> bool:
        if self.running:
            show_error("Fine-tune: a training is going on; stop it or wait for its end")
            return False
        live = _Live()
        live.logged.connect(self._on_logged)
        live.measured.connect(self._on_measured)
        self._live = live
        self.results, self._kind, self._running_folder = [], "", output
        self._show_result("", None)
        self._preview.begin()
        self._started = perf_counter()
        self._report = ("starting", 0.0)
        self._show_stage()
        self._clock.start()
        self.button.setText("&Stop")
        self.button.setToolTip("Stop with a checkpoint; the training can be resumed")
        self.bar.show()
        self._stopper.job = start_job(
            _work,
            _Request(_Relay(live), **request),
            connect={
                "yielded": self._on_progress,
                "returned": self._on_result,
                "errored": self._on_error,
                "aborted": self._on_stopped,
                "finished": self._on_finished,
            },
        )
        self._enable()
        return True

    def _button_clicked(self) -> None:
        if self.running:
            self.stop()
        else:
            self.train()

    def _on_progress(self, report: tuple[str, float]) -> None:
        self._report = report
        self._show_stage()

    def _on_logged(self, kind: str, step: int, steps: int, loss: float) -> None:
        if self.running:
            self._show_kind(kind, step, steps)
            self.curve.add_loss(step, loss)

    def _on_measured(self, preview: Preview) -> None:
        if not self.running:
            return
        try:
            self._show_kind(preview.kind, preview.step, preview.steps)
            self.curve.add_score(preview.step, preview.scores[HEADLINES[preview.kind][0]])
            if self.choices.preview.isChecked():
                self._preview.show(preview)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self.choices.preview.setChecked(False)
            self._fail(error)

    def _show_kind(self, kind: str, step: int, steps: int) -> None:
        """Begin a new plot when this is the first that is heard of a kind."""
        if kind != self._kind and self._running_folder is not None:
            self._kind = kind
            _, name, unit, _ = HEADLINES[kind]
            done = [one for one in logged_losses(self._running_folder, kind) if one[0] < step]
            self.curve.begin(steps, f"{name} {unit}".strip(), done)
            self.curve.show()

    def _on_result(self, results: list[Finetuned]) -> None:
        self.results = results
        lines = []
        for one in results:
            key, score, unit, _ = HEADLINES[one.kind]
            before, after = (f"{scores[key]:.3g}" for scores in (one.before, one.after))
            sign = "✓" if one.better else "⚠"
            lines.append(
                f"{sign} {one.name} ({one.kind}): {score} on held-out pairs {before} → {after} "
                f"{unit}".strip()
            )
        worse = [one.name for one in results if not one.better]
        if worse:
            lines.append(
                "It is no better on pairs that it was not trained on: try more pairs, more steps "
                "or a smaller learning rate"
            )
            show_warning(f"Fine-tune: {' and '.join(worse)} did not become better")
        self._show_result("\n".join(lines), _WORSE if worse else _BETTER)
        self.stage.setText(f"done in {perf_counter() - self._started:.0f}\N{NO-BREAK SPACE}s")
        self._models_changed()
        names = " and ".join(repr(one.name) for one in results)
        show_info(f"Fine-tune: the panels now offer {names}")

    def _on_stopped(self) -> None:
        self.stage.setText("stopped; a checkpoint was kept, if training had begun")

    def _on_error(self, error: Exception) -> None:
        self._fail(error)

    def _on_finished(self) -> None:
        self._stopper.let_go()
        self._live = None
        self._clock.stop()
        self._refresh()
        self.idle.emit()

    def _models_changed(self) -> None:
        """Let every open panel offer the models that there are now."""
        self._refresh()
        for widget in self._viewer.window.dock_widgets.values():
            reset = getattr(widget, "reset_choices", None)
            if reset is not None and widget is not self:
                reset()

    # -- showing --------------------------------------------------------------------------------

    def _refresh(self) -> None:
        self.choices.reset_choices()
        for chooser in (self.unfinished, self.models):
            chooser.reset_choices()
        self.unfinished_row.setVisible(bool(self.unfinished.choices) and not self.running)
        self.models_row.setVisible(bool(self.models.choices))
        if not self.running:
            self.bar.hide()
            self.button.setText("&Train")
            self.button.setToolTip("Start; the viewer can be used meanwhile")
        self._enable()

    def _enable(self) -> None:
        self.button.setEnabled(True)
        for part in (self.source, self.choices, self.models_row):
            part.setEnabled(not self.running)

    def _show_stage(self) -> None:
        stage, fraction = self._report
        seconds = perf_counter() - self._started
        self.bar.setValue(round(_STEPS * fraction))
        self.stage.setText(f"{stage} · {100 * fraction:.0f} % · {seconds:.0f}\N{NO-BREAK SPACE}s")

    def _show_result(self, text: str, colour: str | None) -> None:
        self.outcome.setText(text)
        self.outcome.setVisible(bool(text))
        edge = f"QLabel {{ border-left: 4px solid {colour}; padding-left: 6px; }}"
        self.outcome.setStyleSheet(edge if colour else "")

    def _fail(self, error: Exception) -> None:
        text = error_text(error)
        _log.debug("training failed", exc_info=error)
        self.stage.setText(text)
        show_error(f"Fine-tune: {text}")

    # -- controls -------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.button = button("run", "", self._button_clicked)
        self.bar = QProgressBar()
        self.bar.setRange(0, _STEPS)
        self.bar.setTextVisible(False)
        self.bar.setToolTip("How much of the training is done")
        self.stage, self.outcome = text("stage"), text("outcome")
        self.curve = LossCurve()
        self.curve.setToolTip(
            "Blue: the training loss and its running mean.\n"
            "Amber: the score on the held-out pairs; an error should fall, Q_AB/F should rise"
        )
        self.curve.hide()
        self.unfinished = ComboBox(
            name="unfinished",
            choices=self._unfinished_choices,
            nullable=False,
            tooltip="Trainings that were stopped; they need their images no more",
        )
        self.models = ComboBox(
            name="models",
            choices=lambda _: list_user_models(),
            tooltip="Your models, which the panels offer beside the shipped ones",
        )
        for chooser in (self.unfinished, self.models):
            narrow(chooser)
        self.choices.folder.editingFinished.connect(self._refresh)
        self.source.failed.connect(self._fail)

    def _lay_out(self) -> None:
        self.resume_button = button("Res&ume", "Go on with it", lambda: self.resume())
        self.finish_button = button(
            "Use so far",
            "Train no further: make a model of what was learned so far",
            lambda: self.resume(finish=True),
        )
        self.discard_button = button("Discard", "Delete this training", self.discard)
        self.unfinished_row = form(
            ("Stopped", self.unfinished.native),
            ("", row(self.resume_button, self.finish_button, self.discard_button)),
        )
        self.remove_model_button = button(
            "Remove", "Delete this model of yours", self.remove_model
        )
        self.models_row = form(("My models", row(self.models.native, self.remove_model_button)))
        scrolled(
            self,
            self.source,
            self.choices,
            self.button,
            self.bar,
            self.stage,
            self.curve,
            self.outcome,
            self.unfinished_row,
            self.models_row,
        )
        tab_order(
            *self.source.tab_order(),
            *self.choices.tab_order(),
            self.button,
            self.unfinished.native,
            self.resume_button,
            self.finish_button,
            self.discard_button,
            self.models.native,
            self.remove_model_button,
        )
