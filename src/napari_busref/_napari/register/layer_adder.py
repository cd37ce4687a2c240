"""Add the layers of a finished run to a viewer without blocking its window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.undo import Undo
from napari_busref._napari.register.result_layers import FIELD_ROLES, update_layers
from napari_busref._napari.register.visibility import hide_others, show_sources, sources_shown

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_busref._napari.register.run import RegisterOutcome, RegisterRequest

__all__ = ["LayerAdder", "displacement_drawings"]

_TURN = 0.04  # s after which the window processes its events
_PAUSE = 80  # ms for the window to draw; without it the next layer would come first


class LayerAdder(QObject):
    """Adds layers in turns of the event loop, as four large ones at once would block the window.

    Small layers are added in one turn, as the window redraws after each.

    Parameters
    ----------
    viewer : napari.Viewer
    first_added : callable
        Called with the outcome once its first layer, the warped image, is in the viewer.
    added : callable
        Called with the outcome and its `Undo` once all layers are.
    failed : callable
        Called with the error when a layer cannot be added or another callback raises; the layers
        are then as before.
    parent : QObject
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        first_added: Callable[[RegisterOutcome], None],
        added: Callable[[RegisterOutcome, Undo], None],
        failed: Callable[[Exception], None],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._first_added, self._added, self._failed = first_added, added, failed
        self._work: tuple[RegisterOutcome, RegisterRequest, Undo] | None = None
        self._waiting: list[Layer] = []
        self._placed: list[Layer] = []
        self._sources: tuple[Layer, Layer] | None = None
        self._turn = QTimer(self)
        self._turn.setSingleShot(True)
        self._turn.timeout.connect(self._next)

    @property
    def busy(self) -> bool:
        """Whether layers remain to be added."""
        return self._work is not None

    def begin(
        self, outcome: RegisterOutcome, request: RegisterRequest, sources: tuple[Layer, Layer]
    ) -> None:
        """Start to add the layers of an outcome; `sources` are the fixed and the moving layer."""
        self._work = (outcome, request, Undo(self._viewer.layers))
        self._waiting, self._placed, self._sources = list(outcome.layers), [], sources
        names = request.fixed.name, request.moving.name
        self._sources_shown = sources_shown(self._viewer.layers, *names)
        self._turn.start(0)

    def finish(self) -> None:
        """Add the remaining layers at once."""
        while self.busy:
            self._next()

    def revert(self) -> None:
        """Stop, and restore the layers as they were before."""
        if self._work is not None:
            _, _, undo = self._work
            self._revert(undo)

    def _end(self) -> None:
        self._turn.stop()
        self._work, self._sources = None, None
        self._waiting, self._placed = [], []

    def _revert(self, undo: Undo) -> None:
        self._end()
        undo.done(self._viewer.layers)
        undo.restore(self._viewer.layers)

    def _next(self) -> None:
        if self._work is None:
            return
        outcome, request, undo = self._work
        layers, settings = self._viewer.layers, request.settings
        try:
            began = perf_counter()
            while self._waiting:
                layer = self._waiting.pop(0)
                if settings.results == "add":
                    layers.append(layer)
                    self._placed.append(layer)
                else:
                    self._placed += update_layers(layers, [layer])
                first = layer is outcome.layers[0]
                if first:
                    self._first_added(outcome)
                if first or perf_counter() - began > _TURN:
                    self._turn.start(_PAUSE)
                    return
            self._show(outcome, request)
            self._end()
            undo.done(layers)
            self._added(outcome, undo)
        except Exception as error:  # an exception would be lost in a slot
            self._revert(undo)
            self._failed(error)

    def _show(self, outcome: RegisterOutcome, request: RegisterRequest) -> None:
        """Hide what would cover the picture of the run or stick out from it."""
        layers = self._viewer.layers
        if request.settings.results == "update":
            hide_others(layers, self._placed)
        if self._sources is not None:
            result = outcome.result
            whole = request.mode != "plane" if request.stack else True
            whole = whole and result.fused_pairs is result.pairs
            show_sources(layers, self._placed, self._sources, self._sources_shown, whole=whole)
        pictures = [layer for layer in self._placed if layer.visible]
        active = layers.selection.active
        if pictures and active in self._placed and not active.visible:
            layers.selection.active = pictures[-1]  # napari has selected the last layer added


def displacement_drawings(layers: Sequence[Layer], request: RegisterRequest) -> list[Layer]:
    """Return the layers that draw the displacement of a pair."""
    pair = {"fixed": request.fixed.name, "moving": request.moving.name}
    return [
        layer
        for layer in layers
        if _metadata(layer).get("role") in FIELD_ROLES
        and all(_metadata(layer).get(key) == name for key, name in pair.items())
    ]


def _metadata(layer: Layer) -> dict[str, Any]:
    ours: dict[str, Any] = layer.metadata.get(METADATA_KEY, {})
    return ours
