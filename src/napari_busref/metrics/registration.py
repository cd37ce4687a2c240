"""Synthetic warps (SYN) and registration scores of the measuring protocol.

Positions are (row, col) pixels with pixel centres at integers. A map is a float array
``(2, H, W)`` of absolute positions:

* ``g`` maps the moving image to the aligned frame, ``moving(p) = infrared(g(p))``;
* ``source`` (an estimate) maps the fixed image to the moving one,
  ``registered(x) = moving(source(x))``.

The aligned frame is that of the fixed image: a perfect estimate has ``g(source(x)) = x``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi

__all__ = [
    "Scorer",
    "SyntheticPair",
    "SyntheticWarp",
    "WarpRanges",
    "draw_warp",
    "make_pair",
    "normalised_cross_correlation",
    "summarise",
]

FloatArray = NDArray[np.float64]
#: End-point error limits, in pixels, of the fractions that `summarise` reports.
SHARE_LIMITS = (1, 3, 5)
_LANDMARKS = 24  # approximate number along the shorter side
_AVERAGED = ("ncc", "mse", "mncc", "mmse", "seconds")


def pixel_grid(shape: Sequence[int]) -> FloatArray:
    """Return the positions of all pixels of an image of this shape, ``(2, H, W)``."""
    rows, cols = int(shape[0]), int(shape[1])
    grid: FloatArray = np.mgrid[:rows, :cols].astype(np.float64)
    return grid


def _affine_points(matrix: FloatArray, points: FloatArray) -> FloatArray:
    """Apply a 3x3 affine to positions ``(2, ...)``."""
    flat = points.reshape(2, -1)
    moved = matrix[:2, :2] @ flat + matrix[:2, 2:]
    return moved.reshape(points.shape)


def _interpolate(image: FloatArray, points: FloatArray, mode: str = "constant") -> FloatArray:
    values: FloatArray = ndi.map_coordinates(image, points, order=1, mode=mode, cval=0.0)
    return values


def _inside(points: FloatArray, shape: Sequence[int]) -> NDArray[np.bool_]:
    rows, cols = points
    inside: NDArray[np.bool_] = (
        (rows >= 0) & (rows <= shape[0] - 1) & (cols >= 0) & (cols <= shape[1] - 1)
    )
    return inside


@dataclass(frozen=True)
class WarpRanges:
    """Ranges of the draws of a synthetic warp; the defaults are those of the protocol.

    Attributes
    ----------
    rotation_deg, shear_deg : float
        Largest absolute rotation and shear, in degrees (uniform).
    scale : tuple of float
        Smallest and largest scale (log-uniform).
    translation : float
        Largest absolute shift as a fraction of the width and of the height (uniform).
    elastic : tuple of float
        Range of the largest elastic displacement, as fractions of the shorter side (uniform).
    smoothing : float
        Standard deviation of the Gaussian that smooths the noise, as a fraction of the shorter
        side.
    """

    rotation_deg: float = 10.0
    scale: tuple[float, float] = (0.9, 1.1)
    shear_deg: float = 5.0
    translation: float = 0.08
    elastic: tuple[float, float] = (0.02, 0.04)
    smoothing: float = 0.08


@dataclass(frozen=True, eq=False)
class SyntheticWarp:
    """A known map from the moving image to the aligned frame.

    Outside its grid the map continues as its least-squares affine plus the edge-replicated
    residual. It can therefore be evaluated and inverted anywhere.

    Attributes
    ----------
    g : numpy.ndarray
        Absolute (row, col) positions, float64, shape ``(2, H, W)``.
    params : dict
        The draws: ``rotation_deg``, ``scale``, ``shear_deg``, ``shift_rows``, ``shift_cols``,
        ``elastic_px``, ``seed``.
    """

    g: FloatArray
    params: dict[str, float]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (H, W) of the images of this warp."""
        return (self.g.shape[1], self.g.shape[2])

    @cached_property
    def affine(self) -> FloatArray:
        """Least-squares affine of ``g``: 3x3, (row, col), moving to aligned."""
        # On a full grid the centred rows and columns are orthogonal: the fit separates.
        rows, cols = (np.arange(n) - (n - 1) / 2 for n in self.shape)
        matrix: FloatArray = np.eye(3)
        mean = self.g.mean(axis=(1, 2))
        matrix[:2, 0] = self.g.mean(axis=2) @ rows / (rows @ rows)
        matrix[:2, 1] = self.g.mean(axis=1) @ cols / (cols @ cols)
        centre = np.array([(n - 1) / 2 for n in self.shape])
        matrix[:2, 2] = mean - matrix[:2, :2] @ centre
        return matrix

    @cached_property
    def residual(self) -> FloatArray:
        """Difference of ``g`` and its affine, ``(2, H, W)`` pixels."""
        return self.g - _affine_points(self.affine, pixel_grid(self.shape))

    def _residual_at(self, points: FloatArray) -> FloatArray:
        return np.stack([_interpolate(part, points, mode="nearest") for part in self.residual])

    def points(self, points: ArrayLike) -> FloatArray:
        """Map positions ``(2, ...)`` from the moving image to the aligned frame."""
        at = np.asarray(points, dtype=np.float64)
        return _affine_points(self.affine, at) + self._residual_at(at)

    def inverse_points(
        self, points: ArrayLike, *, iterations: int = 60, tolerance: float = 1e-3
    ) -> FloatArray:
        """Map positions ``(2, ...)`` from the aligned frame to the moving image.

        Fixed point on the residual: ``p = A^-1 (x - residual(p))``.

        Parameters
        ----------
        points : array_like
            Aligned (= fixed) positions, shape ``(2, ...)``.
        iterations : int
            Maximum number of iterations.
        tolerance : float
            Stop once every position moves by less than this, in pixels.
        """
        at = np.asarray(points, dtype=np.float64)
        inverse = np.linalg.inv(self.affine).astype(np.float64)
        position = _affine_points(inverse, at)
        for _ in range(iterations):
            following = _affine_points(inverse, at - self._residual_at(position))
            step = np.abs(following - position).max(initial=0.0)
            position = following
            if step < tolerance:
                break
        return position

    @cached_property
    def _true_source(self) -> FloatArray:
        return self.inverse_points(pixel_grid(self.shape))

    def true_source(self) -> FloatArray:
        """Return the true map from the fixed to the moving image, ``(2, H, W)``."""
        return self._true_source.copy()

    def mask(self) -> NDArray[np.bool_]:
        """Reconstructible mask: fixed pixels whose true source is inside the moving image."""
        return _inside(self._true_source, self.shape)

    def min_jacobian(self) -> float:
        """Smallest Jacobian determinant of ``g``; zero or negative where the warp folds."""
        (rr, rc), (cr, cc) = (np.gradient(part) for part in self.g)
        return float((rr * cc - rc * cr).min())


def draw_warp(shape: Sequence[int], seed: int, **ranges: Any) -> SyntheticWarp:
    """Draw a synthetic warp: an affine about the image centre, then a smooth elastic field.

    The draws come from ``numpy.random.default_rng(seed)`` in the protocol's fixed order:
    rotation, log scale, shear, shift along the width, along the height, elastic amplitude,
    noise along the width, along the height.

    Parameters
    ----------
    shape : sequence of int
        Image shape (H, W[, ...]), at least 2 pixels a side.
    seed : int
        Seed of the draws.
    **ranges
        Fields of `WarpRanges` to change.

    Returns
    -------
    SyntheticWarp

    Raises
    ------
    ValueError
        If the shape has fewer than two axes or a side under 2 pixels.
    """
    if len(shape) < 2 or min(shape[:2]) < 2:
        raise ValueError(f"shape must be (H, W) with sides of at least 2 pixels, got {shape!r}")
    limits = WarpRanges(**ranges)
    height, width = int(shape[0]), int(shape[1])
    side = min(height, width)
    rng = np.random.default_rng(seed)

    angle = np.deg2rad(rng.uniform(-limits.rotation_deg, limits.rotation_deg))
    scale = float(np.exp(rng.uniform(*np.log(limits.scale))))
    shear = np.deg2rad(rng.uniform(-limits.shear_deg, limits.shear_deg))
    shift_cols = rng.uniform(-limits.translation, limits.translation) * width
    shift_rows = rng.uniform(-limits.translation, limits.translation) * height
    amplitude = rng.uniform(*limits.elastic) * side
    noise = [
        ndi.gaussian_filter(
            rng.standard_normal((height, width)), limits.smoothing * side, mode="reflect"
        )
        for _ in ("cols", "rows")
    ]

    cos, sin, tan = np.cos(angle), np.sin(angle), np.tan(shear)
    # The protocol states rotation and shear for (x, y); this is that map for (row, col).
    linear = scale * np.array([[cos + sin * tan, sin], [cos * tan - sin, cos]])
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre + np.array([shift_rows, shift_cols]) - linear @ centre

    elastic = np.stack([noise[1], noise[0]])
    largest = np.hypot(*elastic).max()
    if amplitude > 0 and largest > 0:
        elastic *= amplitude / largest
    else:
        elastic[:] = 0.0
    params = {
        "rotation_deg": float(np.rad2deg(angle)),
        "scale": scale,
        "shear_deg": float(np.rad2deg(shear)),
        "shift_rows": float(shift_rows),
        "shift_cols": float(shift_cols),
        "elastic_px": float(amplitude),
        "seed": int(seed),
    }
    return SyntheticWarp(_affine_points(matrix, pixel_grid(shape)) + elastic, params)


@dataclass(frozen=True, eq=False)
class SyntheticPair:
    """An image pair with a known warp.

    Attributes
    ----------
    fixed : numpy.ndarray
        The visible image as given, ``(H, W[, C])``.
    moving : numpy.ndarray
        The warped infrared image, float64 ``(H, W)``, zero outside the infrared image.
    aligned : numpy.ndarray
        The infrared image in the fixed frame (the truth), float64 ``(H, W)``.
    warp : SyntheticWarp
        The warp from moving to aligned.
    mask : numpy.ndarray
        Reconstructible mask on the fixed grid, bool ``(H, W)``.
    """

    fixed: NDArray[Any]
    moving: FloatArray
    aligned: FloatArray
    warp: SyntheticWarp
    mask: NDArray[np.bool_]


def make_pair(infrared: ArrayLike, fixed: ArrayLike, seed: int, **ranges: Any) -> SyntheticPair:
    """Warp the infrared image of an aligned pair, ``moving(p) = infrared(g(p))``.

    Parameters
    ----------
    infrared : array_like
        Grey infrared image in [0, 1], ``(H, W)``.
    fixed : array_like
        Visible image of the same size, ``(H, W[, C])``, any dtype.
    seed : int
        Seed of the warp.
    **ranges
        Fields of `WarpRanges` to change.

    Raises
    ------
    ValueError
        If the infrared image is not 2-D or the sizes differ.
    """
    aligned = np.asarray(infrared, dtype=np.float64)
    visible = np.asarray(fixed)
    if aligned.ndim != 2:
        raise ValueError(f"infrared must be a grey (H, W) image, got shape {aligned.shape}")
    if visible.shape[:2] != aligned.shape:
        raise ValueError(
            f"fixed must have the infrared image's size {aligned.shape}, got {visible.shape[:2]}"
        )
    warp = draw_warp(aligned.shape, seed, **ranges)
    return SyntheticPair(visible, _interpolate(aligned, warp.g), aligned, warp, warp.mask())


def normalised_cross_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Normalised cross correlation with the means subtracted; 0 for a constant image."""
    a = np.asarray(first, dtype=np.float64)
    b = np.asarray(second, dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0


class Scorer:
    """Scores estimates for one synthetic pair.

    Parameters
    ----------
    pair : SyntheticPair
        The pair, infrared in [0, 1].

    Notes
    -----
    Call it with ``source``, the estimated fixed to moving map of absolute (row, col) positions
    ``(2, H, W)``. It returns a dict of floats:

    ``epe``, ``epe_median_px``, ``epe_p95``
        Mean, median and 95th percentile of ``|g(source(x)) - x|`` in fixed pixels over the
        reconstructible mask.
    ``ncc``, ``mse``
        Registered against true aligned infrared, whole image.
    ``mncc``, ``mmse``
        The same over the reconstructible mask.
    ``mask_fraction``
        Fraction of the fixed image in the mask.
    """

    def __init__(self, pair: SyntheticPair) -> None:
        if not pair.mask.any():
            raise ValueError("pair has an empty reconstructible mask, need at least one pixel")
        self.pair = pair
        self._grid = pixel_grid(pair.aligned.shape)

    def end_point_error(self, source: ArrayLike) -> FloatArray:
        """End-point error of every fixed pixel, ``(H, W)`` fixed pixels."""
        error = self.pair.warp.points(source) - self._grid
        length: FloatArray = np.hypot(error[0], error[1])
        return length

    def landmarks(self) -> FloatArray:
        """Moving positions on a regular grid whose content is in the fixed image, ``(N, 2)``."""
        shape = self.pair.warp.shape
        step = max(min(shape) // _LANDMARKS, 1)
        every = pixel_grid(shape)
        for grid in (every[:, step // 2 :: step, step // 2 :: step], every):
            inside = _inside(self.pair.warp.points(grid), self.pair.aligned.shape)
            if inside.any():
                break
        return grid[:, inside].T

    def reprojection_error(self, mapped: ArrayLike) -> float:
        """RE: mean distance, in fixed pixels, of mapped landmarks from their true positions.

        Parameters
        ----------
        mapped : array_like
            `landmarks` mapped to the fixed image by the estimate's inverse, ``(N, 2)``.
        """
        truth = self.pair.warp.points(self.landmarks().T)
        error = np.asarray(mapped, dtype=np.float64).T - truth
        return float(np.hypot(error[0], error[1]).mean())

    def __call__(self, source: ArrayLike) -> dict[str, float]:
        """Score the estimate ``source``; see the class notes."""
        at = np.asarray(source, dtype=np.float64)
        if at.shape != self._grid.shape:
            raise ValueError(f"source must have shape {self._grid.shape}, got {at.shape}")
        if not np.isfinite(at).all():
            raise ValueError("source must be finite everywhere, got NaN or infinite positions")
        mask, aligned = self.pair.mask, self.pair.aligned
        error = self.end_point_error(at)[mask]
        registered = _interpolate(self.pair.moving, at)
        return {
            "epe": float(error.mean()),
            "epe_median_px": float(np.median(error)),
            "epe_p95": float(np.percentile(error, 95)),
            "ncc": normalised_cross_correlation(registered, aligned),
            "mse": float(np.mean((registered - aligned) ** 2)),
            "mncc": normalised_cross_correlation(registered[mask], aligned[mask]),
            "mmse": float(np.mean((registered[mask] - aligned[mask]) ** 2)),
            "mask_fraction": float(mask.mean()),
        }


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the scores of many pairs by the protocol.

    Parameters
    ----------
    rows : iterable of mapping
        One per pair: the result of a `Scorer`, optionally with ``seconds`` and ``failed``.

    Returns
    -------
    dict
        ``n``, ``epe_mean``, ``epe_median`` (over pairs), ``re_mean`` (None where no row has
        ``re``), ``share_below_1px``, ``share_below_3px`` and ``share_below_5px`` (of all pairs;
        failed and missing estimates are never below), the means of ``ncc``, ``mse``, ``mncc``,
        ``mmse`` and ``seconds`` (None where no row has them) and ``failures``. A key with
        ``_sd`` is the standard deviation over pairs of the mean before it, None for fewer than
        two. Empty for no rows.
    """
    table = list(rows)
    if not table:
        return {}
    failed = [bool(row.get("failed")) or row.get("epe") is None for row in table]
    errors = np.array([row["epe"] for row in table if row.get("epe") is not None], dtype=float)
    good = np.array(
        [row["epe"] for row, bad in zip(table, failed, strict=True) if not bad], dtype=float
    )
    summary: dict[str, Any] = {
        "n": len(table),
        "epe_mean": float(errors.mean()) if errors.size else None,
        "epe_mean_sd": standard_deviation(errors),
        "epe_median": float(np.median(errors)) if errors.size else None,
    }
    reprojected = [row["re"] for row in table if row.get("re") is not None]
    summary["re_mean"] = float(np.mean(reprojected)) if reprojected else None
    for limit in SHARE_LIMITS:
        summary[f"share_below_{limit}px"] = float((good < limit).sum() / len(table))
    for key in _AVERAGED:
        values = [row[key] for row in table if row.get(key) is not None]
        summary[key] = float(np.mean(values)) if values else None
        if key != "seconds":
            summary[f"{key}_sd"] = standard_deviation(values)
    summary["failures"] = sum(failed)
    return summary


def standard_deviation(values: Sequence[float] | FloatArray) -> float | None:
    """Return the sample standard deviation, None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def protocol_ranges() -> dict[str, Any]:
    """Return the protocol's warp ranges as a plain dict (for reports and cards)."""
    return asdict(WarpRanges())
