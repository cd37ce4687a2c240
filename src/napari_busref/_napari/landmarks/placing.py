"""Placing landmarks in turn on two images: whose turn it is, what is shown, where to look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QObject, QTimer, Signal

from napari_busref._napari.landmarks.pairs import LandmarkPairs, Side
from napari_busref._napari.landmarks.result import expected_transform, view_change
from napari_busref._napari.layers.planes import Plane, shown_plane
from napari_busref._napari.widgets.camera import camera_of

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["Placing"]

_SIDES: dict[Side, str] = {"fixed": "visible", "moving": "infrared"}


class Placing(QObject):
    """Lets the user click the same place on one image and then on the other.

    Parameters
    ----------
    viewer : napari.Viewer
    parent : QObject

    Attributes
    ----------
    turn : str or None
        The image that the next landmark goes on; None while none are placed.
    changed : Signal
        Emitted when it is another image's turn.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._pairs: LandmarkPairs | None = None
        self._alone = True
        self._visible: list[tuple[Layer, bool]] = []  # as it was before placing began
        self._next: tuple[Side, Side, int] | None = None  # turn to come, after a point on
        self._later = QTimer(self)  # napari is still busy with the point that was added
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._take_turn)
        self.turn: Side | None = None

    def begin(self, pairs: LandmarkPairs) -> None:
        """Ask for the first landmark that is missing."""
        self._pairs = pairs
        self._visible = [
            (layer, layer.visible) for layer in self._viewer.layers if isinstance(layer, Image)
        ]
        self._set_turn(pairs.missing()[0])

    def end(self) -> None:
        """Show all layers as they were."""
        pairs, self._pairs, self.turn = self._pairs, None, None
        if pairs is not None:
            for points in pairs.points.values():
                if points in self._viewer.layers:
                    points.visible = True  # first: napari then takes up the tool of before
                    points.mode = "pan_zoom"
        for layer, visible in self._visible:
            if layer in self._viewer.layers:
                layer.visible = visible
        self._visible = []
        self.changed.emit()

    def show_alone(self, on: bool) -> None:
        """Show only the image whose turn it is, or both."""
        self._alone = on
        if self.turn is not None:
            self._set_turn(self.turn)

    def added(self, side: Side, number: int) -> None:
        """Take note of a landmark that was placed."""
        if self._pairs is not None:
            self._next = (self._pairs.turn_after(side, number), side, number)
            self._later.start()

    def request(self) -> str:
        """What the user is asked to do; empty while nothing is placed."""
        if self._pairs is None or self.turn is None:
            return ""
        numbers = self._pairs.numbers(self.turn)
        waiting = [one for one in self._pairs.all_numbers() if one not in numbers]
        number = min(waiting) if waiting else self._pairs.missing()[1]
        image = self._pairs.images[self.turn].name
        return f"Click place {number} on the {_SIDES[self.turn]} image, {image!r}."

    def _take_turn(self) -> None:
        if self._next is None or self._pairs is None:
            return
        (turn, side, number), self._next = self._next, None
        self._look_at(turn, side, number)
        self._set_turn(turn)

    def _set_turn(self, side: Side) -> None:
        pairs = self._pairs
        if pairs is None:
            return
        self.turn = side
        for layer, visible in self._visible:
            if layer in self._viewer.layers:
                layer.visible = layer == pairs.images[side] if self._alone else visible
        for other, points in pairs.points.items():
            points.visible = other == side or not self._alone
        self._viewer.layers.selection.active = pairs.points[side]
        for other, points in pairs.points.items():
            points.mode = "add" if other == side else "pan_zoom"
        self.changed.emit()

    def _look_at(self, turn: Side, side: Side, number: int) -> None:
        """Move the view so that the place just marked is expected where it was."""
        pairs = self._pairs
        if pairs is None or turn == side:
            return
        place = pairs.place(side, number)
        camera = camera_of(self._viewer)
        centre = np.array(camera.center, dtype=float)
        try:
            planes: dict[Side, Plane] = {
                one: shown_plane(image, self._viewer) for one, image in pairs.images.items()
            }
            fixed, moving = planes["fixed"], planes["moving"]
            transform = expected_transform(fixed, moving, *pairs.matched(fixed, moving)[1:])
            if place is None:
                return
            centre[-2:], zoom = view_change(
                transform,
                place[list(planes[side].axes)],
                (planes[side], planes[turn]),
                centre[-2:],
                inverse=side == "moving",
            )
        except ValueError:  # nothing to go by: the view stays where it is
            return
        camera.center, camera.zoom = tuple(centre), camera.zoom * zoom
