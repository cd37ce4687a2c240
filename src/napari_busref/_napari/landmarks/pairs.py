"""Landmarks on two image layers: two Points layers with common numbers and colours.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from napari.layers import Image, Layer, Points
from napari.utils.colormaps.standardize_color import transform_color
from numpy.typing import NDArray

from napari_busref._napari.layers.planes import Plane

__all__ = [
    "COLOURS",
    "LANDMARKS_KEY",
    "LandmarkPairs",
    "PairsStep",
    "Side",
    "colour_of",
    "renumbered",
    "without_overlap",
]

Side = Literal["fixed", "moving"]

#: Marks the Points layers of landmarks: ``layer.metadata[LANDMARKS_KEY]``.
LANDMARKS_KEY = "napari-busref-landmarks"

#: Landmark n has colour n - 1 on both images, modulo the number of colours.
COLOURS = (
    "#ffd92f",
    "#00c8ff",
    "#ff5db1",
    "#7fe36b",
    "#ff9b3d",
    "#b79cff",
    "#00e0b8",
    "#ff6b5e",
    "#c8e600",
    "#6fa8ff",
)

_BORDER, _WORST_BORDER = "black", "red"
_TEXT_SIZE = 12  # points
_DIGIT_WIDTH, _LINE_HEIGHT = 11.0, 18.0  # canvas pixels of text of that size
_LABEL_DISTANCE = 0.4  # from a landmark to its number, as a fraction of the landmark's size
_LABEL_DIRECTION: dict[Side, tuple[int, int]] = {  # rows, columns
    "fixed": (-1, 1),
    "moving": (1, -1),
}
_MOVES = ("scale", "translate", "rotate", "shear", "affine", "units")
_SPATIAL = (*_MOVES, "axis_labels")


_State = dict[Side, tuple[NDArray[np.float64], list[int]]]  # positions and numbers


class LandmarkPairs:
    """Two Points layers, one on the fixed and one on the moving image layer.

    Points with the same ``number`` among their features are one landmark. A new point gets the
    lowest number that only the other image has, else the lowest unused number.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``. Points layers of an earlier pairing of the same two images are used
        again; else new ones are added on top.
    fixed, moving : Image
        The points layers follow their position.
    changed : callable, optional
        Called without arguments after every change of the points.
    added : callable, optional
        Called with the side and the number of an added point.
    stepped : callable, optional
        Called with a `PairsStep` that undoes the change, after every change by the user.

    Attributes
    ----------
    images : dict
        Side to image layer.
    points : dict
        Side to points layer.
    """

    def __init__(
        self,
        layers: MutableSequence[Layer],
        fixed: Image,
        moving: Image,
        *,
        changed: Callable[[], None] | None = None,
        added: Callable[[Side, int], None] | None = None,
        stepped: Callable[[PairsStep], None] | None = None,
    ) -> None:
        self.images: dict[Side, Image] = {"fixed": fixed, "moving": moving}
        self._changed, self._added, self._stepped = changed, added, stepped
        self._busy = False
        self.points: dict[Side, Points] = {}
        for side, existing in [(side, self._existing(layers, side)) for side in self.images]:
            if existing is None:
                existing = self._make(side)
                layers.append(existing)
            self.points[side] = existing
        for side in self.images:
            self._number(side)
        self._last = self._state()
        # napari references methods weakly: this object may be deleted before the layers
        self.points["fixed"].events.data.connect(self._fixed_changed)
        self.points["moving"].events.data.connect(self._moving_changed)
        for name in _MOVES:
            getattr(fixed.events, name).connect(self._follow)
            getattr(moving.events, name).connect(self._follow)
        self._follow()

    def close(self) -> None:
        """Disconnect from the layers."""
        self.points["fixed"].events.data.disconnect(self._fixed_changed)
        self.points["moving"].events.data.disconnect(self._moving_changed)
        for image in self.images.values():
            for name in _MOVES:
                getattr(image.events, name).disconnect(self._follow)

    def numbers(self, side: Side) -> list[int]:
        """Numbers of the points on one image, in their order in the layer."""
        return [int(number) for number in self.points[side].features["number"]]

    def all_numbers(self) -> list[int]:
        """Numbers that occur on either image, ascending."""
        return sorted({*self.numbers("fixed"), *self.numbers("moving")})

    def position(self, side: Side, number: int) -> NDArray[np.float64] | None:
        """Position of a landmark on one image, in pixels of its layer; None without one."""
        numbers = self.numbers(side)
        if number not in numbers:
            return None
        return np.array(self.points[side].data[numbers.index(number)], dtype=float)

    def matched(
        self, fixed: Plane, moving: Plane
    ) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
        """Return the landmarks that are on two planes.

        Parameters
        ----------
        fixed, moving : Plane
            Of the image layers. Landmarks on other planes of a stack are left out.

        Returns
        -------
        numbers : list of int
        fixed_points, moving_points : ndarray, shape (N, 2)
            (row, col) in pixels.
        """
        numbers, rows = [], []
        for number in self.all_numbers():
            here = [
                point[list(plane.axes)]
                for side, plane in zip(self.images, (fixed, moving), strict=True)
                if (point := self.position(side, number)) is not None and _is_on(point, plane)
            ]
            if len(here) == 2:
                numbers.append(number)
                rows.append(here)
        pairs = np.array(rows, dtype=float).reshape(-1, 2, 2)
        return numbers, pairs[:, 0], pairs[:, 1]

    def add(
        self,
        fixed: Plane,
        moving: Plane,
        fixed_points: NDArray[np.float64],
        moving_points: NDArray[np.float64],
    ) -> list[int]:
        """Add landmarks that are on two planes.

        Parameters
        ----------
        fixed, moving : Plane
            Of the image layers.
        fixed_points, moving_points : ndarray, shape (N, 2)
            (row, col) in pixels.

        Returns
        -------
        list of int
            Their numbers, above all earlier ones.
        """
        first = max(self.all_numbers(), default=0) + 1
        new = list(range(first, first + len(fixed_points)))
        self._busy = True
        try:
            sides: tuple[Side, Side] = ("fixed", "moving")
            for side, plane, points in zip(
                sides, (fixed, moving), (fixed_points, moving_points), strict=True
            ):
                layer = self.points[side]
                numbers = self.numbers(side) + new
                placed = np.tile(plane.start, (len(points), 1))
                placed[:, list(plane.axes)] = points
                layer.add(placed)
                layer.features = _features(numbers)
                layer.face_color = transform_color([colour_of(number) for number in numbers])
        finally:
            self._busy = False
        self._tell()
        return new

    def remove(self, *numbers: int) -> None:
        """Remove landmarks from both images, in one step."""
        self._busy = True
        try:
            for side in self.images:
                there = self.numbers(side)
                self.points[side].remove([there.index(one) for one in numbers if one in there])
        finally:
            self._busy = False
        self._tell()

    def side_after(self, side: Side, number: int) -> Side:
        """The side to mark after a landmark: the one that lacks it, else the fixed one."""
        other: Side = "moving" if side == "fixed" else "fixed"
        return "fixed" if number in self.numbers(other) else other

    def next_missing(self) -> tuple[Side, int]:
        """Side and number of the next landmark to place."""
        fixed, moving = set(self.numbers("fixed")), set(self.numbers("moving"))
        if fixed - moving:
            return "moving", min(fixed - moving)
        if moving - fixed:
            return "fixed", min(moving - fixed)
        return "fixed", _lowest_unused(fixed)

    def mark_worst(self, number: int | None) -> None:
        """Draw one landmark with a red border, on both images."""
        for side, layer in self.points.items():
            colours = [_WORST_BORDER if one == number else _BORDER for one in self.numbers(side)]
            if colours:
                layer.border_color = colours

    def thin_labels(self, zoom: float, first: Sequence[int] = ()) -> None:
        """Hide numbers that would overlap others at a zoom.

        Parameters
        ----------
        zoom : float
            Canvas pixels per unit of the world.
        first : sequence of int
            Landmarks whose numbers take precedence. After them, lower numbers do.
        """
        numbers, sides, boxes = [], [], []
        for side, layer in self.points.items():
            if not layer.visible:
                continue
            offset = _label_offset(layer.ndim, layer.current_size, side)
            down, right = _LABEL_DIRECTION[side]
            for number, point in zip(self.numbers(side), layer.data, strict=True):
                row, col = zoom * np.asarray(layer.data_to_world(point + offset))[-2:]
                width = _DIGIT_WIDTH * len(str(number))
                numbers.append(number)
                sides.append(side)
                boxes.append(
                    [
                        row - _LINE_HEIGHT * (down < 0),
                        col - width * (right < 0),
                        _LINE_HEIGHT,
                        width,
                    ]
                )
        if not numbers:
            return
        preferred = list(first)
        rank = [
            preferred.index(one) if one in preferred else len(preferred) + one for one in numbers
        ]
        shown = without_overlap(np.array(boxes), np.argsort(rank, kind="stable"))
        labels = np.where(shown, [str(number) for number in numbers], "")
        for side, layer in self.points.items():
            own = list(labels[np.array(sides) == side])
            if layer.visible and own != list(layer.features["label"]):
                layer.features = _features(self.numbers(side), own)

    # -- inside ---------------------------------------------------------------------------------

    def _tag(self, side: Side) -> dict[str, str]:
        """Metadata that identify a points layer of this pair."""
        return {one: image.name for one, image in self.images.items()} | {"side": side}

    def _existing(self, layers: Sequence[Layer], side: Side) -> Points | None:
        for layer in layers:
            if isinstance(layer, Points) and layer.metadata.get(LANDMARKS_KEY) == self._tag(side):
                return layer
        return None

    def _make(self, side: Side) -> Points:
        image = self.images[side]
        extent = image.data[0].shape if image.multiscale else image.data.shape
        size = max(extent[: image.ndim][-2:]) / 30
        return Points(
            ndim=image.ndim,
            name=f"landmarks on {image.name}",
            features=_features([]),
            symbol="cross",
            size=size,
            border_width=0.08,
            border_color=_BORDER,
            text={
                "string": "{label}",
                "color": {"feature": "colour", "fallback": "white"},
                "size": _TEXT_SIZE,
                # above the landmark on the fixed image and below it on the moving image: both
                # numbers of a close pair stay readable
                "anchor": "upper_left" if side == "fixed" else "lower_right",
                "translation": _label_offset(image.ndim, size, side),
            },
            metadata={LANDMARKS_KEY: self._tag(side)},
            **{name: getattr(image, name) for name in _SPATIAL},
        )

    def _follow(self, event: Any = None) -> None:
        for side, image in self.images.items():
            for name in _SPATIAL:
                setattr(self.points[side], name, getattr(image, name))

    def _fixed_changed(self, event: Any) -> None:
        self._points_changed("fixed", event)

    def _moving_changed(self, event: Any) -> None:
        self._points_changed("moving", event)

    def _points_changed(self, side: Side, event: Any) -> None:
        action = str(getattr(event, "action", "changed"))
        if self._busy or action in ("adding", "removing", "changing"):
            return
        self._busy = True
        try:
            new = self._number(side)
        finally:
            self._busy = False
        self._tell()
        if self._added is not None and len(new) == 1:
            self._added(side, new[0])

    def _state(self) -> _State:
        # copies: napari moves points in place
        return {
            side: (np.array(layer.data, float), self.numbers(side))
            for side, layer in self.points.items()
        }

    def _tell(self) -> None:
        """Report a change, and the step that undoes it."""
        before, self._last = self._last, self._state()
        if self._stepped is not None and not _same(before, self._last):
            self._stepped(PairsStep(self, before))
        if self._changed is not None:
            self._changed()

    def _restore(self, state: _State) -> None:
        self._busy = True
        try:
            for side, (positions, numbers) in state.items():
                layer, shown = self.points[side], self.points[side].visible
                layer.visible = True  # napari's text of a hidden layer keeps the old points
                layer.selected_data = set()
                layer.data = positions.copy()
                layer.features = _features(numbers)
                if numbers:
                    layer.face_color = transform_color([colour_of(number) for number in numbers])
                layer.visible = shown
        finally:
            self._busy = False
        self._last = self._state()
        if self._changed is not None:
            self._changed()

    def _number(self, side: Side) -> list[int]:
        """Give every point of a layer a unique number, and return the new numbers."""
        layer = self.points[side]
        other = self.points.get("moving" if side == "fixed" else "fixed")
        others = [] if other is None else list(other.features["number"])
        given = list(layer.features["number"]) if "number" in layer.features else []
        given += [0] * (len(layer.data) - len(given))
        numbers = renumbered(given, others)
        if len(numbers):
            layer.features = _features(numbers)
            layer.face_color = transform_color([colour_of(number) for number in numbers])
        # 0: a new point has no number yet
        layer.feature_defaults = {"number": 0, "label": "", "colour": COLOURS[0]}
        return [now for now, before in zip(numbers, given, strict=True) if now != before]


@dataclass(frozen=True, eq=False)
class PairsStep:
    """A step of the user that can be undone: placed, moved, deleted or opened landmarks."""

    pairs: LandmarkPairs
    before: _State

    def exchange(self, layers: Any = None) -> PairsStep:
        """Restore the landmarks, and return the step that leads back."""
        back = PairsStep(self.pairs, self.pairs._state())
        self.pairs._restore(self.before)
        return back


def _same(first: _State, second: _State) -> bool:
    return all(
        first[side][1] == second[side][1] and np.array_equal(first[side][0], second[side][0])
        for side in first
    )


def renumbered(numbers: Sequence[float], others: Sequence[float]) -> list[int]:
    """Give a number to each point that has none.

    Parameters
    ----------
    numbers : sequence of number
        Of the points of one image. 0, NaN and repetitions count as none.
    others : sequence of number
        Of the points of the other image.

    Returns
    -------
    list of int
        New numbers are the lowest one that only `others` has, else the lowest unused one.
    """
    kept: list[int | None] = []
    for number in numbers:
        valid = np.isfinite(number) and number >= 1 and int(number) not in kept
        kept.append(int(number) if valid else None)
    theirs = {int(number) for number in others if np.isfinite(number) and number >= 1}
    for index, value in enumerate(kept):
        if value is None:
            own = {one for one in kept if one is not None}
            kept[index] = min(theirs - own) if theirs - own else _lowest_unused(own | theirs)
    return [value for value in kept if value is not None]


def colour_of(number: int) -> str:
    """The colour of a landmark, on both images."""
    return COLOURS[(number - 1) % len(COLOURS)]


def without_overlap(
    boxes: NDArray[np.float64], order: Sequence[int] | NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Choose non-overlapping boxes, greedily.

    Parameters
    ----------
    boxes : ndarray, shape (N, 4)
        Top, left, height and width of each.
    order : sequence of int
        Indices by descending priority.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    chosen = np.zeros(len(boxes), bool)
    corners = boxes[:, :2]
    ends = corners + boxes[:, 2:]
    for one in order:
        apart = (ends[one] <= corners[chosen]) | (ends[chosen] <= corners[one])
        chosen[one] = bool(apart.any(axis=1).all())
    return chosen


def _lowest_unused(numbers: set[int]) -> int:
    return next(number for number in range(1, len(numbers) + 2) if number not in numbers)


def _label_offset(ndim: int, size: float, side: Side) -> NDArray[np.float64]:
    """From a landmark to the nearest corner of its number, in pixels of the layer."""
    offset = np.zeros(ndim)
    offset[-2:] = _LABEL_DISTANCE * size * np.array(_LABEL_DIRECTION[side])
    return offset


def _features(
    numbers: Sequence[int], labels: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    shown = [str(number) for number in numbers] if labels is None else labels
    return {
        "label": np.array(shown, dtype=object),
        "number": np.array(numbers, dtype=int),
        "colour": np.array([colour_of(number) for number in numbers], dtype=object),
    }


def _is_on(point: NDArray[np.float64], plane: Plane) -> bool:
    """Whether a point of a layer is on one of its planes."""
    return all(
        int(np.floor(point[axis] + 0.5)) == number
        for axis, number in zip(plane.hidden, plane.position, strict=True)
    )
