"""The panel "Register and fuse"."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.undo import Undo
from napari_busref._napari.register.placer import Placer, drawings
from napari_busref._napari.register.result_layers import show_field, update_layers
from napari_busref._napari.register.run import Outcome, Request, field_layers, make_request, run
from napari_busref._napari.register.settings import Settings
from napari_busref._napari.register.settings_form import SettingsGroup
from napari_busref._napari.widgets.forms import Scroll, label, narrow, tab_order
from napari_busref._napari.widgets.pair_chooser import PairChooser
from napari_busref._napari.widgets.words import error_text, quality_html
from napari_busref._napari.widgets.worker import Stopper, put_off_garbage, serve_until, start_job

if TYPE_CHECKING:
    import napari

    from napari_busref._napari.layers.result import LayersResult

__all__ = ["RegisterAndFuse"]

_log = logging.getLogger(__name__)

_STEPS = 1000  # of the progress bar
_RELIABLE, _UNRELIABLE, _FAILED = "#3fa34d", "#e3a008", "#d64545"
_GRACE = 400  # ms that a cancelled run has to end by itself
_TICK = 100  # ms between two looks at the clock


class RegisterAndFuse(QWidget):
    """Register an infrared layer to a visible one and fuse the two.

    The work is done in another thread. When it succeeds, layers are added, or those of an
    earlier run on the same two layers are updated: see
    `napari_busref._napari.register.result_layers.result_layers`. When it fails or is cancelled, none is touched.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    moving, fixed : magicgui.widgets.ComboBox
        The infrared and the visible layer; read and set ``value``. They are never the same:
        choosing the other's layer swaps the two.
    advanced : SettingsGroup
        The folded settings.
    fixed_mask, moving_mask : magicgui.widgets.ComboBox
        Labels layers that say what may be compared, or None; read and set ``value``.
    result : LayersResult or None
        Of the last run (`napari_busref._napari.layers.result.LayersResult`); None while one is
        running, when it failed and after Undo.
    idle : Signal
        Emitted at the end of every run, however it ended, when all its layers are there.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Register and fuse"
    ... )  # doctest: +SKIP
    >>> panel.settings = Settings(search="wide", fused=False)  # doctest: +SKIP
    >>> panel.run()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    idle = Signal()

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self._request: Request | None = None
        self._inputs: tuple[Image, ...] = ()  # layers of the run
        self._started = 0.0  # perf_counter
        self._stopping = False  # True while the best so far is on its way
        self._report = ("", 0.0)
        self._undo: Undo | None = None
        self._last: Request | None = None  # of the result
        self.result: LayersResult | None = None

        self.pair = PairChooser(
            napari_viewer,
            "The layer that is resampled: infrared, thermal, another stain …",
            "The reference, which stays as it is: the results lie exactly on it",
        )
        self.moving, self.fixed, self.swap = self.pair.moving, self.pair.fixed, self.pair.swap
        self.fixed_mask, self.moving_mask = (
            _mask_chooser(
                f"{word} mask",
                f"A Labels layer: where it is 0, the {word} layer is not compared.\n"
                "Any pixel size and place: it counts where you see it",
                self._mask_choices,
            )
            for word in ("visible", "infrared")
        )
        self.advanced = SettingsGroup([self.fixed_mask, self.moving_mask])
        self.hint = label("hint")
        self.hint.setStyleSheet(_edge(_UNRELIABLE))
        self.button = QPushButton()
        self.button.setObjectName("run")
        self.undo_button = QPushButton("&Undo")
        self.undo_button.setObjectName("undo")
        self.undo_button.setToolTip(
            "Put the layers back to where they were before the last run: layers that it added\n"
            "go, layers that it updated get their content back"
        )
        self.bar = QProgressBar()
        self.bar.setRange(0, _STEPS)
        self.bar.setTextVisible(False)
        self.bar.setToolTip("How much of the run is done")
        self.stage = label("stage")
        self.quality = label("quality")
        self._lay_out()

        self._clock = QTimer(self)
        self._clock.setInterval(_TICK)
        self._clock.timeout.connect(self._show_stage)
        self._grace = QTimer(self)
        self._grace.setInterval(_GRACE)
        self._grace.setSingleShot(True)
        self._grace.timeout.connect(self._let_go)
        self._placer = Placer(
            napari_viewer, self._on_shown, self._on_placed, self._on_not_placed, self
        )
        self._stopper = Stopper()
        self.destroyed.connect(self._stopper.let_go)
        self.button.clicked.connect(self._button_clicked)
        self.undo_button.clicked.connect(self.undo)
        self.pair.changed.connect(self._update_hint)
        self.advanced.changed.connect(self._show_idle)
        self.advanced.controls["displacement"].changed.connect(self._draw_field)
        self._show_quality("", None)
        self._show_idle()
        self.reset_choices()

    # -- for scripts ----------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What is set; assign another to set all at once."""
        return self.advanced.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.advanced.settings = settings

    @property
    def model(self) -> ComboBox:
        """The registration model; read and set ``value``."""
        return self.advanced.controls["model"]

    @property
    def fusion_model(self) -> ComboBox:
        """The fusion model; read and set ``value``."""
        return self.advanced.controls["fusion_model"]

    @property
    def device(self) -> ComboBox:
        """Where to compute; read and set ``value``."""
        return self.advanced.controls["device"]

    @property
    def running(self) -> bool:
        """Whether a run has begun and not ended.

        A cancelled one ends with the warped layer; the others follow within the next moments.
        """
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
        self._placer.finish()
        self.result = None
        self._show_quality("", None)
        try:
            self._request, self._inputs = self._make_request()
        except (ValueError, TypeError) as error:
            self._show_failure(error)
            return False
        self._started, self._stopping = perf_counter(), False
        self._report = ("starting", 0.0)
        self._show_stage()
        self._clock.start()
        self._stopper.job = start_job(
            run,
            self._request,
            connect={
                "yielded": self._on_progress,
                "returned": self._on_result,
                "errored": self._show_failure,
                "aborted": self._on_cancelled,
                "finished": self._on_finished,
            },
        )
        put_off_garbage(self._stopper.job)
        self._show_running("&Cancel", "Stop the run")
        return True

    def cancel(self) -> None:
        """Stop the run.

        To keep nothing takes less than half a second, whatever the run is doing. So does keeping
        the best so far once the shown plane is registered; before that it takes until the
        refinement looks and what it has reached is resampled. The run ends with the warped layer,
        and the others follow. Cancel again, before that, to do without it.
        """
        job, request = self._stopper.job, self._request
        if job is None or request is None:
            return
        settings = request.settings
        if self._placer.busy:
            if settings.on_cancel == "nothing" or self._stopping:
                self._placer.take_back()
                self._let_go()
            return
        can_keep = settings.refines or request.mode != "plane" or bool(request.best)
        if settings.on_cancel == "best" and can_keep and not self._stopping:
            self._stopping = True
            job.stop()
            if request.best:  # what comes after the registration is not waited for
                job.let_go()
                self._on_result(request.best[0])
            self._show_running("&Discard", "Do without the best so far, and stop at once")
            return
        job.quit()
        self._show_running("Cancelling…", "")
        self.button.setEnabled(False)
        self._grace.start()

    def wait(self) -> None:
        """Serve the window until the run has ended and all its layers are there."""
        if self.running or self._placer.busy:
            serve_until(self.idle, self.destroyed)

    def undo(self) -> None:
        """Put the layers back to where they were before the last run."""
        if self.running:
            return
        self._placer.finish()
        if self._undo is None:
            return
        undo, self._undo = self._undo, None
        self.result = self._last = None
        try:
            undo.restore(self._viewer.layers)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self._show_failure(error)
            return
        finally:
            self._show_idle()
        self._show_quality("", None)
        self.stage.setText("undone: the layers are as they were before the run")

    def reset_choices(self, event: Any = None) -> None:
        """Offer the image layers that there are now; napari calls this when they change."""
        self.pair.reset_choices()
        self.fixed_mask.reset_choices()
        self.moving_mask.reset_choices()
        for name in ("model", "fusion_model"):  # the user may have trained one
            self.advanced.controls[name].reset_choices()
        self._update_hint()

    # -- choosing -------------------------------------------------------------------------------

    def _mask_choices(self, _: Any = None) -> list[Labels]:
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Labels) and METADATA_KEY not in layer.metadata
        ]

    def _update_hint(self) -> None:
        enough = len(self.pair.images()) > 1
        self.hint.setText("" if enough else "Open two image layers, an infrared and a visible one")
        self.hint.setVisible(not enough)
        self.advanced.set_stack(
            any(layer is not None and layer.ndim > 2 for layer in self.pair.layers)
        )

    def _make_request(self) -> tuple[Request, tuple[Image, ...]]:
        moving, fixed = self.pair.layers
        if moving is None or fixed is None:
            raise ValueError("open two image layers, an infrared and a visible one")
        masks = self.fixed_mask.value, self.moving_mask.value
        request = make_request(self._viewer, fixed, moving, self.settings, *masks)
        return request, (fixed, moving)

    # -- running (all of this in the main thread) -----------------------------------------------

    def _button_clicked(self) -> None:
        if self.running:
            self.cancel()
        else:
            self.run()

    def _on_progress(self, report: tuple[str, float]) -> None:
        self._report = report
        self._show_stage()

    def _on_result(self, outcome: Outcome) -> None:
        if self._request is not None:
            self._placer.begin(outcome, self._request)

    def _on_shown(self, outcome: Outcome) -> None:
        if self._stopping:  # who has cancelled does not wait for the other layers
            self._show_result(outcome)
            self._end()

    def _on_placed(self, outcome: Outcome, undo: Undo) -> None:
        if not self._stopping:
            self._show_result(outcome)
        self._undo, self._last = undo, self._request
        self._finish()

    def _on_not_placed(self, error: Exception) -> None:
        self.result = None
        self._show_failure(error)
        self._finish()

    def _show_result(self, outcome: Outcome) -> None:
        for layer in self._inputs:
            if layer not in self._viewer.layers:
                show_info(
                    f"Register and fuse: layer {layer.name!r} was removed meanwhile; the results "
                    "lie where it was"
                )
        self.result = outcome.result
        seconds = perf_counter() - self._started
        quality = outcome.result.quality
        if not outcome.result.cancelled:
            self.stage.setText(f"done in {seconds:.1f} s")
        else:
            cut = quality.evidence is not None and quality.evidence.cancelled
            kept = "the best so far" if cut else "what was done by then"
            further = ", not refined further" if cut else ""
            self.stage.setText(f"cancelled after {seconds:.1f} s; {kept} was kept{further}")
        self._show_quality(
            quality_html(quality, outcome.largest_px),
            _RELIABLE if quality.reliable else _UNRELIABLE,
        )
        if not quality.reliable:
            reasons = "; ".join(quality.reasons) or "its score is low"
            show_warning(f"Register and fuse: check the result, it may be wrong: {reasons}")

    def _draw_field(self, _: Any = None) -> None:
        """Draw the displacement of the last run another way."""
        if self.running:
            return
        self._placer.finish()
        if self.result is None or self._last is None or self._undo is None:
            return
        settings = self.settings
        try:
            new = field_layers(self.result, self._last, settings)
            self._undo.also(update_layers(self._viewer.layers, new))
            show_field(drawings(self._viewer.layers, self._last), settings.field_role)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            show_error(f"Register and fuse: {error_text(error)}")

    def _on_cancelled(self) -> None:
        self.stage.setText("cancelled; no layer was changed")

    def _let_go(self) -> None:
        """End a cancelled run for the user; its thread ends when it next looks."""
        if self.running:
            self._on_cancelled()
            self._finish()

    def _on_finished(self) -> None:
        if not self._placer.busy:  # else the last layer ends the run
            self._finish()

    def _end(self) -> None:
        self._stopper.let_go()
        self._grace.stop()
        self._clock.stop()
        self._show_idle()

    def _finish(self) -> None:
        self._request, self._inputs = None, ()
        self._end()
        self.idle.emit()

    # -- showing --------------------------------------------------------------------------------

    def _show_running(self, text: str, tooltip: str) -> None:
        self.button.setText(text)
        self.button.setToolTip(tooltip)
        self.undo_button.setEnabled(False)
        self.bar.show()

    def _show_stage(self) -> None:
        stage, fraction = self._report
        seconds = perf_counter() - self._started
        self.bar.setValue(round(_STEPS * fraction))
        self.stage.setText(f"{stage} · {100 * fraction:.0f} % · {seconds:.0f} s")

    def _show_idle(self) -> None:
        if self.running:
            return
        self.bar.hide()  # a full one looks like a second button
        fuses = self.settings.fused
        self.button.setText("&Register and fuse" if fuses else "&Register")
        self.button.setToolTip("Start; the viewer can be used meanwhile")
        self.button.setEnabled(True)
        self.undo_button.setEnabled(self._undo is not None)

    def _show_failure(self, error: Exception) -> None:
        text = error_text(error)
        _log.debug("register and fuse failed", exc_info=error)
        self._clock.stop()
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

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.button, 1)
        buttons.addWidget(self.undo_button)
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addWidget(self.pair)
        layout.addWidget(self.hint)
        layout.addWidget(self.advanced)
        layout.addLayout(buttons)
        for widget in (self.bar, self.stage, self.quality):
            layout.addWidget(widget)
        layout.addStretch()
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(Scroll(content))
        tab_order(
            *self.pair.tab_order(),
            *self.advanced.tab_order(),
            self.button,
            self.undo_button,
        )


def _mask_chooser(name: str, tooltip: str, choices: Any) -> ComboBox:
    chooser = ComboBox(
        name=name, label=name.capitalize(), tooltip=tooltip, choices=choices, nullable=True
    )
    narrow(chooser)
    return chooser


def _edge(colour: str) -> str:
    """A coloured edge: readable in dark and light themes, unlike coloured text."""
    return f"QLabel {{ border-left: 4px solid {colour}; padding-left: 6px; }}"
