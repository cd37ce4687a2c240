"""The panel "Train on my data"."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEventLoop, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_busref._napari.layers import guess_pair
from napari_busref._napari.loss_curve import LossCurve
from napari_busref._napari.settings_group import narrow
from napari_busref._napari.training_pairs import layer_pairs
from napari_busref._napari.training_preview import PreviewLayers
from napari_busref._napari.words import error_text
from napari_busref._napari.worker import Job, start_job
from napari_busref.models.user_models import list_user_models, remove_user_model
from napari_busref.training.aligned import AlignedPair, pairs_in_folders
from napari_busref.training.finetuning import (
    HEADLINES,
    Finetuned,
    Preview,
    Watcher,
    base_models,
    discard_finetuning,
    finetune,
    logged_losses,
    read_plan,
    resume_finetuning,
    trainings_folder,
    unfinished_finetunings,
)

if TYPE_CHECKING:
    import napari

    from napari_busref.progress import Progress

__all__ = ["TrainOnMyData"]

_log = logging.getLogger(__name__)

_STEPS = 1000  # of the progress bar
_BETTER, _WORSE = "#3fa34d", "#e3a008"
_TICK = 200  # ms between two looks at the clock


class _Stopper:
    """Stops the running job; outlives the panel, whose end it reacts to."""

    job: Job | None = None

    def let_go(self) -> None:
        if self.job is not None:
            self.job.let_go()
            self.job = None


class _Live(QObject):
    """Carries what happens in the worker over to the main thread."""

    logged = Signal(str, int, int, float)
    measured = Signal(object)


class _Relay(Watcher):
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

    watcher: Watcher
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


class TrainOnMyData(QWidget):
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
    source : magicgui.widgets.ComboBox
        ``"folders"`` or ``"layers"``; read and set ``value``.
    fixed_folder, moving_folder, name, folder : QLineEdit
        Folders of visible and of infrared images, the name of the result, and the folder of the
        training (empty: one in the user's data folder).
    match : magicgui.widgets.ComboBox
        How files are paired, ``"name"`` or ``"order"``.
    fixed, moving : magicgui.widgets.ComboBox
        Layers of a pair.
    registration, fusion : magicgui.widgets.ComboBox
        The model that is gone on with, or None.
    steps : QSpinBox
    curve : LossCurve
    results : list of Finetuned
        Of the last training; empty while one is running and when it failed or was stopped.
    idle : Signal
        Emitted at the end of every training, however it ended.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Train on my data"
    ... )  # doctest: +SKIP
    >>> panel.fixed_folder.setText("pairs/visible")  # doctest: +SKIP
    >>> panel.moving_folder.setText("pairs/infrared")  # doctest: +SKIP
    >>> panel.name.setText("our camera")  # doctest: +SKIP
    >>> panel.train()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    idle = Signal()

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self.results: list[Finetuned] = []
        self._pairs: list[tuple[Image, Image]] = []  # fixed and moving, in the order of the list
        self._kind = ""  # that is trained now
        self._running_folder: Path | None = None
        self._started = 0.0
        self._report = ("", 0.0)
        self._preview = PreviewLayers(napari_viewer.layers)
        self._stopper = _Stopper()
        self._live: _Live | None = None
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
            models = [one.value for one in (self.registration, self.fusion) if one.value]
            if not models:
                raise ValueError("choose a model to go on with, for registration, fusion or both")
            name = self.name.text().strip()
            if not name:
                raise ValueError("give the result a name")
            pairs, source = self._chosen_pairs()
        except (ValueError, TypeError, OSError) as error:
            self._fail(error)
            return False
        folder = Path(self.folder.text().strip() or trainings_folder()) / name
        settings = {
            "models": models,
            "name": name,
            "output": folder,
            "source": source,
            "steps": self.steps.value(),
            "learning_rate": self.rate.value() or None,
            "batch": self.batch.value() or None,
            "held_out": self.held_out.value() or None,
            "preview_every": self.every.value(),
            **self._limits(),
        }
        return self._begin(folder, pairs=pairs, settings=settings)

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
        limits = {"device": self.device.value} if finish else self._limits()
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
            loop = QEventLoop()
            self.idle.connect(loop.quit)
            self.destroyed.connect(loop.quit)
            loop.exec()

    def add_pair(self) -> bool:
        """Put the two chosen layers on the list of pairs.

        Returns
        -------
        bool
            False when they are not aligned; a notification says so.
        """
        fixed, moving = self.fixed.value, self.moving.value
        try:
            if fixed is None or moving is None:
                raise ValueError("open two aligned image layers")
            count = len(layer_pairs(fixed, moving, self._viewer))
        except (ValueError, TypeError) as error:
            self._fail(error)
            return False
        if (fixed, moving) not in self._pairs:
            self._pairs.append((fixed, moving))
            more = f"  ({count} planes)" if count > 1 else ""
            self.pair_list.addItem(f"{fixed.name}  +  {moving.name}{more}")
        return True

    def remove_pair(self) -> None:
        """Take the selected pairs, or the last one, off the list."""
        rows = {self.pair_list.row(item) for item in self.pair_list.selectedItems()}
        for row in sorted(rows or {len(self._pairs) - 1}, reverse=True):
            if 0 <= row < len(self._pairs):
                self.pair_list.takeItem(row)
                del self._pairs[row]

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
        before = self.moving.value, self.fixed.value
        for chooser in (self.moving, self.fixed):
            chooser.reset_choices()
        offered = self.fixed.choices
        if None in before or before[0] == before[1] or any(one not in offered for one in before):
            before = guess_pair(self._viewer.layers)
        for chooser, layer in zip((self.moving, self.fixed), before, strict=True):
            if layer is not None:
                chooser.value = layer
        for row in reversed(range(len(self._pairs))):
            if any(layer not in self._viewer.layers for layer in self._pairs[row]):
                self.pair_list.takeItem(row)
                del self._pairs[row]

    # -- choosing -------------------------------------------------------------------------------

    def _chosen_pairs(self) -> tuple[list[AlignedPair], str]:
        """The pairs, and where they come from in words."""
        if self.source.value == "folders":
            fixed, moving = self.fixed_folder.text().strip(), self.moving_folder.text().strip()
            pairs = pairs_in_folders(fixed, moving, self.match.value)
            return pairs, f"{Path(fixed).absolute()} and {Path(moving).absolute()}"
        chosen = self._pairs
        if not chosen:
            if self.fixed.value is None or self.moving.value is None:
                raise ValueError("open aligned image layers, or choose folders of pairs")
            chosen = [(self.fixed.value, self.moving.value)]
        found = [
            pair for fixed, moving in chosen for pair in layer_pairs(fixed, moving, self._viewer)
        ]
        return found, "layers " + ", ".join(f"{one.name} and {two.name}" for one, two in chosen)

    def _limits(self) -> dict[str, Any]:
        return {"max_minutes": self.minutes.value() or None, "device": self.device.value}

    def _image_layers(self, _: Any = None) -> list[Image]:
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image)
            and not str(layer.metadata.get("napari-busref", {}).get("role")).startswith("preview")
        ]

    def _unfinished_choices(self, _: Any = None) -> list[tuple[str, Path]]:
        folders = unfinished_finetunings()
        own = self.folder.text().strip()
        if own:
            folders = [*unfinished_finetunings(own), *folders]
        return [(read_plan(folder).name, folder) for folder in dict.fromkeys(folders)]

    # -- training (all of this in the main thread) -----------------------------------------------

    def _begin(self, output: Path, **request: Any) -> bool:
        if self.running:
            show_error("Train on my data: a training is going on; stop it or wait for its end")
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
            self._show_kind(kind, steps)
            self.curve.add_loss(step, loss)

    def _on_measured(self, preview: Preview) -> None:
        if not self.running:
            return
        try:
            self._show_kind(preview.kind, preview.steps)
            self.curve.add_score(preview.step, preview.scores[HEADLINES[preview.kind][0]])
            if self.preview.isChecked():
                self._preview.show(preview)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self.preview.setChecked(False)
            self._fail(error)

    def _show_kind(self, kind: str, steps: int) -> None:
        if kind != self._kind and self._running_folder is not None:
            self._kind = kind
            _, name, unit, _ = HEADLINES[kind]
            done = logged_losses(self._running_folder, kind)
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
            show_warning(f"Train on my data: {' and '.join(worse)} did not become better")
        self._show_result("\n".join(lines), _WORSE if worse else _BETTER)
        self.stage.setText(f"done in {perf_counter() - self._started:.0f} s")
        self._models_changed()
        names = " and ".join(repr(one.name) for one in results)
        show_info(f"Train on my data: the panels now offer {names}")

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
        for chooser in (self.registration, self.fusion, self.unfinished, self.models):
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
        self.choices.setEnabled(not self.running)
        self.unfinished_row.setEnabled(not self.running)
        self.models_row.setEnabled(not self.running)

    def _show_stage(self) -> None:
        stage, fraction = self._report
        seconds = perf_counter() - self._started
        self.bar.setValue(round(_STEPS * fraction))
        self.stage.setText(f"{stage} · {100 * fraction:.0f} % · {seconds:.0f} s")

    def _show_result(self, text: str, colour: str | None) -> None:
        self.outcome.setText(text)
        self.outcome.setVisible(bool(text))
        edge = f"QLabel {{ border-left: 4px solid {colour}; padding-left: 6px; }}"
        self.outcome.setStyleSheet(edge if colour else "")

    def _show_source(self, _: Any = None) -> None:
        self.pages.setCurrentIndex(("folders", "layers").index(self.source.value))

    def _fail(self, error: Exception) -> None:
        text = error_text(error)
        _log.debug("training failed", exc_info=error)
        self.stage.setText(text)
        show_error(f"Train on my data: {text}")

    # -- controls -------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.source = ComboBox(
            name="source",
            choices=[("files of two folders", "folders"), ("layers of this viewer", "layers")],
            tooltip="Where the aligned pairs are: pixel on pixel, of one size",
        )
        self.fixed_folder, self.moving_folder = (
            _line(f"{word} folder", f"Folder of the {word} images (TIFF, PNG, JPEG, NPY)")
            for word in ("visible", "infrared")
        )
        self.match = ComboBox(
            name="match",
            choices=[("same name", "name"), ("order of the names", "order")],
            tooltip="Which files belong together: those of the same name but for the extension,\n"
            "or the first of both folders, the second and so on",
        )
        self.fixed, self.moving = (
            ComboBox(name=f"{word} layer", choices=self._image_layers, tooltip=tip)
            for word, tip in (
                ("visible", "A visible layer. Of a stack every plane is a pair"),
                (
                    "infrared",
                    "An infrared layer that lies on the visible one, pixel on pixel,\n"
                    "such as the warped layer of Register and fuse",
                ),
            )
        )
        self.pair_list = QListWidget()
        self.pair_list.setMaximumHeight(80)
        self.pair_list.setToolTip(
            "The pairs to train on. While it is empty, the two layers chosen above are the pair"
        )
        self.name = _line("name", "By which the other panels will offer the result")
        self.name.setText("my model")
        self.registration, self.fusion = (
            ComboBox(
                name=kind,
                choices=partial(_base_choices, kind),
                nullable=True,
                tooltip=f"The model for {kind} to go on with; ----- trains none",
            )
            for kind in ("registration", "fusion")
        )
        self.registration.value = next(iter(base_models("registration")), None)
        self.steps = _whole(1, 100000, 300, "Steps of training for each model")
        self.rate = QDoubleSpinBox()
        self.rate.setDecimals(6)
        self.rate.setRange(0, 0.1)
        self.rate.setSingleStep(0.00005)
        self.rate.setSpecialValueText("automatic")
        self.rate.setToolTip(
            "How far a step goes. automatic: 0.0001 for registration, 0.0002 for fusion.\n"
            "Smaller, when the held-out pairs get worse"
        )
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(0, 100000)
        self.minutes.setDecimals(1)
        self.minutes.setSpecialValueText("no limit")
        self.minutes.setToolTip("After this many minutes, take what was learned so far")
        self.batch = _whole(0, 256, 0, "Pieces of pairs that each step looks at", "automatic")
        self.held_out = _whole(
            0,
            10000,
            0,
            "The last pairs are kept back, to see how it does on what it was not trained on.\n"
            "automatic: a fifth, at most 4; of a single pair its last quarter",
            "automatic",
        )
        self.every = _whole(1, 100000, 50, "Steps between two measurements on the held-out pairs")
        self.preview = QCheckBox("preview in the viewer")
        self.preview.setChecked(True)
        self.preview.setToolTip(
            "Show the first held-out pair: what the model made of it before and makes now"
        )
        self.device = ComboBox(
            name="device",
            choices=["auto", "cpu", "cuda", "mps"],
            tooltip="Where to train. auto takes a GPU if there is one",
        )
        self.folder = _line(
            "folder",
            f"Where checkpoints and logs are kept, in a folder of the name above.\n"
            f"Empty: {trainings_folder()}",
        )
        self.folder.setPlaceholderText("automatic")
        self.folder.editingFinished.connect(self._refresh)
        self.button = _button("run", "", self._button_clicked)
        self.bar = QProgressBar()
        self.bar.setRange(0, _STEPS)
        self.bar.setTextVisible(False)
        self.bar.setToolTip("How much of the training is done")
        self.stage, self.outcome = _text("stage"), _text("outcome")
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
        for chooser in (
            self.source,
            self.match,
            self.fixed,
            self.moving,
            self.registration,
            self.fusion,
            self.device,
            self.unfinished,
            self.models,
        ):
            narrow(chooser)
        self.source.changed.connect(self._show_source)

    def _lay_out(self) -> None:
        self.add_button = _button("&Add pair", "Put the two layers on the list", self.add_pair)
        self.remove_button = _button(
            "&Remove pair", "Take the selected pairs off the list", self.remove_pair
        )
        folders = _form(
            ("&Visible", _with_browser(self.fixed_folder)),
            ("&Infrared", _with_browser(self.moving_folder)),
            ("Pair by", self.match.native),
        )
        layers = _form(
            ("&Visible", self.fixed.native),
            ("&Infrared", self.moving.native),
            ("", _row(self.add_button, self.remove_button)),
            ("", self.pair_list),
        )
        self.pages = QStackedWidget()
        self.pages.addWidget(folders)
        self.pages.addWidget(layers)
        # signs in the text, because superqt's icons are black in a dark theme
        self.advanced = QCollapsible("", expandedIcon=QIcon(), collapsedIcon=QIcon())
        self.advanced.toggled.connect(
            lambda on: self.advanced.setText(f"{'▾' if on else '▸'}  Ad&vanced settings")
        )
        self.advanced.setDuration(150)
        self.advanced.toggleButton().setStyleSheet(
            "QPushButton, QPushButton:checked { text-align: left; border: none; padding: 4px 0;"
            " background: transparent; }"
            "QPushButton:focus { text-decoration: underline; }"
        )
        self.advanced.toggleButton().setToolTip("Learning rate, limits, held-out pairs, device")
        if (inner := self.advanced.layout()) is not None:
            inner.setContentsMargins(0, 0, 0, 0)
        rows = (
            ("Learning rate", self.rate),
            ("Minutes", self.minutes),
            ("Crops a step", self.batch),
            ("Held-out pairs", self.held_out),
            ("Measure every", self.every),
            ("Device", self.device.native),
            ("Folder", _with_browser(self.folder)),
        )
        self.advanced.addWidget(_form(*rows, ("", self.preview)))
        self.advanced.collapse(animate=False)
        self.choices = QWidget()
        layout = QVBoxLayout(self.choices)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(_form(("&Pairs", self.source.native)))
        layout.addWidget(self.pages)
        layout.addWidget(
            _form(
                ("Re&gistration", self.registration.native),
                ("&Fusion", self.fusion.native),
                ("St&eps", self.steps),
                ("&Name", self.name),
            )
        )
        layout.addWidget(self.advanced)
        self.resume_button = _button("Res&ume", "Go on with it", lambda: self.resume())
        self.finish_button = _button(
            "Use so far",
            "Train no further: make a model of what was learned so far",
            lambda: self.resume(finish=True),
        )
        self.discard_button = _button("Discard", "Delete this training", self.discard)
        self.unfinished_row = _form(
            ("Stopped", self.unfinished.native),
            ("", _row(self.resume_button, self.finish_button, self.discard_button)),
        )
        self.remove_model_button = _button(
            "Remove", "Delete this model of yours", self.remove_model
        )
        self.models_row = _form(("My models", _row(self.models.native, self.remove_model_button)))
        content = QWidget()
        whole = QVBoxLayout(content)
        for widget in (
            self.choices,
            self.button,
            self.bar,
            self.stage,
            self.curve,
            self.outcome,
            self.unfinished_row,
            self.models_row,
        ):
            whole.addWidget(widget)
        whole.addStretch()
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(content)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scroll)
        chain = [
            self.source.native,
            self.fixed_folder,
            self.moving_folder,
            self.match.native,
            self.fixed.native,
            self.moving.native,
            self.add_button,
            self.remove_button,
            self.pair_list,
            self.registration.native,
            self.fusion.native,
            self.steps,
            self.name,
            self.advanced.toggleButton(),
            *(widget for _, widget in rows[:-1]),
            self.folder,
            self.preview,
            self.button,
            self.unfinished.native,
            self.resume_button,
            self.finish_button,
            self.discard_button,
            self.models.native,
            self.remove_model_button,
        ]
        for first, second in pairwise(chain):
            QWidget.setTabOrder(first, second)


def _base_choices(kind: str, _: Any = None) -> list[str]:
    return base_models(kind)


def _line(name: str, tooltip: str) -> QLineEdit:
    line = QLineEdit()
    line.setObjectName(name)
    line.setAccessibleName(name)
    line.setToolTip(tooltip)
    return line


def _whole(low: int, high: int, value: int, tooltip: str, automatic: str = "") -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setValue(value)
    box.setSpecialValueText(automatic)
    box.setToolTip(tooltip)
    return box


def _button(text: str, tooltip: str, clicked: Any) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tooltip)
    button.clicked.connect(lambda: clicked())
    return button


def _text(name: str) -> QLabel:
    label = QLabel()
    label.setObjectName(name)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row


def _with_browser(line: QLineEdit) -> QWidget:
    def browse() -> None:
        chosen = QFileDialog.getExistingDirectory(line, line.accessibleName(), line.text())
        if chosen:
            line.setText(chosen)
            line.editingFinished.emit()

    button = _button("…", f"Choose the {line.accessibleName()}", browse)
    button.setFixedWidth(28)
    row = _row(line, button)
    row.setFocusProxy(line)
    return row


def _form(*rows: tuple[str, QWidget]) -> QWidget:
    form = QWidget()
    layout = QFormLayout(form)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for text, widget in rows:
        if not text:
            layout.addRow(widget)
            continue
        label = QLabel(text)
        label.setBuddy(widget)
        label.setToolTip(widget.toolTip())
        layout.addRow(label, widget)
    return form
