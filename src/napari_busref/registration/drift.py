"""The drift of a series: a robust local-linear model of where its frames lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_busref.registration.quality import INITIAL_RETURNED, Quality
from napari_busref.transforms.transform import Transform

__all__ = ["Drift", "RegisteredFrame"]

_WINDOW = 10  # frames on each side: a run of five wrong ones stays a minority
_SMOOTH = 5  # of them, nearest to a fitting frame, give its place: curves are not cut
_FEW = 5  # fewer frames give no slope, and no outliers
_OFF = 4.0  # standard deviations
_STEP = 2.0  # times the spread about the line of one side; else both sides give a line
_MIN_SD = 0.25  # fixed px; a smaller spread is below what a registration resolves
_GRID = 5  # points along each side, which give the affine of a displacement field

Corners = NDArray[np.float64]  # (4, 2): where the corners of the fixed image lie
Times = NDArray[np.int64]  # numbers of frames


class RegisteredFrame(NamedTuple):
    """A registered frame of a series: transform, quality and reconstructible mask."""

    transform: Transform
    quality: Quality
    mask: NDArray[np.bool_]


class Drift:
    """A model of the drift, from the reliable frames of a series.

    The corners of the fixed image stand for the six affine parameters. For each frame, a line
    is fitted to the ten reliable frames before it, after it, and on both sides, by repeated
    medians [1]_. A frame fits when it lies near one of the three lines, so a step is no outlier.

    Parameters
    ----------
    frames : mapping
        From the number of a frame to its result.

    Attributes
    ----------
    sd : float
        Robust standard deviation of the reliable frames from the model, in fixed pixels.

    References
    ----------
    .. [1] A. F. Siegel, "Robust regression using repeated medians", Biometrika 69 (1982).
    """

    def __init__(self, frames: Mapping[int, RegisteredFrame]) -> None:
        self._frames = dict(frames)
        self._times = np.array(sorted(n for n, one in frames.items() if one.quality.reliable))
        affines = {n: _affine_of(frames[n].transform) for n in self._times}
        self._corners = {n: _corners(one, self._shape) for n, one in affines.items()}
        areas = [abs(np.linalg.det(affine[:2, :2])) for affine in affines.values()]
        self._scale = float(np.sqrt(np.median(areas))) if areas else 1.0
        apart = [self._apart(n, self._corners[n]) for n in self._times]
        self.sd = max(1.4826 * float(np.median(apart)), _MIN_SD) if apart else _MIN_SD
        self._known = len(self._times) >= _FEW
        off = np.array([self._known and self._is_off(px) for px in apart], bool)
        self._off = set(self._times[off])
        self._fitting = self._times[~off]

    def to_repeat(self) -> list[int]:
        """The frames to register again: not reliable, or beyond four standard deviations."""
        if not len(self._times):
            return []
        return [n for n in self._frames if n in self._off or n not in self._corners]

    def starts(self, frame: int) -> list[Transform]:
        """Where a frame may lie by the model, without the frame itself: the likeliest first.

        Where its neighbours on both sides differ, as at a step, each is one of them.
        """
        found = [self._between(frame)]
        sides = [self._corners[n] for n in self._neighbours(frame)]
        if len(sides) == 2 and self._is_off(_distance(*sides) / self._scale):
            found += sides
        return [self._through(frame, corners) for corners in found]

    def centre(self, frame: int) -> NDArray[np.float64]:
        """Where the model puts the centre of the fixed image, (row, col) in moving pixels."""
        if not len(self._times):
            return _corners(_affine_of(self._frames[frame].transform), self._shape).mean(0)
        fits = frame in self._corners and frame not in self._off
        return (self._model(frame) if fits else self._between(frame)).mean(0)

    def better(self, frame: int, one: RegisteredFrame, other: RegisteredFrame) -> RegisteredFrame:
        """The more trustworthy of two results: of two reliable ones, that nearer to the model."""
        good = one.quality.reliable, other.quality.reliable
        if good == (True, True):
            near = [self._distance(frame, result) for result in (one, other)]
            return one if near[0] <= near[1] else other
        if good == (False, False):
            return max(one, other, key=lambda result: result.quality.score)
        return one if good[0] else other

    def gaps(self) -> dict[int, RegisteredFrame]:
        """Frames to take from the model, with that as a reason.

        Nothing was found in them, or they are neither reliable nor near the model.
        """
        found = {}
        for n, frame in self._frames.items():
            quality = frame.quality
            if quality.reliable or not len(self._times):
                continue
            apart = self._distance(n, frame)
            if quality.status == "registered" and not (self._known and self._is_off(apart)):
                continue
            reasons = [one.removesuffix(INITIAL_RETURNED) for one in quality.reasons]
            if quality.status == "registered":
                reasons.append(f"it lies {apart:.0f} px beside the drift of the others")
            note = "the transform is interpolated from other frames"
            found[n] = RegisteredFrame(
                self._through(n, self._between(n)),
                replace(quality, status="not registered", score=0.0, reasons=(*reasons, note)),
                np.zeros_like(frame.mask),
            )
        return found

    def _through(self, frame: int, corners: Corners) -> Transform:
        """The transform of a fitting neighbour, moved to these corners."""
        neighbours = self._neighbours(frame)
        nearest = self._frames[min(neighbours, key=lambda n: abs(n - frame))].transform
        moved = _affine_through(_corners(_affine_of(nearest), self._shape), corners)
        shape = nearest.moving_shape
        return nearest.compose(Transform(moved, fixed_shape=shape, moving_shape=shape))

    @property
    def _shape(self) -> tuple[int, int]:
        return next(iter(self._frames.values())).transform.fixed_shape

    def _is_off(self, px: float) -> bool:
        return px > _OFF * self.sd

    def _distance(self, frame: int, result: RegisteredFrame) -> float:
        return self._apart(frame, _corners(_affine_of(result.transform), self._shape))

    def _apart(self, frame: int, corners: Corners) -> float:
        """Distance from the nearest line, in fixed pixels; 0 where there is none."""
        lines = self._lines(*self._beside(frame, self._times))
        return min((_distance(one.at(frame), corners) for one in lines), default=0.0) / self._scale

    def _lines(self, before: Times, after: Times) -> list[_Line]:
        """The lines of the frames before, after and around a frame."""
        sides = [side for side in (before, after) if len(side)]
        if len(sides) == 2:
            sides.append(np.unique(np.concatenate(sides)))
        return [_Line.through(side, self._corners) for side in sides]

    def _model(self, frame: int) -> Corners:
        """The line through a fitting frame and both sides; at a step, its own side's."""
        before, after = self._beside(frame, self._fitting)
        sides = np.append(before[-_SMOOTH:], frame), np.append(frame, after[:_SMOOTH])
        own, (*single, both) = self._corners[frame], self._lines(*sides)
        single = [line for line in single if line.frames >= _FEW]
        if not single:
            return own
        if both.spread <= _STEP * min(line.spread for line in single):
            return both.at(frame)
        return min((line.at(frame) for line in single), key=lambda line: _distance(line, own))

    def _between(self, frame: int) -> Corners:
        """Interpolate between the fitting neighbours; at an end, follow their line."""
        neighbours = self._neighbours(frame)
        known = [self._corners[n] for n in neighbours]
        if len(known) == 2:
            (first, last), (one, other) = neighbours, known
            share = (frame - first) / (last - first)
            return (1 - share) * one + share * other
        (at,) = neighbours
        times = self._beside(frame, self._fitting)[0 if at < frame else 1]
        line = _Line.through(times, self._corners)
        return known[0] + line.at(frame) - line.at(at)

    def _neighbours(self, frame: int) -> list[int]:
        """The nearest fitting frames before and after a frame; itself where it is alone."""
        before, after = self._beside(frame, self._fitting)
        return [*before[-1:], *after[:1]] or [frame]

    def _beside(self, frame: int, times: Times) -> tuple[Times, Times]:
        return times[times < frame][-_WINDOW:], times[times > frame][:_WINDOW]


class _Line(NamedTuple):
    """A line through the corners of some frames."""

    frames: int  # how many
    middle: float  # of them
    corners: Corners  # there
    slope: Corners  # of a frame
    reach: float  # frames from the middle; beyond, it is level
    spread: float  # median distance of the frames

    @classmethod
    def through(cls, times: Times, corners: Mapping[int, Corners]) -> _Line:
        """Fit repeated medians; a few frames give a level line."""
        values = np.array([corners[n] for n in times])
        middle = float(np.median(times))
        offsets = (times - middle)[:, None, None]
        slope = np.zeros_like(values[0])
        if len(times) >= _FEW:
            steps = (times[:, None] - times)[..., None, None].astype(float)
            steps[range(len(times)), range(len(times))] = np.nan
            slope = np.median(np.nanmedian((values[:, None] - values) / steps, axis=1), axis=0)
        at = np.median(values - slope * offsets, axis=0)
        apart = [
            _distance(one, at + slope * off) for one, off in zip(values, offsets, strict=True)
        ]
        reach = float(np.ptp(times)) / 2 + _WINDOW
        return cls(len(times), middle, at, slope, reach, float(np.median(apart)))

    def at(self, frame: int) -> Corners:
        """The corners that it predicts for a frame."""
        offset = float(np.clip(frame - self.middle, -self.reach, self.reach))
        return self.corners + self.slope * offset


def _affine_of(transform: Transform) -> NDArray[np.float64]:
    """The affine (3, 3) nearest to a transform."""
    if transform.displacement is None:
        return transform.affine
    ticks = [np.linspace(0, size - 1, _GRID) for size in transform.fixed_shape]
    points = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 2)
    moved = transform.points(points)
    shapes = {"fixed_shape": transform.fixed_shape, "moving_shape": transform.moving_shape}
    return Transform.from_points(points, moved, **shapes).affine


def _corners(affine: NDArray[np.float64], shape: tuple[int, int]) -> Corners:
    rows, cols = (size - 1 for size in shape)
    corners = np.array([(0, 0), (0, cols), (rows, cols), (rows, 0)], float)
    return np.asarray(corners @ affine[:2, :2].T + affine[:2, 2])


def _affine_through(corners: Corners, onto: Corners) -> NDArray[np.float64]:
    """The affine (3, 3) that takes one parallelogram to another."""
    affine = np.eye(3)
    design = np.column_stack([corners, np.ones(len(corners))])
    affine[:2] = np.linalg.lstsq(design, onto, rcond=None)[0].T
    return affine


def _distance(one: Corners, other: Corners) -> float:
    """Root of the mean squared distance of the corners."""
    return float(np.sqrt(((one - other) ** 2).sum(-1).mean()))
