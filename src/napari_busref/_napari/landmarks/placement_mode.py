"""The mode in which clicks place landmarks on two images in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QObject, QTimer, Signal

from napari_busref._napari.landmarks.pairs import LandmarkPairs, Side
from napari_busref._napari.landmarks.result import expected_transform, view_change
from napari_busref._napari.landmarks.side_by_side import SideBySide
from napari_busref._napari.layers.planes import Plane, shown_plane
from napari_busref._napari.layers.trades import worded
from napari_busref._napari.widgets.camera import camera_of

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["PlacementMode"]


class PlacementMode(QObject):
    """Lets the user click the same point on one image and then on the other.

    Parameters
    ----------
    viewer : napari.Viewer
    parent : QObject

    Attributes
    ----------
    turn : str or None
        The side of the next landmark; None while the mode is off.
    changed : Signal
        Emitted when `turn` has changed.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._pairs: LandmarkPairs | None = None
        self._alone = True
        self._beside = False
        self._arranged: SideBySide | None = None
        self._visible: list[tuple[Layer, bool]] = []  # of the images, when the mode began
        self._next: tuple[Side, Side, int] | None = None  # newest landmark's side, next, number
        self._later = QTimer(self)  # napari is still busy with the point that was added
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._take_turn)
        self.turn: Side | None = None

    def begin(self, pairs: LandmarkPairs) -> None:
        """Start with the first missing landmark."""
        self._pairs = pairs
        self._visible = [
            (layer, layer.visible) for layer in self._viewer.layers if isinstance(layer, Image)
        ]
        self._rearrange(pairs if self._beside else None)
        self._set_turn(pairs.next_missing()[0])

    def end(self) -> None:
        """Leave the mode and restore the visibility of all layers."""
        self._rearrange(None)
        pairs, self._pairs, self.turn = self._pairs, None, None
        if pairs is not None:
            for points in pairs.points.values():
                if points in self._viewer.layers:
                    points.visible = True  # first: napari then restores the previous tool
                    points.mode = "pan_zoom"
        for layer, visible in self._visible:
            if layer in self._viewer.layers:
                layer.visible = visible
        self._visible = []
        self.changed.emit()

    def show_alone(self, on: bool) -> None:
        """Show only the image of the next landmark, or both."""
        self._alone = on
        if self.turn is not None:
            self._set_turn(self.turn)

    def show_beside(self, on: bool) -> None:
        """Show both images beside each other, or in one place."""
        self._beside = on
        if self.turn is not None:
            self._rearrange(self._pairs if on else None)
            self._set_turn(self.turn)

    def point_at(self, side: Side) -> None:
        """Let the next click mark an image, in whatever order; beside each other both take one."""
        if self._arranged is not None and side != self.turn:
            self._set_turn(side)

    def resume(self) -> None:
        """Go on with the first missing landmark, after landmarks came or went by Undo."""
        if self._pairs is not None:
            self._next = None
            self._set_turn(self._pairs.next_missing()[0])

    def _rearrange(self, pairs: LandmarkPairs | None) -> None:
        if self._arranged is not None:
            self._arranged.end()
            self._arranged = None
        if pairs is not None:
            self._arranged = SideBySide(self._viewer, pairs, self.point_at)

    def added(self, side: Side, number: int) -> None:
        """Go on to the next landmark after one was placed."""
        if self._pairs is not None:
            self._next = (side, self._pairs.side_after(side, number), number)
            self._later.start()

    def instruction(self) -> str:
        """What the user should click; empty while the mode is off."""
        if self._pairs is None or self.turn is None:
            return ""
        numbers = self._pairs.numbers(self.turn)
        waiting = [one for one in self._pairs.all_numbers() if one not in numbers]
        number = min(waiting) if waiting else self._pairs.next_missing()[1]
        image = self._pairs.images[self.turn].name
        words = worded(f"on the {{{self.turn}_image}}")
        return f"Click landmark {number} {words}, {image!r}."

    def _take_turn(self) -> None:
        if self._next is None or self._pairs is None:
            return
        (side, turn, number), self._next = self._next, None
        if self._arranged is not None:
            self._arranged.align()
        elif turn != side:
            self._follow_view(self._pairs, side, turn, number)
        self._set_turn(turn)

    def _set_turn(self, side: Side) -> None:
        pairs = self._pairs
        if pairs is None:
            return
        self.turn = side
        for layer, visible in self._visible:
            if layer in self._viewer.layers:
                layer.visible = self._shows(layer, side, visible)
        for other, points in pairs.points.items():
            points.visible = other == side or self._beside or not self._alone
        self._viewer.layers.selection.active = pairs.points[side]
        for other, points in pairs.points.items():
            points.mode = "add" if other == side else "pan_zoom"
        self.changed.emit()

    def _shows(self, layer: Layer, side: Side, visible: bool) -> bool:
        assert self._pairs is not None
        if self._beside:
            return layer in self._pairs.images.values()
        shown = layer == self._pairs.images[side]
        return bool(shown if self._alone else shown or visible)

    def _follow_view(self, pairs: LandmarkPairs, side: Side, turn: Side, number: int) -> None:
        """Move the camera to show the point of a landmark at the same spot on the next image."""
        if (point := pairs.position(side, number)) is None:
            return
        camera = camera_of(self._viewer)
        centre = np.array(camera.center, dtype=float)
        try:
            planes: dict[Side, Plane] = {
                one: shown_plane(image, self._viewer) for one, image in pairs.images.items()
            }
            fixed, moving = planes["fixed"], planes["moving"]
            transform = expected_transform(fixed, moving, *pairs.matched(fixed, moving)[1:])
            centre[-2:], zoom = view_change(
                transform,
                point[list(planes[side].axes)],
                (planes[side], planes[turn]),
                centre[-2:],
                inverse=side == "moving",
            )
        except ValueError:  # no transform to follow: the camera stays
            return
        camera.center, camera.zoom = tuple(centre), camera.zoom * zoom
