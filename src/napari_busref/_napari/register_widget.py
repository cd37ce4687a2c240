"""The panel "Register and fuse"."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEventLoop, Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_busref._napari.layers import Plane, guess_pair, initial_transform, shown_plane
from napari_busref._napari.results import result_layers, update_layers
from napari_busref._napari.words import error_text, quality_html
from napari_busref._napari.worker import Job, start_job
from napari_busref.models import list_models
from napari_busref.transform import Transform

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_busref.pipeline import RegistrationAndFusionResult
    from napari_busref.progress import Progress

__all__ = ["RegisterAndFuse"]

_log = logging.getLogger(__name__)

_DEVICES = ("auto", "cpu", "cuda", "mps")
_DEFAULT_MODELS = {"registration": "auto", "fusion": "gaf"}
_STEPS = 1000  # of the progress bar
_RELIABLE, _UNRELIABLE, _FAILED = "#3fa34d", "#e3a008", "#d64545"


@dataclass(frozen=True, eq=False)
class _Request:
    """All that a run needs, fixed when the button was pressed."""

    fixed: Plane
    moving: Plane
    initial: Transform | None
    options: dict[str, Any]
    layers: tuple[Layer, Layer]
    start: float  # perf_counter


class _Stopper:
    """Stops the running job; outlives the panel, whose end it reacts to."""

    job: Job | None = None

    def quit(self) -> None:
        if self.job is not None:
            self.job.quit()


class RegisterAndFuse(QWidget):
    """Register an infrared layer to a visible one and fuse the two.

    The work is done in another thread. When it succeeds four layers are added, or those of an
    earlier run on the same two layers are updated: see
    `napari_busref._napari.results.result_layers`. When it fails or is cancelled, none is touched.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    moving, fixed : magicgui.widgets.ComboBox
        The infrared and the visible layer; read and set ``value``.
    model, fusion_model, device : magicgui.widgets.ComboBox
        Names; read and set ``value``.
    result : RegistrationAndFusionResult or None
        Of the last run; None while one is running and when it failed.
    idle : Signal
        Emitted at the end of every run, however it ended.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Register and fuse"
    ... )  # doctest: +SKIP
    >>> panel.run()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    idle = Signal()

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self._request: _Request | None = None
        self._choosing = False  # True while the program and not the user changes the choosers
        self._user_chose = False
        self.result: RegistrationAndFusionResult | None = None

        self.moving = self._layer_chooser(
            "infrared layer", "The layer that is resampled: infrared, thermal, another stain …"
        )
        self.fixed = self._layer_chooser(
            "visible layer", "The reference, which stays as it is: the results lie exactly on it"
        )
        self.model = _chooser(
            list_models("registration"),
            _DEFAULT_MODELS["registration"],
            "registration model",
            "Finds where the infrared image lies on the visible one",
        )
        self.fusion_model = _chooser(
            list_models("fusion"),
            _DEFAULT_MODELS["fusion"],
            "fusion model",
            "Merges the registered infrared image into the visible one; colours are kept",
        )
        self.device = _chooser(
            _DEVICES,
            "auto",
            "device",
            "Where to compute. auto takes a GPU if there is one",
        )
        self.hint = _text_label("hint")
        self.hint.setStyleSheet(_edge(_UNRELIABLE))
        self.button = QPushButton()
        self.button.setObjectName("run")
        self.bar = QProgressBar()
        self.bar.setRange(0, _STEPS)
        self.bar.setTextVisible(False)
        self.stage = _text_label("stage")
        self.quality = _text_label("quality")

        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for text, chooser in (
            ("&Infrared (moving)", self.moving),
            ("&Visible (fixed)", self.fixed),
            ("&Registration", self.model),
            ("&Fusion", self.fusion_model),
            ("&Device", self.device),
        ):
            label = QLabel(text)
            label.setBuddy(chooser.native)
            label.setToolTip(chooser.tooltip)
            form.addRow(label, chooser.native)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        for widget in (self.hint, self.button, self.bar, self.stage, self.quality):
            layout.addWidget(widget)
        layout.addStretch()

        self._stopper = _Stopper()
        self.destroyed.connect(self._stopper.quit)
        self.button.clicked.connect(self._button_clicked)
        self.moving.changed.connect(self._layer_chosen)
        self.fixed.changed.connect(self._layer_chosen)
        self._show_idle()
        self.reset_choices()

    # -- for scripts ----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a run has begun and not ended."""
        return self._stopper.job is not None

    def run(self) -> bool:
        """Start a run with what is chosen, as the button does.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        if self.running:
            show_error("Register and fuse: a run is going on; cancel it or wait for its end")
            return False
        self.result = None
        self._show_quality("", None)
        try:
            self._request = request = self._make_request()
        except (ValueError, TypeError) as error:
            self._show_failure(error)
            return False
        self.bar.setValue(0)
        self.bar.show()
        self.stage.setText("starting")
        self.button.setText("Cancel")
        self._stopper.job = start_job(
            _register_and_fuse,
            request,
            connect={
                "yielded": self._on_progress,
                "returned": self._on_result,
                "errored": self._show_failure,
                "aborted": self._on_cancelled,
                "finished": self._on_finished,
            },
        )
        return True

    def cancel(self) -> None:
        """Ask the run to stop; it ends at the next place where that is possible."""
        if self.running:
            self._stopper.quit()
            self.button.setText("Cancelling…")
            self.button.setEnabled(False)

    def wait(self) -> None:
        """Serve the window until the run has ended."""
        if self.running:
            loop = QEventLoop()
            self.idle.connect(loop.quit)
            self.destroyed.connect(loop.quit)
            loop.exec()

    def reset_choices(self, event: Any = None) -> None:
        """Offer the image layers that there are now; napari calls this when they change."""
        before = self.moving.value, self.fixed.value
        self._choosing = True
        try:
            self.moving.reset_choices()
            self.fixed.reset_choices()
            offered = self.moving.choices
            if not self._user_chose or any(layer not in offered for layer in before):
                self._choose(*before)
        finally:
            self._choosing = False
        self._update_hint()

    # -- choosing -------------------------------------------------------------------------------

    def _layer_chooser(self, name: str, tooltip: str) -> ComboBox:
        chooser = ComboBox(name=name, tooltip=tooltip, choices=self._image_layers)
        _narrow(chooser)
        return chooser

    def _image_layers(self, _: Any = None) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _choose(self, moving: Image | None, fixed: Image | None) -> None:
        """Fill both choosers by a guess, but keep what the user chose and is still there."""
        offered = self.moving.choices
        guessed_moving, guessed_fixed = guess_pair(self._viewer.layers)
        if self._user_chose and fixed in offered:
            guessed_moving = guessed_moving if guessed_moving != fixed else guessed_fixed
            guessed_fixed = fixed
        elif self._user_chose and moving in offered:
            guessed_fixed = guessed_fixed if guessed_fixed != moving else guessed_moving
            guessed_moving = moving
        for chooser, layer in ((self.moving, guessed_moving), (self.fixed, guessed_fixed)):
            if layer is not None:
                chooser.value = layer

    def _layer_chosen(self, _: Any = None) -> None:
        if not self._choosing:
            self._user_chose = True
            self._update_hint()

    def _update_hint(self) -> None:
        try:
            self._chosen_layers()
        except ValueError as error:
            self.hint.setText(str(error))
        else:
            self.hint.setText("")
        self.hint.setVisible(bool(self.hint.text()))

    def _chosen_layers(self) -> tuple[Image, Image]:
        moving, fixed = self.moving.value, self.fixed.value
        if len(self.moving.choices) < 2:
            raise ValueError("open two image layers, an infrared and a visible one")
        if moving == fixed:  # not `is`: plugins see layers through proxies
            raise ValueError(
                f"{fixed.name!r} is chosen as the infrared and as the visible layer; choose two "
                "different layers"
            )
        return moving, fixed

    def _make_request(self) -> _Request:
        moving_layer, fixed_layer = self._chosen_layers()
        moving = shown_plane(moving_layer, self._viewer)
        fixed = shown_plane(fixed_layer, self._viewer)
        return _Request(
            fixed=fixed,
            moving=moving,
            initial=initial_transform(fixed, moving),
            options={
                "model": self.model.value,
                "fusion_model": self.fusion_model.value,
                "device": self.device.value,
            },
            layers=(fixed_layer, moving_layer),
            start=perf_counter(),
        )

    # -- running (all of this in the main thread) -----------------------------------------------

    def _button_clicked(self) -> None:
        if self.running:
            self.cancel()
        else:
            self.run()

    def _on_progress(self, report: tuple[str, float]) -> None:
        stage, fraction = report
        self.bar.setValue(round(_STEPS * fraction))
        self.stage.setText(f"{stage} ({100 * fraction:.0f} %)")

    def _on_result(self, result: RegistrationAndFusionResult) -> None:
        request = self._request
        if request is None:
            return
        try:
            new = result_layers(result, request.fixed, request.moving, request.initial)
            update_layers(self._viewer.layers, new)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self._show_failure(error)
            return
        self.result = result
        for layer in request.layers:
            if layer not in self._viewer.layers:
                show_info(
                    f"Register and fuse: layer {layer.name!r} was removed meanwhile; the results "
                    "lie where it was"
                )
        self.bar.setValue(_STEPS)
        self.stage.setText(f"done in {perf_counter() - request.start:.1f} s")
        quality = result.registration.quality
        self._show_quality(quality_html(quality), _RELIABLE if quality.reliable else _UNRELIABLE)
        if not quality.reliable:
            reasons = "; ".join(quality.reasons) or "its score is low"
            show_warning(f"Register and fuse: check the result, it may be wrong: {reasons}")

    def _on_cancelled(self) -> None:
        self.bar.setValue(0)
        self.stage.setText("cancelled; no layer was changed")

    def _on_finished(self) -> None:
        self._request = None
        self._stopper.job = None
        self._show_idle()
        self.idle.emit()

    # -- showing --------------------------------------------------------------------------------

    def _show_idle(self) -> None:
        self.bar.hide()  # a full one looks like a second button
        self.button.setText("Register and fuse")
        self.button.setEnabled(True)

    def _show_failure(self, error: Exception) -> None:
        text = error_text(error)
        _log.debug("register and fuse failed", exc_info=error)
        self.bar.setValue(0)
        self.stage.setText("failed; no layer was changed")
        self._show_quality(text, _FAILED)
        show_error(f"Register and fuse: {text}")

    def _show_quality(self, text: str, colour: str | None) -> None:
        self.quality.setTextFormat(
            Qt.TextFormat.PlainText if colour == _FAILED else Qt.TextFormat.RichText
        )
        self.quality.setText(text)
        self.quality.setVisible(bool(text))
        self.quality.setStyleSheet(_edge(colour) if colour else "")


def _register_and_fuse(
    request: _Request, *, progress: Progress, cancel: threading.Event
) -> RegistrationAndFusionResult:
    """Do the work, in the worker thread; only here is torch loaded."""
    progress("loading", 0.0)
    from napari_busref import pipeline

    return pipeline.register_and_fuse(
        request.fixed.read(),
        request.moving.read(),
        initial=request.initial,
        progress=progress,
        cancel=cancel,
        **request.options,
    )


def _chooser(choices: Any, default: str, name: str, tooltip: str) -> ComboBox:
    choices = list(choices)
    chooser = ComboBox(name=name, tooltip=tooltip, choices=choices)
    if default in choices:
        chooser.value = default
    _narrow(chooser)
    return chooser


def _narrow(chooser: ComboBox) -> None:
    """Keep long layer names from making the panel wide."""
    box = chooser.native
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(12)


def _edge(colour: str) -> str:
    """A coloured edge: readable in dark and light themes, unlike coloured text."""
    return f"QLabel {{ border-left: 4px solid {colour}; padding-left: 6px; }}"


def _text_label(name: str) -> QLabel:
    label = QLabel()
    label.setObjectName(name)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
