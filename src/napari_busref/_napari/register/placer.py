"""Putting the layers of a finished run into a viewer, without stopping its window."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.undo import Undo
from napari_busref._napari.register.result_layers import FIELD_ROLES, update_layers

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_busref._napari.register.run import Outcome, Request

__all__ = ["Placer", "drawings"]

_TURN = 0.04  # s after which the window has its turn
_PAUSE = 80  # ms in which the window draws; without, the next layer would come first


class Placer(QObject):
    """Adds layers in turns of the event loop: four large ones at once would stop the window.

    Small ones go in together, as the window is drawn anew after each turn.

    Parameters
    ----------
    viewer : napari.Viewer
    shown : callable
        Called with the outcome when its first layer, the warped image, is there.
    placed : callable
        Called with the outcome and its `Undo` when all layers are there.
    failed : callable
        Called with the error when one cannot be added, or another call raises; then all is as
        before.
    parent : QObject
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        shown: Callable[[Outcome], None],
        placed: Callable[[Outcome, Undo], None],
        failed: Callable[[Exception], None],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._shown, self._placed, self._failed = shown, placed, failed
        self._work: tuple[Outcome, Request, Undo] | None = None
        self._waiting: list[Layer] = []
        self._turn = QTimer(self)
        self._turn.setSingleShot(True)
        self._turn.timeout.connect(self._next)

    @property
    def busy(self) -> bool:
        """Whether layers are on their way."""
        return self._work is not None

    def begin(self, outcome: Outcome, request: Request) -> None:
        """Put in the layers of an outcome."""
        self._work = (outcome, request, Undo(self._viewer.layers))
        self._waiting = list(outcome.layers)
        self._turn.start(0)

    def finish(self) -> None:
        """Put in at once what is still on its way."""
        while self.busy:
            self._next()

    def take_back(self) -> None:
        """Stop, and leave the layers as they were before."""
        if self._work is not None:
            _, _, undo = self._work
            self._end()
            undo.done(self._viewer.layers)
            undo.restore(self._viewer.layers)

    def _end(self) -> None:
        self._turn.stop()
        self._work, self._waiting = None, []

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
                else:
                    update_layers(layers, [layer])
                first = layer is outcome.layers[0]
                if first:
                    self._shown(outcome)
                if first or perf_counter() - began > _TURN:
                    self._turn.start(_PAUSE)
                    return
            if settings.results == "update":
                for layer in drawings(layers, request):
                    if _known(layer).get("role") != settings.field_role:  # of an earlier run
                        layer.visible = False
            self._end()
            undo.done(layers)
            self._placed(outcome, undo)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self._end()
            undo.done(layers)
            undo.restore(layers)
            self._failed(error)


def drawings(layers: Any, request: Request) -> list[Layer]:
    """The layers in a viewer that draw the displacement of a pair."""
    pair = {"fixed": request.fixed.name, "moving": request.moving.name}
    return [
        layer
        for layer in layers
        if _known(layer).get("role") in FIELD_ROLES
        and all(_known(layer).get(key) == name for key, name in pair.items())
    ]


def _known(layer: Layer) -> dict[str, Any]:
    known: dict[str, Any] = layer.metadata.get(METADATA_KEY, {})
    return known
