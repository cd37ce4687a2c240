"""The button "Refine at full resolution": the job, and its parts as they arrive."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_busref._napari.layers.stack_planes import shown_position
from napari_busref._napari.layers.view import view_window
from napari_busref._napari.register.full_resolution import RefineRequest, can_refine, refine
from napari_busref._napari.register.result_layers import update_layers
from napari_busref._napari.widgets.forms import button

if TYPE_CHECKING:
    from napari_busref._napari.layers.result import LayersResult
    from napari_busref._napari.register.run import RegisterOutcome
    from napari_busref._napari.widgets.worker import Job

__all__ = ["ResultRefiner"]


class ResultRefiner(QObject):
    """Refines the result of a panel.

    Parameters
    ----------
    panel : RegisterAndFuse
        The panel imports this module, so its type is not named here.

    Attributes
    ----------
    button : QPushButton
    """

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._panel = panel
        self._parts: _Parts | None = None  # of the last refinement
        self.button = button(
            "Refine at full resolution",
            "These images were registered at a coarser level. Align their finest pixels, too:\n"
            "first the part in view, then the rest. Cancel keeps what is done",
            panel.refine,
        )

    def offer(self, result: LayersResult | None, *, enabled: bool) -> None:
        """Show the button where a result can be refined."""
        self.button.setVisible(result is not None and can_refine(result))
        self.button.setEnabled(enabled)

    def begin(self) -> None:
        """Start to refine; raise ValueError where that is not possible."""
        panel = self._panel
        result, last = panel.registered()
        if not can_refine(result):
            raise ValueError("these images were registered at full resolution, or without a field")
        panel._sliders.stop()
        panel._sliders.restore()
        moving, fixed = panel.pair.layers
        position = shown_position(result.pairs, fixed, moving, panel._viewer)
        if position is None or position not in result.planes:
            position = result.pairs.shown
        view = view_window(fixed, result.pairs.by_position[position][0])
        self._parts = parts = _Parts(panel)
        request = RefineRequest(last, result, position, view)
        parts.job = panel._start(refine, request, parts.arrived.emit, returned=self._on_refined)

    def _on_refined(self, outcome: RegisterOutcome) -> None:
        level = outcome.result.registration.parameters["levels"][-1]
        seconds = perf_counter() - self._panel._started
        self._panel.stage.say(
            f"refined at full resolution in {seconds:.1f} s; the last level moved by "
            f"{level['median_move_px']:.2f} px in the median"
        )


class _Parts(QObject):
    """Shows the parts of one refinement, which its thread sends; together they are one Undo."""

    arrived = Signal(object)

    def __init__(self, panel: Any) -> None:
        super().__init__()
        self._panel = panel
        self._first = True
        self.job: Job | None = None
        self.arrived.connect(self._show)

    def _show(self, outcome: RegisterOutcome) -> None:
        if self.job is None or not self.job.listening:  # abandoned, or the panel is closed
            return
        panel = self._panel
        layers, said = panel._viewer.layers, panel.verdict.said
        try:
            if self._first:
                with panel._undoable():
                    update_layers(layers, outcome.layers)
            else:
                panel._history.last.also(update_layers(layers, outcome.layers))
        except Exception as error:  # an exception would be lost in a slot
            panel._fail(error)
            return
        self._first = False
        panel.result = outcome.result
        if said is not None:
            panel.verdict.judge(outcome, panel._last, said.pair)
            panel._follow()
