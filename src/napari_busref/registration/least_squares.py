"""Least squares of affines and smooth fields to displacements that count by 2 x 2 matrices.

Each of N positions wants a displacement, with an information matrix (its inverse covariance)
that says along which directions and how much it counts; its moment is information times
displacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.sparse import csr_array

from napari_busref.registration.bsplines import Array

_LOWER = ((0, 0), (1, 0), (1, 1))  # what a Cholesky decomposition reads of a symmetric matrix


def with_ones(position: Array) -> Array:
    """Positions (N, 2) with a third coordinate of 1, which an affine multiplies: (N, 3)."""
    return np.concatenate([position, np.ones((len(position), 1))], 1)


def normal_of_affine(top: Array, information: Array, moment: Array) -> tuple[Array, Array]:
    """Normal matrix (6, 6) and right side (6,) of an affine's two rows.

    Parameters
    ----------
    top : ndarray, shape (N, 3)
        Of `with_ones`.
    information : ndarray, shape (N, 2, 2)
    moment : ndarray, shape (N, 2)
    """
    matrix = np.einsum("nij,np,nq->ipjq", information, top, top, optimize=True)
    return matrix.reshape(6, 6), (moment.T @ top).reshape(6)


@dataclass(frozen=True, eq=False)
class SplinesWithAffine:
    """A field of splines and an affine that are fitted together.

    Attributes
    ----------
    splines : csr_array, shape (N, K)
        What each control point adds at each position.
    top : ndarray, shape (N, 3)
        Of `with_ones`.
    """

    splines: csr_array
    top: Array

    def weighed(self, weight: Array) -> csr_array:
        """Normal matrix (K, K) of the splines alone, positions counting by ``weight`` (N,)."""
        return csr_array(self.splines.T @ self.splines.multiply(weight[:, None]))

    def solve(
        self, information: Array, moment: Array, prior: csr_array, loose: float
    ) -> tuple[Array, Array]:
        """The control points (K, 2) and the affine's change (3, 2) that fit best.

        The affine is eliminated from the system.

        Parameters
        ----------
        prior : csr_array, shape (K, K)
            Inverse covariance of each component of the control points.
        loose : float
            Inverse variance of the affine's change.
        """
        splines, top = self.splines, self.top
        count = splines.shape[1]
        matrix = np.zeros((2, count, 2, count))
        for i, j in _LOWER:
            part = self.weighed(information[:, i, j])
            matrix[i, :, j] = (part + prior if i == j else part).toarray()
        right = np.empty((2, count, 7))  # what the affine's six parameters add, and the moment
        for i, j in product(range(2), repeat=2):
            right[i, :, 3 * j : 3 * j + 3] = splines.T @ (information[:, i, j, None] * top)
        right[..., 6] = (splines.T @ moment).T
        right = right.reshape(2 * count, 7)
        joined, wanted = right[:, :6], right[:, 6]
        # by torch: numpy's threads would stay awake after it and keep torch's from working
        factor = torch.linalg.cholesky(torch.from_numpy(matrix.reshape(2 * count, -1)))
        solved = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
        small, side = normal_of_affine(top, information, moment)
        small += loose * np.eye(6) - joined.T @ solved[:, :6]
        affine = np.linalg.solve(small, side - solved[:, :6].T @ wanted)
        control = solved[:, 6] - solved[:, :6] @ affine
        return control.reshape(2, count).T, affine.reshape(2, 3).T
