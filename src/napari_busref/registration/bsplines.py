"""Cubic B-spline displacement fields.

Positions and displacements are (x, y) in units of half the shorter side of the fixed image, from
its centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.sparse import csr_array, eye_array, kron, vstack

Array = NDArray[np.float64]

KNOT_SPACING = 0.15  # distance of control points that refinement uses
MAX_CONTROL_POINTS = 900
"""Largest number of control points, which a picture of 1:4 needs. Time grows with its cube."""


@dataclass(frozen=True, eq=False)
class SplineField:
    """A cubic B-spline displacement field over a rectangle around the origin.

    Attributes
    ----------
    coefficients : ndarray, shape (rows, cols, 2)
        Control points.
    half : tuple of float
        Half the height and half the width of the rectangle.
    """

    coefficients: Array
    half: tuple[float, float]

    def on_grid(self, y: Array, x: Array) -> Array:
        """Displacements (len(y), len(x), 2) on the grid of rows ``y`` and columns ``x``."""
        return self._sum("ir,rcd,jc->ijd", y, x)

    def at(self, position: Array) -> Array:
        """Displacements (N, 2) at positions (N, 2)."""
        return self._sum("nr,rcd,nc->nd", position[:, 1], position[:, 0])

    def _sum(self, indices: str, y: Array, x: Array) -> Array:
        rows, cols = (
            _basis(values, half, count)
            for values, half, count in zip(
                (y, x), self.half, self.coefficients.shape, strict=False
            )
        )
        # In torch, see `napari_busref.registration.least_squares`.
        parts = (torch.from_numpy(part) for part in (rows, self.coefficients, cols))
        return np.asarray(torch.einsum(indices, *parts))


def spline_design(
    position: Array, half: tuple[float, float], spacing: float
) -> tuple[Array, tuple[int, int]]:
    """Basis functions at positions, (N, rows * cols), and the grid of control points.

    Longer images than `MAX_CONTROL_POINTS` allows get a larger spacing.
    """
    counts = tuple(max(round(2 * h / spacing), 1) + 3 for h in half)
    while counts[0] * counts[1] > MAX_CONTROL_POINTS and spacing < 2 * max(half):
        spacing *= 1.1
        counts = tuple(max(round(2 * h / spacing), 1) + 3 for h in half)
    rows, cols = (
        _basis(position[:, axis], h, n) for axis, h, n in zip((1, 0), half, counts, strict=True)
    )
    return (rows[:, :, None] * cols[:, None, :]).reshape(len(rows), -1), (counts[0], counts[1])


def bending_of(counts: tuple[int, int]) -> csr_array:
    """Bending energy of a grid of control points, as a matrix (K, K)."""

    def differences(n: int, order: int) -> csr_array:
        return csr_array(np.diff(np.eye(n), order, axis=0))

    rows, cols = counts
    parts = (
        kron(differences(rows, 2), eye_array(cols)),
        kron(eye_array(rows), differences(cols, 2)),
        2**0.5 * kron(differences(rows, 1), differences(cols, 1)),
    )
    together = vstack(parts, format="csr")
    return csr_array(together.T @ together)


def _basis(values: Array, half: float, count: int) -> Array:
    """Basis functions of ``count`` evenly spaced control points at positions, (N, count)."""
    step = 2 * half / (count - 3)
    knots = -half + step * np.arange(-3, count + 1)
    inside = np.clip(values, -half, half - 1e-9 * half)
    return np.asarray(BSpline.design_matrix(inside, knots, 3).toarray())
