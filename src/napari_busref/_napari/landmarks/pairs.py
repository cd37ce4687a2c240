"""Places marked on two image layers, as a pair of Points layers that number and colour alike.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
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
    "Side",
    "colour_of",
    "free_of_overlap",
    "renumbered",
]

Side = Literal["fixed", "moving"]

#: Marks the Points layers of landmarks: ``layer.metadata[LANDMARKS_KEY]``.
LANDMARKS_KEY = "napari-busref-landmarks"

#: Landmark n has colour n - 1 on both images, and again from the beginning after the last.
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

_PLAIN, _WORST = "black", "red"
_TEXT = 12  # points
_DIGIT, _LINE = 11.0, 18.0  # canvas pixels of a number of that size
_BESIDE = 0.4  # sizes of a landmark that its number is away
_AWAY: dict[Side, tuple[int, int]] = {"fixed": (-1, 1), "moving": (1, -1)}  # rows, columns
_SPATIAL = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
_MOVES = ("scale", "translate", "rotate", "shear", "affine", "units")


class LandmarkPairs:
    """Two Points layers, one on the fixed and one on the moving image layer.

    Points with the same ``number`` among their features mark the same place. New points get a
    number by themselves: the least that only the other image has, else the least that none has.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``. The points layers of an earlier pairing of the same two images are used
        again; else new ones are added on top.
    fixed, moving : Image
        The points layers are put where these are, and follow when they are moved.
    changed : callable, optional
        Called without arguments after every change of the points.
    added : callable, optional
        Called with the side and the number of a point that was added.

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
    ) -> None:
        self.images: dict[Side, Image] = {"fixed": fixed, "moving": moving}
        self._changed, self._added = changed, added
        self._busy = False
        self.points: dict[Side, Points] = {}
        found: dict[Side, Points | None] = {
            side: self._existing(layers, side) for side in self.images
        }
        for side in self.images:
            layer = found[side]
            if layer is None:
                layer = self._make(side)
                layers.append(layer)
            self.points[side] = layer
        for side in self.images:
            self._number(side)
        # methods, which napari holds weakly: this object may go while the layers stay
        self.points["fixed"].events.data.connect(self._fixed_changed)
        self.points["moving"].events.data.connect(self._moving_changed)
        for name in _MOVES:
            getattr(fixed.events, name).connect(self._follow)
            getattr(moving.events, name).connect(self._follow)
        self._follow()

    def close(self) -> None:
        """Look after the layers no more."""
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

    def place(self, side: Side, number: int) -> NDArray[np.float64] | None:
        """Where a landmark is on one image, in pixels of its layer; None where it is not."""
        numbers = self.numbers(side)
        if number not in numbers:
            return None
        return np.array(self.points[side].data[numbers.index(number)], dtype=float)

    def matched(
        self, fixed: Plane, moving: Plane
    ) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
        """Return the pairs on two planes.

        Parameters
        ----------
        fixed, moving : Plane
            Of the image layers. Of a stack only what was marked on these planes counts.

        Returns
        -------
        numbers : list of int
        fixed_points, moving_points : ndarray, shape (N, 2)
            (row, col) in pixels.
        """
        numbers, rows = [], []
        for number in self.all_numbers():
            places = self.place("fixed", number), self.place("moving", number)
            here = [
                place[list(plane.axes)]
                for place, plane in zip(places, (fixed, moving), strict=True)
                if place is not None and _on(place, plane)
            ]
            if len(here) == 2:
                numbers.append(number)
                rows.append(here)
        pairs = np.array(rows, dtype=float).reshape(-1, 2, 2)
        return numbers, pairs[:, 0], pairs[:, 1]

    def remove(self, number: int) -> None:
        """Remove a landmark from both images."""
        for side in self.images:
            numbers = self.numbers(side)
            if number in numbers:
                self.points[side].remove([numbers.index(number)])

    def turn_after(self, side: Side, number: int) -> Side:
        """Whose turn it is after a landmark was placed: the image that lacks it, then fixed."""
        other: Side = "moving" if side == "fixed" else "fixed"
        return "fixed" if number in self.numbers(other) else other

    def missing(self) -> tuple[Side, int]:
        """The image and the number of the landmark to be placed next."""
        fixed, moving = set(self.numbers("fixed")), set(self.numbers("moving"))
        if fixed - moving:
            return "moving", min(fixed - moving)
        if moving - fixed:
            return "fixed", min(moving - fixed)
        return "fixed", _least_unused(fixed)

    def mark_worst(self, number: int | None) -> None:
        """Draw one landmark with a red border, on both images."""
        for side, layer in self.points.items():
            colours = [_WORST if one == number else _PLAIN for one in self.numbers(side)]
            if colours:
                layer.border_color = colours

    def thin_labels(self, zoom: float, first: Sequence[int] = ()) -> None:
        """Leave out numbers that would lie on others at this zoom.

        Parameters
        ----------
        zoom : float
            Canvas pixels for one unit of the world.
        first : sequence of int
            Landmarks whose numbers are shown in any case that there is room; then come the lower
            numbers.
        """
        numbers, owners, boxes = [], [], []
        for side, layer in self.points.items():
            if not layer.visible:
                continue
            beside = _beside(layer.ndim, layer.current_size, side)
            for number, place in zip(self.numbers(side), layer.data, strict=True):
                row, col = zoom * np.asarray(layer.data_to_world(place + beside))[-2:]
                width = _DIGIT * len(str(number))
                above, after = _AWAY[side]
                numbers.append(number)
                owners.append(side)
                boxes.append([row - _LINE * (above < 0), col - width * (after < 0), _LINE, width])
        if not numbers:
            return
        known = list(first)
        rank = [known.index(one) if one in known else len(known) + one for one in numbers]
        shown = free_of_overlap(np.array(boxes), np.argsort(rank, kind="stable"))
        labels = np.where(shown, [str(number) for number in numbers], "")
        for side, layer in self.points.items():
            mine = list(labels[np.array(owners) == side])
            if layer.visible and mine != list(layer.features["label"]):
                layer.features = _table(self.numbers(side), mine)

    # -- inside ---------------------------------------------------------------------------------

    def _existing(self, layers: Sequence[Layer], side: Side) -> Points | None:
        pair = {one: image.name for one, image in self.images.items()}
        for layer in layers:
            if isinstance(layer, Points) and layer.metadata.get(LANDMARKS_KEY) == pair | {
                "side": side
            }:
                return layer
        return None

    def _make(self, side: Side) -> Points:
        image = self.images[side]
        pair = {one: layer.name for one, layer in self.images.items()}
        extent = image.data[0].shape if image.multiscale else image.data.shape
        size = max(extent[: image.ndim][-2:]) / 30
        return Points(
            ndim=image.ndim,
            name=f"landmarks on {image.name}",
            features=_table([]),
            symbol="cross",
            size=size,
            border_width=0.08,
            border_color=_PLAIN,
            text={
                "string": "{label}",
                "color": {"feature": "colour", "fallback": "white"},
                "size": _TEXT,
                # above a landmark on the fixed image, below one on the moving image: of a pair
                # that lies close together both can be read
                "anchor": "upper_left" if side == "fixed" else "lower_right",
                "translation": _beside(image.ndim, size, side),
            },
            metadata={LANDMARKS_KEY: pair | {"side": side}},
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
        if self._changed is not None:
            self._changed()
        if self._added is not None and len(new) == 1:
            self._added(side, new[0])

    def _number(self, side: Side) -> list[int]:
        """Give every point of a layer a number of its own, and return the new ones."""
        layer = self.points[side]
        other = self.points.get("moving" if side == "fixed" else "fixed")
        others = [] if other is None else list(other.features["number"])
        given = list(layer.features["number"]) if "number" in layer.features else []
        given += [0] * (len(layer.data) - len(given))
        numbers = renumbered(given, others)
        if len(numbers):
            layer.features = _table(numbers)
            layer.face_color = transform_color([colour_of(number) for number in numbers])
        layer.feature_defaults = {
            "number": 0,
            "label": "",
            "colour": COLOURS[0],
        }  # a new point has no number
        return [now for now, before in zip(numbers, given, strict=True) if now != before]


def renumbered(numbers: Sequence[float], others: Sequence[float]) -> list[int]:
    """Give a number to each point that has none of its own.

    Parameters
    ----------
    numbers : sequence of number
        Of the points of one image. 0, NaN and repetitions are no numbers.
    others : sequence of number
        Of the points of the other image.

    Returns
    -------
    list of int
        The least number that is only among `others`, else the least that is nowhere.
    """
    kept: list[int | None] = []
    for number in numbers:
        valid = np.isfinite(number) and number >= 1 and int(number) not in kept
        kept.append(int(number) if valid else None)
    theirs = {int(number) for number in others if np.isfinite(number) and number >= 1}
    for index, value in enumerate(kept):
        if value is None:
            mine = {one for one in kept if one is not None}
            kept[index] = min(theirs - mine) if theirs - mine else _least_unused(mine | theirs)
    return [value for value in kept if value is not None]


def _least_unused(numbers: set[int]) -> int:
    return next(number for number in range(1, len(numbers) + 2) if number not in numbers)


def colour_of(number: int) -> str:
    """The colour of a landmark, on both images."""
    return COLOURS[(number - 1) % len(COLOURS)]


def _beside(ndim: int, size: float, side: Side) -> NDArray[np.float64]:
    """Where the nearest corner of a number is, seen from its landmark, in pixels of the layer."""
    away = np.zeros(ndim)
    away[-2:] = _BESIDE * size * np.array(_AWAY[side])
    return away


def free_of_overlap(
    boxes: NDArray[np.float64], order: Sequence[int] | NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Choose boxes of which none lies on another.

    Parameters
    ----------
    boxes : ndarray, shape (N, 4)
        Top, left, height and width of each.
    order : sequence of int
        Which is asked first, which next and so on.

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


def _table(numbers: Sequence[int], labels: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    shown = [str(number) for number in numbers] if labels is None else labels
    return {
        "label": np.array(shown, dtype=object),
        "number": np.array(numbers, dtype=int),
        "colour": np.array([colour_of(number) for number in numbers], dtype=object),
    }


def _on(place: NDArray[np.float64], plane: Plane) -> bool:
    """Whether a place in a layer is on a plane of it."""
    return all(
        int(np.floor(place[axis] + 0.5)) == number
        for axis, number in zip(plane.hidden, plane.position, strict=True)
    )
