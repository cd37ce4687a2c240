"""The panel "Register and fuse"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtWidgets import QWidget

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.stack_planes import show_position, shown_position
from napari_busref._napari.layers.trades import worded
from napari_busref._napari.layers.undo import Undo
from napari_busref._napari.register.fuse_again import fuse_again
from napari_busref._napari.register.layer_adder import LayerAdder, displacement_drawings
from napari_busref._napari.register.live_sliders import LiveSliders
from napari_busref._napari.register.result_layers import (
    latest_result,
    show_field,
    update_layers,
)
from napari_busref._napari.register.result_refiner import ResultRefiner
from napari_busref._napari.register.result_saver import ResultSaver
from napari_busref._napari.register.run import (
    RegisterOutcome,
    RegisterRequest,
    field_layers,
    make_request,
    run,
)
from napari_busref._napari.register.settings import Settings
from napari_busref._napari.register.settings_form import SettingsForm
from napari_busref._napari.register.verdict import Verdict
from napari_busref._napari.widgets.forms import (
    DOUBTFUL,
    Message,
    button,
    row,
    scrolled,
    tab_order,
)
from napari_busref._napari.widgets.job_panel import RunPanel
from napari_busref._napari.widgets.layer_chooser import layer_chooser
from napari_busref._napari.widgets.pair_chooser import MOVING_TIP, PairChooser
from napari_busref._napari.widgets.words import error_text, pair_text, reasons_text
from napari_busref._napari.widgets.worker import postpone_garbage_collection

if TYPE_CHECKING:
    import napari

    from napari_busref._napari.layers.result import LayersResult

__all__ = ["RegisterAndFuse"]


class RegisterAndFuse(RunPanel):
    """Register a moving layer to a fixed one and fuse the two.

    The work runs in another thread. When it succeeds, it adds layers, or updates those of an
    earlier run on the same two layers: see
    `napari_busref._napari.register.result_layers.result_layers`. When it fails, is cancelled or
    finds nothing, no layer changes.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    moving, fixed : magicgui.widgets.ComboBox
        The two layers; read and set ``value``. They are never the same:
        choosing the other's layer swaps the two.
    advanced : SettingsForm
        The folded settings.
    fixed_mask, moving_mask : magicgui.widgets.ComboBox
        Labels layers that mark the valid pixels, or None; read and set ``value``.
    result : LayersResult or None
        Of the last run (`napari_busref._napari.layers.result.LayersResult`); None while one runs,
        after one that failed, and after Undo.
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

    TITLE = "Register and fuse"
    TAB = "Register"

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self._request: RegisterRequest | None = None
        self._inputs: tuple[Image, Image] | None = None  # fixed and moving layer of the run
        self._stopping = False  # True once the user has asked for the best so far
        self._keeps_verdict = False  # whether a failure or Cancel leaves the result as it is
        self._last: RegisterRequest | None = None  # of the result
        self.result: LayersResult | None = None
        self.pair = PairChooser(
            napari_viewer,
            MOVING_TIP,
            "The reference, which stays as it is: the results lie exactly on it",
        )
        self.moving, self.fixed, self.swap = self.pair.moving, self.pair.fixed, self.pair.swap
        self.fixed_mask, self.moving_mask = (
            layer_chooser(
                f"{word} mask",
                f"A Labels layer: where it is 0, the {{{word}}} layer is not compared.\n"
                "It may have any pixel size and position: its position in the viewer counts",
                self._mask_choices,
                label=f"{{{word.capitalize()}}} mask",
                nullable=True,
            )
            for word in ("fixed", "moving")
        )
        self.fuse_button = button(
            "Fuse a&gain",
            "Fuse what is registered by the present settings of fusion; nothing is registered",
            self.fuse_again,
        )
        self._saver, self._refiner = ResultSaver(self), ResultRefiner(self)
        self.save_button, self.refine_button = self._saver.button, self._refiner.button
        self._sliders = LiveSliders(self)
        self.advanced = SettingsForm([self.fixed_mask, self.moving_mask])
        self.hint, self.verdict = Message("hint"), Verdict()
        self.quality = self.verdict.text
        scrolled(
            self,
            self.pair,
            self.hint,
            self.advanced,
            row(self.button, self.fuse_button),
            row(self.undo_button, self.redo_button),
            row(self.save_button, self.refine_button),
            self.bar,
            self.stage,
            self.verdict,
        )
        tab_order(
            *self.pair.tab_order(),
            *self.advanced.tab_order(),
            self.button,
            self.fuse_button,
            self.undo_button,
            self.redo_button,
            self.save_button,
            self.refine_button,
            *self.verdict.tab_order(),
        )
        self._adder = LayerAdder(
            napari_viewer, self._on_first_added, self._on_added, self._on_not_added, self
        )
        self.verdict.search_wide.connect(self.search_wide)
        self.verdict.open_landmarks.connect(self.open_landmarks)
        self.verdict.open_compare.connect(self.open_compare)
        self.verdict.open_apply.connect(self.open_apply)
        self.verdict.plane_chosen.connect(self._show_plane)
        self.pair.changed.connect(self._update_hint)
        # a method, which napari holds weakly
        napari_viewer.dims.events.point.connect(self._follow)
        self.advanced.changed.connect(self._show_state)
        self.advanced.controls["displacement"].changed.connect(self._draw_field)
        for name in ("infrared", "detail"):
            self.advanced.controls[name].changed.connect(self._sliders.move)
        self._show_state()
        self.reset_choices()

    # -- for scripts ----------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The chosen settings; assign another object to set all at once."""
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

    def cancel(self) -> None:
        """Stop the run.

        It takes less than 0.5 s to keep nothing, or to keep the best so far once the shown plane
        is registered. Before that, the best so far takes until the refinement checks for
        cancellation and its estimate is resampled. The run ends with the warped layer, and the
        others follow. Cancel again, before that, to discard it.
        """
        job, request = self._jobs.by_name.get("run"), self._request
        if job is None:
            return
        if request is None:  # it fuses again
            super().cancel()
            return
        settings = request.settings
        if self._adder.busy:
            if settings.on_cancel == "nothing" or self._stopping:
                self._abandon()
            return
        can_keep = settings.refines or request.mode != "plane" or bool(request.best)
        if settings.on_cancel == "best" and can_keep and not self._stopping:
            self._stopping = True
            job.stop()
            if request.best:  # do not wait for the fusion and further planes
                job.abandon()
                self._add_layers(request.best[0])
            self._show_state()
            return
        super().cancel()

    def undo(self) -> bool:
        """Undo the last run; return False when there was nothing to undo or it failed."""
        return self._travel_when_added(super().undo)

    def redo(self) -> bool:
        """Redo the run that was undone last; return False as `undo` does."""
        return self._travel_when_added(super().redo)

    def _travel_when_added(self, travel: Callable[[], bool]) -> bool:
        if self.running:
            return False
        self._adder.finish()
        self._sliders.stop()
        self._sliders.restore()
        return travel()

    def _memento(self) -> Any:
        self._adder.finish()  # it still adds the layers of the last result
        return self.result, self._last, self.verdict.said

    def _recall(self, memento: Any) -> None:
        self.result, self._last, self.verdict.said = memento
        self.verdict.follow(self.pair.layers)

    def fuse_again(self) -> bool:
        """Fuse what the last run registered by the present settings; nothing is registered.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        return self._attempt(self._begin_fusion)

    @property
    def can_fuse_again(self) -> bool:
        """Whether the result is that of the chosen layers, and something was found."""
        result, last = self.result, self._last
        if result is None or last is None or self._busy:
            return False
        names = [layer.name for layer in self.pair.layers if layer is not None]
        return names == [last.moving.name, last.fixed.name]

    def registered(self) -> tuple[LayersResult, RegisterRequest]:
        """Return the result of the chosen layers, and the request of its run.

        Raises
        ------
        ValueError
            When there is none.
        """
        if not self.can_fuse_again or self.result is None or self._last is None:
            raise ValueError("register the two layers first")
        return self.result, self._last

    def save_result(
        self, path: str | Path, *, cloud: bool = False, overwrite: bool = False
    ) -> bool:
        """Write the result of the chosen layers to files, in another thread.

        Parameters
        ----------
        path, cloud, overwrite
            As of `napari_busref._napari.register.save.SaveRequest`.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        return self._attempt(self._keep, self._saver.begin, Path(path), cloud, overwrite)

    def refine(self) -> bool:
        """Refine the result at full resolution, the part in view first.

        Returns
        -------
        bool
            As of `save_result`.
        """
        return self._attempt(self._keep, self._refiner.begin)

    def search_wide(self) -> bool:
        """Start a run with a wide search; the setting of further runs stays.

        Returns
        -------
        bool
            As of `run`.
        """
        return self._attempt(self._begin, replace(self.settings, search="wide"))

    def open_landmarks(self) -> Any:
        """Open the panel "Landmarks" for the chosen layers, and return it."""
        panel = self.open_panel("Landmarks")
        panel.moving.value, panel.fixed.value = self.pair.layers
        return panel

    def open_compare(self) -> Any:
        """Open the panel "Compare", show the result in it, and return the panel."""
        panel = self.open_panel("Compare")
        moving, fixed = self.pair.layers
        if fixed is not None and moving is not None:
            warped = latest_result(self._viewer.layers, "warped", fixed, moving)
            panel.fixed.value, panel.moving.value = fixed, warped or moving
        panel.compare()
        return panel

    def open_apply(self) -> Any:
        """Open the panel "Apply transform", and return it."""
        return self.open_panel("Apply transform")

    def reset_choices(self, event: Any = None) -> None:
        """Offer the current image layers; napari calls this when layers change."""
        self.pair.reset_choices()
        self.fixed_mask.reset_choices()
        self.moving_mask.reset_choices()
        for name in ("model", "fusion_model"):  # the user may have trained one
            self.advanced.controls[name].reset_choices()
        self._update_hint()

    def reword(self) -> None:
        """Use the words of another trade."""
        super().reword()
        self.advanced.reword()
        self.verdict.follow(self.pair.layers)

    # -- choosing -------------------------------------------------------------------------------

    def _mask_choices(self, _: Any = None) -> list[Labels]:
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Labels) and METADATA_KEY not in layer.metadata
        ]

    def _update_hint(self) -> None:
        enough = len(self.pair.images()) > 1
        need = worded("Open two image layers, {a_moving} and {a_fixed} one")
        self.hint.say("" if enough else need, DOUBTFUL)
        self.advanced.set_stack(
            any(layer is not None and layer.ndim > 2 for layer in self.pair.layers)
        )
        self._show_actions()
        if not self._follow() and not self._busy:
            self.stage.say("")  # of an earlier pair

    def _follow(self, event: Any = None) -> bool:
        """Let the verdict follow the chosen layers and the shown plane."""
        outcome, (moving, fixed) = self.verdict.outcome, self.pair.layers
        position = None
        if outcome is not None and moving is not None and fixed is not None:
            position = shown_position(outcome.result.pairs, fixed, moving, self._viewer)
        return self.verdict.follow((moving, fixed), position)

    def _show_plane(self, position: Any) -> None:
        """Show a plane that the verdict lists."""
        if (outcome := self.verdict.outcome) is not None:
            show_position(outcome.result.pairs, position, self._viewer)

    # -- running (all of this in the main thread) -----------------------------------------------

    def _begin(self, settings: Settings | None = None) -> None:
        self._adder.finish()
        self._sliders.stop()
        self._sliders.restore()
        self._keeps_verdict = False
        self.result = None
        self.verdict.clear()
        moving, fixed = self.pair.layers
        if moving is None or fixed is None:
            raise ValueError(worded("open two image layers, {a_moving} and {a_fixed} one"))
        masks = self.fixed_mask.value, self.moving_mask.value
        settings = self.settings if settings is None else settings
        self._request = make_request(self._viewer, fixed, moving, settings, *masks)
        self._inputs = fixed, moving
        self._stopping = False
        postpone_garbage_collection(self._start(run, self._request, returned=self._add_layers))

    def _begin_fusion(self) -> None:
        result, last = self.registered()
        if not self.settings.fused:
            raise ValueError("the output 'fused' is not chosen; tick it in the advanced settings")
        self._sliders.stop()
        self._keeps_verdict = False
        request = replace(last, settings=self.settings)
        self._start(fuse_again, request, result, returned=partial(self._replace_fused, request))

    def _keep(self, begin: Callable[..., None], *args: Any) -> None:
        """Start what leaves the verdict as it is, also when it fails or is cancelled."""
        self._keeps_verdict = True
        begin(*args)

    def _replace_fused(self, request: RegisterRequest, outcome: RegisterOutcome) -> None:
        self._sliders.restore()
        with self._undoable():
            layers = self._viewer.layers
            if request.settings.results == "add":
                layers.extend(outcome.layers)
            else:
                update_layers(layers, outcome.layers)
        self.result, self._last = outcome.result, request
        self.stage.say(f"fused again in {perf_counter() - self._started:.1f} s")

    @property
    def _busy(self) -> bool:
        return self.running or self._adder.busy

    def _add_layers(self, outcome: RegisterOutcome) -> None:
        if self._request is None or self._inputs is None:
            return
        if not outcome.found:
            self._show_result(outcome)
            self._last = None  # no displacement to draw
        else:
            self._adder.begin(outcome, self._request, self._inputs)

    def _on_first_added(self, outcome: RegisterOutcome) -> None:
        if self._stopping:  # a cancelled run does not wait for the other layers
            self._show_result(outcome)
            self._end()

    def _on_added(self, outcome: RegisterOutcome, undo: Undo) -> None:
        if not self._stopping:
            self._show_result(outcome)
        self._history.add(undo, self._before_run)
        self._last = self._request
        self._finish()

    def _on_not_added(self, error: Exception) -> None:
        self.result = None
        self._fail(error)
        self._finish()

    def _on_finished(self, name: str) -> None:
        if not self._adder.busy:  # else the last layer ends the run
            self._finish()

    def _abandon(self) -> None:
        self._adder.revert()
        super()._abandon()

    def _finish(self) -> None:
        self._request, self._inputs = None, None
        self._end()
        self.idle.emit()

    def _draw_field(self, _: Any = None) -> None:
        """Draw the displacement of the last run another way."""
        if self.running:
            return
        self._adder.finish()
        undo = self._history.last
        if self.result is None or self._last is None or undo is None:
            return
        settings = self.settings
        try:
            new = field_layers(self.result, self._last, settings)
            undo.also(update_layers(self._viewer.layers, new))
            drawings = displacement_drawings(self._viewer.layers, self._last)
            show_field(drawings, settings.field_role)
        except Exception as error:  # an exception would be lost in a slot
            show_error(f"Register and fuse: {error_text(error)}")

    # -- showing --------------------------------------------------------------------------------

    def _show_result(self, outcome: RegisterOutcome) -> None:
        for layer in self._inputs or ():
            if layer not in self._viewer.layers:
                show_info(
                    f"Register and fuse: layer {layer.name!r} was removed meanwhile; the results "
                    "lie where it was"
                )
        self.result = outcome.result
        seconds = perf_counter() - self._started
        quality = outcome.result.quality
        if not outcome.result.cancelled:
            nothing = "" if outcome.found else "; no layer was changed"
            self.stage.say(f"done in {seconds:.1f} s{nothing}")
        elif quality.status == "cancelled":
            self.stage.say(
                f"cancelled after {seconds:.1f} s; the best so far was kept, not refined further"
            )
        else:
            self.stage.say(f"cancelled after {seconds:.1f} s; what was done by then was kept")
        if self._request is None or self._inputs is None:
            return
        self.verdict.judge(outcome, self._request, self._inputs[::-1])
        self._follow()  # the user may have chosen others meanwhile
        self._warn(outcome, pair_text(self._request.moving.name, self._request.fixed.name))

    def _warn(self, outcome: RegisterOutcome, names: str) -> None:
        """Notify the user of a doubtful result."""
        quality, planes = outcome.result.quality, outcome.result.planes.values()
        doubtful = sum(not one.quality.reliable for one in planes)
        if doubtful and outcome.found and len(planes) > 1:
            show_warning(f"{self.TITLE}: {names}: check {doubtful} of {len(planes)} planes")
        elif not quality.reliable:
            reasons = "; ".join(reasons_text(quality)) or "its score is low"
            said = "check the result, it may be wrong" if outcome.found else "nothing was found"
            show_warning(f"{self.TITLE}: {names}: {said}: {reasons}")

    def _show_state(self) -> None:
        super()._show_state()
        self.verdict.steps.setEnabled(not self.running)
        self._show_actions()
        if not self.running:
            text = "&Register and fuse" if self.settings.fused else "&Register"
            self._show_button(text, self.RUN_TOOLTIP)
        elif self._stopping and not self._grace.isActive():
            self._show_button("&Discard", "Drop the best so far, and stop at once")

    def _on_cancelled(self) -> None:
        if self._keeps_verdict:
            self.stage.say("cancelled; what was done stays")
        else:
            super()._on_cancelled()

    def _show_actions(self) -> None:
        """Offer what can be done with the result."""
        ready = self.can_fuse_again
        self.fuse_button.setEnabled(ready and self.settings.fused)
        self.save_button.setEnabled(ready)
        self._refiner.offer(self.result, enabled=ready)

    def _show_failure(self, text: str) -> None:
        if self._keeps_verdict:
            self.stage.say(text)
            return
        self.stage.say("failed; no layer was changed")
        self.verdict.fail(text, self.pair.layers)
