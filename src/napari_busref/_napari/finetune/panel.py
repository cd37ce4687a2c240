"""The panel "Fine-tune"."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_busref._napari.finetune.loss_curve import LossCurve
from napari_busref._napari.finetune.preview import PreviewLayers
from napari_busref._napari.finetune.settings import TrainingSettings
from napari_busref._napari.finetune.source import TrainingSource
from napari_busref._napari.widgets.forms import (
    DOUBTFUL,
    GOOD,
    Message,
    button,
    chooser,
    form,
    row,
    scrolled,
    tab_order,
)
from napari_busref._napari.widgets.job_panel import RunPanel
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


class _CallbackSignals(QObject):
    """Delivers what a training reports to the main thread."""

    logged = Signal(str, int, int, float)
    measured = Signal(object)


class _SignalCallback(TrainingCallback):
    """Emits signals in place of a training's callbacks, as long as they exist."""

    def __init__(self, signals: _CallbackSignals) -> None:
        self._signals = signals

    def logged(self, kind: str, step: int, steps: int, loss: float) -> None:
        self._signals.logged.emit(kind, step, steps, loss)

    def measured(self, preview: Preview) -> None:
        self._signals.measured.emit(preview)


@dataclass(frozen=True)
class _FineTuneRequest:
    """What to train: pairs, or the unfinished training in a folder."""

    callback: TrainingCallback
    pairs: Sequence[AlignedPair] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def _train(
    request: _FineTuneRequest, *, progress: Progress, cancel: threading.Event
) -> list[Finetuned]:
    common: dict[str, Any] = {
        "callback": request.callback,
        "progress": progress,
        "cancel": cancel,
        **request.settings,
    }
    if request.folder is not None:
        return resume_finetuning(request.folder, **common)
    return finetune(request.pairs, **common)


class FineTune(RunPanel):
    """Continue the training of shipped models on the user's aligned pairs.

    The training runs in another thread. It makes a user model of the chosen name, which the other
    panels then offer. A training that is stopped by the button, by closing the panel or napari,
    or by an error, keeps a checkpoint and can be resumed.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    source : TrainingSource
        The pairs to train on.
    choices : TrainingSettings
        What to train, and how long.
    unfinished : magicgui.widgets.ComboBox
        Folders of stopped trainings; read and set ``value``.
    models : magicgui.widgets.ComboBox
        Names of the user's models.
    curve : LossCurve
    results : list of Finetuned
        Of the last training; empty while one runs, and after one that failed or was stopped.
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
    >>> panel.run()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    TITLE = "Fine-tune"
    TAB = "Train"
    RUN = "&Train"
    CANCEL = ("&Stop", "Stop with a checkpoint; the training can be resumed")
    ABANDONS = False  # it writes a checkpoint first

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self.results: list[Finetuned] = []
        self._kind = ""  # of the model that is being trained
        self._folder: Path | None = None  # of the running training
        self._signals: _CallbackSignals | None = None
        self._preview = PreviewLayers(napari_viewer.layers)
        self.source = TrainingSource(napari_viewer)
        self.choices = TrainingSettings()
        self._make_controls()
        self._lay_out()
        self.reset_choices()
        self._refresh()

    # -- for scripts ----------------------------------------------------------------------------

    def resume(self, *, finish: bool = False) -> bool:
        """Resume the chosen unfinished training, or make a model of it as it is.

        Returns
        -------
        bool
            False when there is none; a notification says why.
        """
        return self._attempt(self._begin_again, finish)

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
        """Delete the chosen user model."""
        name = self.models.value
        if name is None:
            return
        try:
            remove_user_model(name)
        except (ValueError, OSError) as error:
            self._fail(error)
        self._models_changed()

    def reset_choices(self, event: Any = None) -> None:
        """Offer the current layers; napari calls this when layers change."""
        self.source.reset_choices()

    def _unfinished_choices(self, _: Any = None) -> list[tuple[str, Path]]:
        folders = unfinished_finetunings()
        own = self.choices.folder.text().strip()
        if own:
            folders = [*unfinished_finetunings(own), *folders]
        return [(read_plan(folder).name, folder) for folder in dict.fromkeys(folders)]

    # -- training (all of this in the main thread) -----------------------------------------------

    def _begin(self) -> None:
        settings = self.choices.settings()
        pairs, settings["source"] = self.source.pairs()
        self._start_training(settings["output"], pairs=pairs, settings=settings)

    def _begin_again(self, finish: bool) -> None:
        folder = self.unfinished.value
        if folder is None:
            raise ValueError("there is no training that was stopped")
        limits = self.choices.limits()
        if finish:
            del limits["max_minutes"]
        self._start_training(folder, folder=folder, settings={"finish": finish, **limits})

    def _start_training(self, output: Path, **options: Any) -> None:
        signals = _CallbackSignals()
        signals.logged.connect(self._on_logged)
        signals.measured.connect(self._on_measured)
        self._signals = signals
        self.results, self._kind, self._folder = [], "", output
        self.outcome.say("")
        self._preview.begin()
        request = _FineTuneRequest(_SignalCallback(signals), **options)
        self._start(_train, request, returned=self._show_results)

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
        except Exception as error:  # an exception would be lost in a slot
            self.choices.preview.setChecked(False)
            self._fail(error)

    def _show_kind(self, kind: str, step: int, steps: int) -> None:
        """Start a new plot at the first report on a kind of model."""
        if kind != self._kind and self._folder is not None:
            self._kind = kind
            _, name, unit, _ = HEADLINES[kind]
            done = [one for one in logged_losses(self._folder, kind) if one[0] < step]
            self.curve.begin(steps, f"{name} {unit}".strip(), done)
            self.curve.show()

    def _show_results(self, results: list[Finetuned]) -> None:
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
                "No better on the held-out pairs: try more pairs, more steps or a smaller "
                "learning rate"
            )
            show_warning(f"Fine-tune: {' and '.join(worse)} did not improve")
        self.outcome.say("\n".join(lines), DOUBTFUL if worse else GOOD)
        self.stage.say(f"done in {perf_counter() - self._started:.0f} s")
        self._models_changed()
        names = " and ".join(repr(one.name) for one in results)
        show_info(f"Fine-tune: the panels now offer {names}")

    def _on_cancelled(self) -> None:
        self.stage.say("stopped; a checkpoint was kept, if training had begun")

    def _end(self, name: str = "run") -> None:
        super()._end(name)
        self._signals = None
        self._refresh()

    def _models_changed(self) -> None:
        """Update the models that every open panel offers."""
        self._refresh()
        for widget in self._viewer.window.dock_widgets.values():
            reset = getattr(widget, "reset_choices", None)
            if reset is not None and widget is not self:
                reset()

    # -- showing --------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Offer the current models and unfinished trainings."""
        self.choices.reset_choices()
        for one in (self.unfinished, self.models):
            one.reset_choices()
        self._show_state()

    def _show_state(self) -> None:
        super()._show_state()
        self.unfinished_row.setVisible(bool(self.unfinished.choices) and not self.running)
        self.models_row.setVisible(bool(self.models.choices))
        for part in (self.source, self.choices, self.models_row):
            part.setEnabled(not self.running)

    # -- controls -------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.outcome = Message("outcome")
        self.curve = LossCurve()
        self.curve.setToolTip(
            "Blue: the training loss and its running mean.\n"
            "Amber: the score on the held-out pairs; an error should fall, Q_AB/F should rise"
        )
        self.curve.hide()
        self.unfinished = chooser(
            "unfinished",
            "Stopped trainings; they no longer need their images",
            self._unfinished_choices,
            nullable=False,
        )
        self.models = chooser(
            "models",
            "Your models, which the panels offer beside the shipped ones",
            lambda _: list_user_models(),
        )
        self.choices.folder.editingFinished.connect(self._refresh)
        self.source.failed.connect(self._fail)

    def _lay_out(self) -> None:
        self.resume_button = button("Res&ume", "Continue the training", self.resume)
        self.finish_button = button(
            "Use so far",
            "Stop training: make a model of the checkpoint",
            lambda: self.resume(finish=True),
        )
        self.discard_button = button("Discard", "Delete this training", self.discard)
        self.unfinished_row = form(
            ("Stopped", self.unfinished.native),
            ("", row(self.resume_button, self.finish_button, self.discard_button)),
        )
        self.remove_model_button = button("Remove", "Delete this model", self.remove_model)
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
