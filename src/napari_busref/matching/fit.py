"""Robust weighted least squares: transforms and smooth fields nearest to measured displacements.

Positions and displacements are (x, y) in units of half the shorter side of the fixed image, from
its centre, so that nothing here depends on size or aspect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Displaced:
    """N measured displacements.

    Attributes
    ----------
    position, shift : ndarray, shape (N, 2)
        Where, and by how much.
    information : ndarray, shape (N, 2, 2)
        Inverse covariance of the shift.
    """

    position: Array
    shift: Array
    information: Array

    def reweighted(self, residual: Array, limit: float) -> Array:
        """Information, lowered where the residual exceeds ``limit`` (Geman-McClure)."""
        trust = 1 / (1 + (residual**2).sum(1) / limit**2) ** 2
        weighted: Array = self.information * trust[:, None, None]
        return weighted


def fit_affine(data: Displaced, limits: tuple[float, ...], ridge: float = 1e-3) -> Array:
    """Affine (3, 3) with ``x + shift = affine @ x`` as nearly as the data say.

    ``limits`` are the residuals beyond which a displacement is discounted, one a round.
    """
    design = np.concatenate([data.position, np.ones((len(data.position), 1))], 1)
    solution = _robust(data, design, limits, ridge * np.eye(6))
    affine = np.eye(3)
    affine[:2] += solution.T
    return affine


def fit_homography(data: Displaced, limits: tuple[float, ...], ridge: float = 1e-3) -> Array:
    """Homography (3, 3) nearest to the data, by Gauss-Newton from the affine."""
    matrix = fit_affine(data, limits[:1], ridge)
    for limit in (*limits, limits[-1]):
        x, y = data.position.T
        top = np.stack([x, y, np.ones_like(x)], 1)
        u, v, w = matrix @ top.T
        reached = np.stack([u / w, v / w], 1)
        residual = data.position + data.shift - reached
        weight = data.reweighted(residual, limit)
        jacobian = np.zeros((len(x), 2, 8))
        jacobian[:, 0, :3] = jacobian[:, 1, 3:6] = top / w[:, None]
        for axis in range(2):
            jacobian[:, axis, 6:] = -reached[:, axis, None] * top[:, :2] / w[:, None]
        weighted = weight @ jacobian
        normal = np.einsum("nip,niq->pq", jacobian, weighted)
        right = np.einsum("nip,ni->p", weighted, residual)
        normal += ridge * np.trace(normal) / 8 * np.eye(8)
        matrix = matrix + np.append(np.linalg.solve(normal, right), 0).reshape(3, 3)
    return matrix


@dataclass(frozen=True, eq=False)
class SplineField:
    """A displacement field of cubic B-splines over a rectangle around the origin.

    Attributes
    ----------
    coefficients : ndarray, shape (rows, cols, 2)
        Of the control points.
    half : tuple of float
        Half the height and half the width of the rectangle.
    """

    coefficients: Array
    half: tuple[float, float]

    def on_grid(self, y: Array, x: Array) -> Array:
        """Displacements (len(y), len(x), 2) at the crossings of rows ``y`` and columns ``x``."""
        rows, cols = (
            _basis(values, half, count)
            for values, half, count in zip(
                (y, x), self.half, self.coefficients.shape, strict=False
            )
        )
        values: Array = np.einsum("ir,rcd,jc->ijd", rows, self.coefficients, cols, optimize=True)
        return values


def fit_field(
    data: Displaced,
    half: tuple[float, float],
    spacing: float,
    bend: float,
    limits: tuple[float, ...],
) -> SplineField:
    """Smooth field nearest to the data.

    Parameters
    ----------
    half : tuple of float
        Half the height and half the width of the rectangle that the field covers.
    spacing : float
        Distance of the control points.
    bend : float
        Standard deviation that is expected of the second differences of neighbouring control
        points; smaller is smoother.
    limits : tuple of float
        As of `fit_affine`.
    """
    counts = tuple(max(round(2 * h / spacing), 1) + 3 for h in half)
    rows, cols = (
        _basis(data.position[:, axis], h, n)
        for axis, h, n in zip((1, 0), half, counts, strict=True)
    )
    design = (rows[:, :, None] * cols[:, None, :]).reshape(len(rows), -1)
    bending = _bending(counts) / bend**2
    # a weak pull to nothing where nothing is measured
    penalty = np.asarray(np.kron(np.eye(2), bending + 1e-3 * np.eye(len(bending)) / bend**2))
    solution = _robust(data, design, limits, penalty, relative=False)
    return SplineField(solution.reshape(*counts, 2), half)


def _robust(
    data: Displaced,
    design: Array,
    limits: tuple[float, ...],
    penalty: Array,
    relative: bool = True,
) -> Array:
    """Solve for both components over one design (N, K), reweighting each round: (K, 2).

    The unknowns are ordered x then y in ``penalty`` (2 K, 2 K); ``relative`` scales it with the
    total of the weights.
    """
    count = design.shape[1]
    solution = np.zeros((count, 2))
    for index, limit in enumerate(limits):
        # the first round trusts everything up to a wide limit around no displacement at all
        residual = data.shift - design @ solution
        if index == 0:
            residual = data.shift - np.median(data.shift, 0)
        weight = data.reweighted(residual, limit)
        blocks = {
            (i, j): design.T @ (design * weight[:, i, j, None])
            for i, j in ((0, 0), (0, 1), (1, 1))
        }
        normal = np.block([[blocks[0, 0], blocks[0, 1]], [blocks[0, 1].T, blocks[1, 1]]])
        moment = np.einsum("nij,nj->ni", weight, data.shift)
        right = (design.T @ moment).T.ravel()
        scale = np.trace(normal) / len(normal) if relative else 1.0
        solved = np.linalg.solve(normal + penalty * scale + 1e-9 * np.eye(2 * count), right)
        solution = solved.reshape(2, count).T
    return solution


def _basis(values: Array, half: float, count: int) -> Array:
    """Cubic B-splines of ``count`` evenly spaced control points at positions, (N, count)."""
    step = 2 * half / (count - 3)
    knots = -half + step * np.arange(-3, count + 1)
    inside = np.clip(values, -half, half - 1e-9 * half)
    return np.asarray(BSpline.design_matrix(inside, knots, 3).toarray())


def _bending(counts: tuple[int, ...]) -> Array:
    """Quadratic form of the second differences of a grid of control points."""

    def differences(n: int, order: int) -> Array:
        return np.diff(np.eye(n), order, axis=0)

    rows, cols = counts
    parts = (
        np.kron(differences(rows, 2), np.eye(cols)),
        np.kron(np.eye(rows), differences(cols, 2)),
        2**0.5 * np.kron(differences(rows, 1), differences(cols, 1)),
    )
    together = np.concatenate(parts)
    return np.asarray(together.T @ together)
