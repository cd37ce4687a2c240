"""The panel "Register and fuse"."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_busref._napari.forms import Scroll, caption, label, narrow, tab_order
from napari_busref._napari.layers import METADATA_KEY, guess_pair, shown_plane
from napari_busref._napari.results import FIELD_ROLES, show_field, update_layers
from napari_busref._napari.run import Outcome, Request, field_layers, run
from napari_busref._napari.settings import Settings
from napari_busref._napari.settings_group import SettingsGroup
from napari_busref._napari.start import start_transform
from napari_busref._napari.undo import Undo
from napari_busref._napari.words import error_text, quality_html
from napari_busref._napari.worker import Stopper, put_off_garbage, serve_until, start_job

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_busref._napari.layers_result import LayersResult

__all__ = ["RegisterAndFuse"]

_log = logging.getLogger(__name__)

_STEPS = 1000  # of the progress bar
_RELIABLE, _UNRELIABLE, _FAILED = "#3fa34d", "#e3a008", "#d64545"
_GRACE = 400  # ms that a cancelled run has to end by itself
_TICK = 100  # ms between two looks at the clock


@dataclass(frozen=True, eq=False)
class _Placing:
    """A finished run whose layers are on their way into the viewer."""

    outcome: Outcome
    undo: Undo
    waiting: list[Layer]


class RegisterAndFuse(QWidget):
    """Register an infrared layer to a visible one and fuse the two.

    The work is done in another thread. When it succeeds, layers are added, or those of an
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
        The infrared and the visible layer; read and set ``value``. They are never the same:
        choosing the other's layer swaps the two.
    advanced : SettingsGroup
        The folded settings.
    fixed_mask, moving_mask : magicgui.widgets.ComboBox
        Labels layers that say what may be compared, or None; read and set ``value``.
    result : LayersResult or None
        Of the last run (`napari_busref._napari.layers_result.LayersResult`); None while one is
        running, when it failed and after Undo.
    idle : Signal
        Emitted at the end of every run, however it ended.

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
        self._placing: _Placing | None = None
        self._started = 0.0  # perf_counter
        self._stopping = False  # True while the best so far is on its way
        self._report = ("", 0.0)
        self._undo: Undo | None = None
        self._last: Request | None = None  # of the result
        self._choosing = False  # True while the program and not the user changes the choosers
        self._user_chose = False
        self._pair: tuple[Image | None, Image | None] = (None, None)
        self.result: LayersResult | None = None

        self.moving = _layer_chooser(
            "infrared layer",
            "The layer that is resampled: infrared, thermal, another stain …",
            self._moving_choices,
        )
        self.fixed = _layer_chooser(
            "visible layer",
            "The reference, which stays as it is: the results lie exactly on it",
            self._image_layers,
        )
        self.swap = QPushButton()
        self.swap.setObjectName("swap")
        self.swap.setText("⇅")
        self.swap.setToolTip("Swap the infrared and the visible layer")
        self.swap.setAccessibleName("Swap")
        self.swap.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Expanding)
        self.swap.setFixedWidth(28)
        for chooser in (self.moving, self.fixed):  # a panel of 300 px holds them
            chooser.native.setMinimumContentsLength(5)
        self.fixed_mask, self.moving_mask = (
            _layer_chooser(
                f"{word} mask",
                f"A Labels layer: where it is 0, the {word} layer is not compared.\n"
                "Any pixel size and place: it counts where you see it",
                self._mask_choices,
                nullable=True,
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
        self._turn = QTimer(self)
        self._turn.setInterval(0)
        self._turn.setSingleShot(True)
        self._turn.timeout.connect(self._place_next)
        self._stopper = Stopper()
        self.destroyed.connect(self._stopper.let_go)
        self.button.clicked.connect(self._button_clicked)
        self.undo_button.clicked.connect(self.undo)
        self.swap.clicked.connect(self._swap_clicked)
        self.moving.changed.connect(self._layer_chosen)
        self.fixed.changed.connect(self._layer_chosen)
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
        the best so far once the shown plane is registered; before that it takes until what the
        refinement has is judged and resampled. Cancel again to do without it.
        """
        job, request = self._stopper.job, self._request
        if job is None or request is None:
            return
        if self._placing is not None:
            self._take_back(self._placing)
            self._let_go()
            return
        settings = request.settings
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
        """Serve the window until the run has ended."""
        if self.running:
            serve_until(self.idle, self.destroyed)

    def undo(self) -> None:
        """Put the layers back to where they were before the last run."""
        if self._undo is None or self.running:
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
        before = self._pair
        self._choosing = True
        try:
            self.moving.reset_choices()
            self.fixed.reset_choices()
            self.fixed_mask.reset_choices()
            self.moving_mask.reset_choices()
            for name in ("model", "fusion_model"):  # the user may have trained one
                self.advanced.controls[name].reset_choices()
            offered = self.moving.choices
            kept = self._user_chose and all(layer in offered for layer in before)
            moving, fixed = before if kept else self._guess(*before)
            for chooser, layer in ((self.moving, moving), (self.fixed, fixed)):
                if layer is not None:
                    chooser.value = layer
        finally:
            self._choosing = False
        self._pair = (self.moving.value, self.fixed.value)
        self._update_hint()

    # -- choosing -------------------------------------------------------------------------------

    def _image_layers(self, _: Any = None) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _moving_choices(self, _: Any = None) -> list[Image]:
        images = self._image_layers()
        return images if len(images) > 1 else []  # a single one is the fixed layer

    def _mask_choices(self, _: Any = None) -> list[Labels]:
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Labels) and METADATA_KEY not in layer.metadata
        ]

    def _guess(
        self, moving: Image | None, fixed: Image | None
    ) -> tuple[Image | None, Image | None]:
        """Guess both layers, but keep what the user chose and is still there."""
        offered = self.moving.choices
        guessed_moving, guessed_fixed = guess_pair(self._viewer.layers)
        if self._user_chose and fixed in offered:
            return (guessed_moving if guessed_moving != fixed else guessed_fixed), fixed
        if self._user_chose and moving in offered:
            return moving, (guessed_fixed if guessed_fixed != moving else guessed_moving)
        return guessed_moving, guessed_fixed

    def _layer_chosen(self, _: Any = None) -> None:
        if self._choosing:
            return
        self._user_chose = True
        if self.moving.value == self.fixed.value:  # not `is`: plugins see layers through proxies
            self._exchange()
        self._pair = (self.moving.value, self.fixed.value)
        self._update_hint()

    def _swap_clicked(self) -> None:
        if None not in self._pair:
            self._user_chose = True
            self._exchange()
            self._pair = (self.moving.value, self.fixed.value)

    def _exchange(self) -> None:
        self._choosing = True
        try:
            self.fixed.value, self.moving.value = self._pair
        finally:
            self._choosing = False

    def _update_hint(self) -> None:
        enough = len(self._image_layers()) > 1
        self.hint.setText("" if enough else "Open two image layers, an infrared and a visible one")
        self.hint.setVisible(not enough)
        self.swap.setEnabled(enough)
        self.advanced.set_stack(any(layer is not None and layer.ndim > 2 for layer in self._pair))

    def _make_request(self) -> tuple[Request, tuple[Image, ...]]:
        moving, fixed = self.moving.value, self.fixed.value
        if moving is None or fixed is None:
            raise ValueError("open two image layers, an infrared and a visible one")
        if not self.settings.roles:
            raise ValueError("no output is chosen; tick one of them in the advanced settings")
        planes = shown_plane(fixed, self._viewer), shown_plane(moving, self._viewer)
        masks = [
            None if layer is None else shown_plane(layer, self._viewer)
            for layer in (self.fixed_mask.value, self.moving_mask.value)
        ]
        start = start_transform(moving, *planes)
        fixed_mask, moving_mask = masks
        request = Request(*planes, start, self.settings, fixed_mask, moving_mask)
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
        self._placing = _Placing(outcome, Undo(self._viewer.layers), list(outcome.layers))
        self._turn.start()

    def _place_next(self) -> None:
        """Put one layer into the viewer, or after the last one tell how it went.

        One in each turn of the event loop: four large ones at once would stop the window.
        """
        placing, request = self._placing, self._request
        if placing is None or request is None:
            return
        layers, settings = self._viewer.layers, request.settings
        try:
            if placing.waiting:
                layer = placing.waiting.pop(0)
                if settings.results == "add":
                    layers.append(layer)
                else:
                    update_layers(layers, [layer])
                self._turn.start()
                return
            if settings.results == "update":
                for layer in self._drawings(request):
                    if _role(layer) != settings.field_role:  # of an earlier run
                        layer.visible = False
            placing.undo.done(layers)
            self._show_result(placing, request)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self._take_back(placing)
            self._show_failure(error)
        self._finish()

    def _take_back(self, placing: _Placing) -> None:
        placing.undo.done(self._viewer.layers)
        placing.undo.restore(self._viewer.layers)

    def _show_result(self, placing: _Placing, request: Request) -> None:
        self._undo, self._last, self.result = placing.undo, request, placing.outcome.result
        for layer in self._inputs:
            if layer not in self._viewer.layers:
                show_info(
                    f"Register and fuse: layer {layer.name!r} was removed meanwhile; the results "
                    "lie where it was"
                )
        seconds = perf_counter() - self._started
        quality = self.result.quality
        if not self.result.cancelled:
            self.stage.setText(f"done in {seconds:.1f} s")
        else:
            cut = quality.evidence is not None and quality.evidence.cancelled
            kept = "the best so far" if cut else "what was done by then"
            further = ", not refined further" if cut else ""
            self.stage.setText(f"cancelled after {seconds:.1f} s; {kept} was kept{further}")
        self._show_quality(
            quality_html(quality, placing.outcome.largest_px),
            _RELIABLE if quality.reliable else _UNRELIABLE,
        )
        if not quality.reliable:
            reasons = "; ".join(quality.reasons) or "its score is low"
            show_warning(f"Register and fuse: check the result, it may be wrong: {reasons}")

    def _drawings(self, request: Request) -> list[Layer]:
        """The layers in the viewer that draw the displacement of a pair."""
        pair = {"fixed": request.fixed.name, "moving": request.moving.name}
        return [
            layer
            for layer in self._viewer.layers
            if _role(layer) in FIELD_ROLES
            and all(_known(layer).get(key) == name for key, name in pair.items())
        ]

    def _draw_field(self, _: Any = None) -> None:
        """Draw the displacement of the last run another way."""
        if self.result is None or self._last is None or self._undo is None or self.running:
            return
        settings = self.settings
        try:
            new = field_layers(self.result, self._last, settings)
            self._undo.also(update_layers(self._viewer.layers, new))
            show_field(self._drawings(self._last), settings.field_role)
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
        if self._placing is None:  # else the last layer ends the run
            self._finish()

    def _finish(self) -> None:
        self._stopper.let_go()
        self._grace.stop()
        self._clock.stop()
        self._turn.stop()
        self._request, self._inputs, self._placing = None, (), None
        self._show_idle()
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
        choosers = QGridLayout()
        for row, (text, chooser) in enumerate(
            (("&Infrared (moving)", self.moving), ("Vi&sible (fixed)", self.fixed))
        ):
            choosers.addWidget(caption(text, chooser.native), row, 0)
            choosers.addWidget(chooser.native, row, 1)
        choosers.addWidget(self.swap, 0, 2, 2, 1)
        choosers.setColumnStretch(1, 1)
        buttons = QHBoxLayout()
        buttons.addWidget(self.button, 1)
        buttons.addWidget(self.undo_button)
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addLayout(choosers)
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
            self.moving.native,
            self.fixed.native,
            self.swap,
            *self.advanced.tab_order(),
            self.button,
            self.undo_button,
        )


def _known(layer: Layer) -> dict[str, Any]:
    known: dict[str, Any] = layer.metadata.get(METADATA_KEY, {})
    return known


def _role(layer: Layer) -> str | None:
    return _known(layer).get("role")


def _layer_chooser(name: str, tooltip: str, choices: Any, nullable: bool = False) -> ComboBox:
    chooser = ComboBox(
        name=name, label=name.capitalize(), tooltip=tooltip, choices=choices, nullable=nullable
    )
    narrow(chooser)
    return chooser


def _edge(colour: str) -> str:
    """A coloured edge: readable in dark and light themes, unlike coloured text."""
    return f"QLabel {{ border-left: 4px solid {colour}; padding-left: 6px; }}"
