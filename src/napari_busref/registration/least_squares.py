"""Least squares of affines and smooth fields, weighted by 2 x 2 information matrices.

Each of N positions has a displacement with an information matrix, its inverse covariance. The
moment is information times displacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.sparse import csr_array

from napari_busref.registration.bsplines import Array

_LOWER = ((0, 0), (1, 0), (1, 1))  # Cholesky reads the lower blocks only


def with_ones(position: Array) -> Array:
    """Homogeneous coordinates (N, 3) of positions (N, 2)."""
    return np.concatenate([position, np.ones((len(position), 1))], 1)


def normal_of_affine(top: Array, information: Array, moment: Array) -> tuple[Array, Array]:
    """Normal matrix (6, 6) and right side (6,) of an affine's two rows.

    Parameters
    ----------
    top : ndarray, shape (N, 3)
        Positions, see `with_ones`.
    information : ndarray, shape (N, 2, 2)
    moment : ndarray, shape (N, 2)
    """
    matrix = np.einsum("nij,np,nq->ipjq", information, top, top, optimize=True)
    return matrix.reshape(6, 6), (moment.T @ top).reshape(6)


@dataclass(frozen=True, eq=False)
class SplinesWithAffine:
    """A B-spline field and an affine, fitted together.

    Attributes
    ----------
    splines : csr_array, shape (N, K)
        Basis functions: control points to displacements.
    top : ndarray, shape (N, 3)
        Positions, see `with_ones`.
    """

    splines: csr_array
    top: Array

    def normal(self, weight: Array) -> csr_array:
        """Normal matrix (K, K) of the splines alone, for one weight (N,) per position."""
        return csr_array(self.splines.T @ self.splines.multiply(weight[:, None]))

    def solve(
        self, information: Array, moment: Array, prior: csr_array, affine_precision: float
    ) -> tuple[Array, Array]:
        """Solve for the control points (K, 2) and the affine's change (3, 2).

        The affine is eliminated from the system (Schur complement).

        Parameters
        ----------
        information : ndarray, shape (N, 2, 2)
        moment : ndarray, shape (N, 2)
        prior : csr_array, shape (K, K)
            Inverse covariance of each component of the control points.
        affine_precision : float
            Inverse variance of the affine's change.
        """
        splines, top = self.splines, self.top
        count = splines.shape[1]
        matrix = np.zeros((2, count, 2, count))
        for i, j in _LOWER:
            part = self.normal(information[:, i, j])
            matrix[i, :, j] = (part + prior if i == j else part).toarray()
        right = np.empty((2, count, 7))  # coupling to the affine's 6 parameters, and the moment
        for i, j in product(range(2), repeat=2):
            right[i, :, 3 * j : 3 * j + 3] = splines.T @ (information[:, i, j, None] * top)
        right[..., 6] = (splines.T @ moment).T
        right = right.reshape(2 * count, 7)
        coupling, target = right[:, :6], right[:, 6]
        # In torch: numpy's BLAS threads spin for 0.1 s after a call and block torch's threads.
        factor = torch.linalg.cholesky(torch.from_numpy(matrix.reshape(2 * count, -1)))
        solved = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
        small, side = normal_of_affine(top, information, moment)
        small += affine_precision * np.eye(6) - coupling.T @ solved[:, :6]
        affine = np.linalg.solve(small, side - solved[:, :6].T @ target)
        control = solved[:, 6] - solved[:, :6] @ affine
        return control.reshape(2, count).T, affine.reshape(2, 3).T
