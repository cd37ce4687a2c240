"""`fit_landmarks`: fit a transform to pairs of landmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RBFInterpolator
from scipy.optimize import least_squares

from napari_busref.transforms.resampling import row_blocks
from napari_busref.transforms.transform import Transform

__all__ = ["MIN_PAIRS", "LandmarkFit", "LandmarkModel", "fit_landmarks", "landmark_transform"]

Array = NDArray[np.float64]
LandmarkModel = Literal["affine", "homography", "thin-plate"]

#: Smallest number of pairs that determines each model.
MIN_PAIRS: dict[LandmarkModel, int] = {"affine": 3, "homography": 4, "thin-plate": 3}

_REQUIREMENTS: dict[LandmarkModel, str] = {
    "affine": "at least 3 pairs that do not lie on one line",
    "homography": "at least 4 pairs of which no 3 lie on one line",
    "thin-plate": "at least 3 pairs that do not lie on one line",
}
_MIN_DISTANCE = 1e-3  # pixels; nearer points coincide
_MIN_ASPECT = 1e-4  # width over length of a point set; below it lies on one line


@dataclass(frozen=True, eq=False)
class LandmarkFit:
    """The result of `fit_landmarks`.

    Attributes
    ----------
    model : str
        ``"affine"``, ``"homography"`` or ``"thin-plate"``.
    errors : ndarray of float64, shape (N, 2)
        From the fitted position of each moving landmark to the landmark, (row, col) in fixed
        pixels: the error in the moving image, mapped back by the affine part. 0 for a thin
        plate, which interpolates every landmark.
    residuals : ndarray of float64, shape (N,)
        Lengths of the errors.
    leave_one_out : ndarray of float64, shape (N,)
        The residual of each pair for a fit to all other pairs. NaN where the others are too few
        or lie on one line.
    worst : int or None
        Index of the pair whose removal reduces the misfit most, for a thin plate the bending.
        None where the pairs do not tell, or all agree.
    transform : Transform
        From the fixed to the moving image, computed at first access. What an affine cannot
        represent is a displacement on the whole fixed grid.
    """

    model: LandmarkModel
    errors: Array
    residuals: Array
    leave_one_out: Array
    worst: int | None
    _map: _Map = field(repr=False)
    _shapes: tuple[tuple[int, int], tuple[int, int]] = field(repr=False)

    def __repr__(self) -> str:
        worst = "" if self.worst is None else f", worst at index {self.worst}"
        return (
            f"<LandmarkFit: {self.model} of {len(self.residuals)} pairs, "
            f"rms {self.rms:.2f} px{worst}>"
        )

    @cached_property
    def transform(self) -> Transform:  # noqa: D102 - an attribute above
        return _as_transform(self._map, self._shapes)

    @property
    def rms(self) -> float:
        """Root mean square of `residuals`."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def folded(self) -> float:
        """Fraction of the fixed image where the transform folds; 0 for a valid one."""
        determinant = self.transform.jacobian_determinant()
        sign = np.sign(np.linalg.det(self.transform.affine[:2, :2]))
        return float(np.mean(determinant * sign <= 0))


def fit_landmarks(
    fixed_points: ArrayLike,
    moving_points: ArrayLike,
    *,
    fixed_shape: tuple[int, int],
    moving_shape: tuple[int, int],
    model: LandmarkModel = "affine",
    numbers: Sequence[int] | None = None,
) -> LandmarkFit:
    """Fit a transform to landmarks in both images.

    Parameters
    ----------
    fixed_points, moving_points : array_like, shape (N, 2)
        (row, col) positions of the same N points, in pixels of their image.
    fixed_shape, moving_shape : tuple of int
        ``(rows, cols)`` of both images.
    model : str
        ``"affine"`` (3 pairs or more, least squares), ``"homography"`` (4 or more, least squares
        in the moving image; for a flat scene from two viewpoints) or ``"thin-plate"`` (3 or
        more, interpolates every pair with the least bending [1]_).
    numbers : sequence of int, optional
        Names of the pairs in messages; 1 to N by default.

    Returns
    -------
    LandmarkFit
        Transform, residuals, residuals when each pair is left out, and the worst pair.

    Raises
    ------
    ValueError
        When the points do not determine the model: too few, two that coincide, or all on one
        line. Also when a homography's horizon crosses the fixed image.

    References
    ----------
    .. [1] F. L. Bookstein, "Principal warps: thin-plate splines and the decomposition of
       deformations", IEEE TPAMI 11(6), 567-585, 1989; equation 7 with U(r) = r² log r.

    Examples
    --------
    >>> points = [[0, 0], [0, 9], [9, 0], [9, 9]]
    >>> moved = [[1, 2], [1, 11], [10, 2], [10, 11]]
    >>> fit = fit_landmarks(points, moved, fixed_shape=(10, 10), moving_shape=(12, 12))
    >>> fit.transform.points([[4, 4]]).round(6)
    array([[5., 6.]])
    """
    fixed, moving = _checked_points(fixed_points, moving_points, model, numbers)
    shapes = (fixed_shape, moving_shape)
    fitted = _FITS[model](fixed, moving, shapes)
    errors = _errors(fitted, fixed, moving)
    residuals = np.hypot(*errors.T)
    left_out = _leave_one_out(model, fixed, moving, shapes)
    return LandmarkFit(
        model,
        errors=errors,
        residuals=residuals,
        leave_one_out=left_out,
        worst=_worst(model, fixed, residuals, left_out),
        _map=fitted,
        _shapes=shapes,
    )


def landmark_transform(
    fixed_points: ArrayLike,
    moving_points: ArrayLike,
    *,
    fixed_shape: tuple[int, int],
    moving_shape: tuple[int, int],
    model: LandmarkModel = "affine",
) -> Transform:
    """Fit a transform as `fit_landmarks`, without residuals, which take long for many pairs."""
    points = _checked_points(fixed_points, moving_points, model, None)
    shapes = (fixed_shape, moving_shape)
    return _as_transform(_FITS[model](*points, shapes), shapes)


def _checked_points(
    fixed_points: ArrayLike,
    moving_points: ArrayLike,
    model: LandmarkModel,
    numbers: Sequence[int] | None,
) -> tuple[Array, Array]:
    """The points as arrays; raises as `fit_landmarks`."""
    if model not in MIN_PAIRS:
        raise ValueError(f"model: got {model!r}, need one of {', '.join(get_args(LandmarkModel))}")
    fixed, moving = (
        _as_points(points, name)
        for points, name in ((fixed_points, "fixed_points"), (moving_points, "moving_points"))
    )
    if len(fixed) != len(moving):
        raise ValueError(
            f"moving_points: got {len(moving)} for {len(fixed)} fixed_points, need as many"
        )
    if numbers is None:
        numbers = range(1, len(fixed) + 1)
    elif len(numbers) != len(fixed):
        raise ValueError(f"numbers: got {len(numbers)} for {len(fixed)} pairs, need as many")
    _check_points(fixed, "fixed", model, numbers)
    _check_points(moving, "moving", model, numbers)
    return fixed, moving


@dataclass(frozen=True, eq=False)
class _Map:
    """A fitted map: its nearest affine and, unless that is exact, the map."""

    affine: Array
    exact: Callable[[Array], Array] | None = None

    def __call__(self, points: Array) -> Array:
        if self.exact is not None:
            return self.exact(points)
        return points @ self.affine[:2, :2].T + self.affine[:2, 2]


_Shapes = tuple[tuple[int, int], tuple[int, int]]


def _as_transform(fitted: _Map, shapes: _Shapes) -> Transform:
    """The transform of a fitted map: an affine, and on the fixed grid what that cannot hold."""
    fixed_shape, moving_shape = shapes
    start = Transform(fitted.affine, fixed_shape=fixed_shape, moving_shape=moving_shape)
    if fitted.exact is None:
        return start
    displacement = np.empty((2, *fixed_shape), np.float32)
    for rows in row_blocks(fixed_shape):
        grid = np.mgrid[rows, : fixed_shape[1]].reshape(2, -1).T.astype(float)
        beyond = start.points(fitted.exact(grid), inverse=True) - grid
        displacement[:, rows] = beyond.T.reshape(2, -1, fixed_shape[1])
    displacement.flags.writeable = False
    return Transform(
        fitted.affine, displacement, fixed_shape=fixed_shape, moving_shape=moving_shape
    )


def _affine(fixed: Array, moving: Array, shapes: _Shapes) -> _Map:
    transform = Transform.from_points(fixed, moving, fixed_shape=shapes[0], moving_shape=shapes[1])
    return _Map(transform.affine)


def _homography(fixed: Array, moving: Array, shapes: _Shapes) -> _Map:
    """Fit by the direct linear transform, then by least squares in the moving image."""
    to_fixed, to_moving = _normalisation(fixed), _normalisation(moving)
    source, target = _project(to_fixed, fixed), _project(to_moving, moving)
    ones = np.column_stack([source, np.ones(len(source))])
    rows = np.zeros((2 * len(source), 9))
    rows[::2, :3] = rows[1::2, 3:6] = ones
    rows[::2, 6:] = -target[:, :1] * ones
    rows[1::2, 6:] = -target[:, 1:] * ones
    _, values, directions = np.linalg.svd(rows)
    # nine unknowns up to a factor: fewer than eight independent rows leave several solutions
    if len(values) < 8 or values[7] < _MIN_ASPECT * values[0]:
        raise ValueError(_undetermined("homography", len(fixed)))
    matrix = directions[8].reshape(3, 3)
    _check_horizon(matrix, source, "the landmarks")
    matrix /= matrix[2] @ np.append(source.mean(0), 1)
    matrix = least_squares(
        lambda free: (_project(free.reshape(3, 3), source) - target).ravel(), matrix.ravel()
    ).x.reshape(3, 3)
    matrix = np.linalg.inv(to_moving) @ matrix @ to_fixed
    corners = (np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * shapes[0]) - 0.5
    _check_horizon(matrix, np.concatenate([corners, fixed]), "the fixed image")
    affine = _affine(fixed, moving, shapes).affine
    return _Map(affine, lambda points: _project(matrix, points))


def _thin_plate(fixed: Array, moving: Array, shapes: _Shapes) -> _Map:
    spline = RBFInterpolator(fixed, moving, kernel="thin_plate_spline", degree=1)
    return _Map(_affine(fixed, moving, shapes).affine, spline)


_FITS: dict[LandmarkModel, Callable[[Array, Array, _Shapes], _Map]] = {
    "affine": _affine,
    "homography": _homography,
    "thin-plate": _thin_plate,
}


def _errors(fitted: _Map, fixed: Array, moving: Array) -> Array:
    """Error of each moving landmark in fixed pixels, shape (N, 2)."""
    apart = np.linalg.solve(fitted.affine[:2, :2], (moving - fitted(fixed)).T)
    return np.asarray(apart.T, np.float64)


def _leave_one_out(model: LandmarkModel, fixed: Array, moving: Array, shapes: _Shapes) -> Array:
    errors = np.full(len(fixed), np.nan)
    for index in range(len(fixed)):
        others = np.arange(len(fixed)) != index
        try:
            _check_points(fixed[others], "fixed", model, range(len(fixed)))
            _check_points(moving[others], "moving", model, range(len(fixed)))
            fitted = _FITS[model](fixed[others], moving[others], shapes)
        except ValueError:
            continue
        errors[index] = np.hypot(*_errors(fitted, fixed[~others], moving[~others])[0])
    return errors


def _worst(model: LandmarkModel, fixed: Array, residuals: Array, left_out: Array) -> int | None:
    """Find the pair whose removal reduces the misfit, or the bending energy, most.

    The largest leave-one-out error would blame pairs at the border, where a thin plate
    extrapolates far. Removing pair i reduces a sum of squares by residual_i * left_out_i, and
    the bending energy by left_out_i² * B_ii, with B as in `_bending`.
    """
    known = np.isfinite(left_out)
    if not known.any() or np.max(left_out, where=known, initial=0) < _MIN_DISTANCE:
        return None
    reduction = left_out * (
        left_out * np.diag(_bending(fixed)) if model == "thin-plate" else residuals
    )
    return int(np.argmax(np.where(known, reduction, -np.inf)))


def _bending(points: Array) -> Array:
    """Compute the matrix B of the bending energy v' B v (Bookstein, equation 9)."""
    normalised = _project(_normalisation(points), points)
    squared = ((normalised[:, None] - normalised[None]) ** 2).sum(-1)
    kernel = squared * np.log(np.where(squared > 0, squared, 1)) / 2
    plane = np.column_stack([np.ones(len(normalised)), normalised])
    system = np.block([[kernel, plane], [plane.T, np.zeros((3, 3))]])
    return np.asarray(np.linalg.inv(system)[: len(points), : len(points)])


def _as_points(points: ArrayLike, name: str) -> Array:
    array = np.asarray(points, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name}: got shape {array.shape}, need (N, 2): row and column")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: got NaN or infinite values, need finite ones")
    return array


def _check_points(points: Array, image: str, model: LandmarkModel, numbers: Sequence[int]) -> None:
    if len(points) < MIN_PAIRS[model]:
        raise ValueError(_undetermined(model, len(points)))
    distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    first, second = np.nonzero(np.triu(distance < _MIN_DISTANCE, 1))
    if len(first):
        raise ValueError(
            f"pairs {numbers[first[0]]} and {numbers[second[0]]} coincide in the {image} image; "
            f"{_undetermined(model, len(points))}"
        )
    length, width = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if width < _MIN_ASPECT * length:
        raise ValueError(
            f"all points lie on one line in the {image} image; {_undetermined(model, len(points))}"
        )


def _undetermined(model: LandmarkModel, count: int) -> str:
    article = "an" if model == "affine" else "a"
    return f"{article} {model} fit needs {_REQUIREMENTS[model]}, got {count}"


def _normalisation(points: Array) -> Array:
    """Compute the matrix that centres points and scales their mean distance to √2."""
    centre = points.mean(0)
    scale = np.sqrt(2) / np.hypot(*(points - centre).T).mean()
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])


def _project(matrix: Array, points: Array) -> Array:
    mapped = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def _check_horizon(matrix: Array, points: Array, what: str) -> None:
    side = np.column_stack([points, np.ones(len(points))]) @ matrix[2]
    if side.min() * side.max() <= 0:
        raise ValueError(
            f"the homography's horizon crosses {what}; correct or remove wrong pairs, add pairs "
            "near the corners, or choose the affine fit"
        )
