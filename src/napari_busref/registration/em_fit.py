"""Transforms and smooth fields that are most likely, where each block alone has several opinions.

The likelihood of a block's displacement has many peaks, and which is right only the field as a
whole can tell. So it is read around what the field says now, with less and less tolerance:
expectation maximisation with a falling width. Positions and displacements are (x, y) in units of
half the shorter side of the fixed image, from its centre, so that nothing here depends on size or
aspect.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array

from napari_busref.registration.bsplines import Array, SplineField, bending_of, spline_design
from napari_busref.registration.least_squares import SplinesWithAffine, normal_of_affine, with_ones

_STRENGTHS = (1e-3, 4.0)  # variance of a field, as a multiple of what is expected
_SHARPEST = 0.08  # variance of a displacement, in pixels², that no block goes below


@dataclass(frozen=True, eq=False)
class BlockLikelihoods:
    """Likelihoods of N blocks over M offsets.

    Attributes
    ----------
    position : ndarray, shape (N, 2)
        Centres of the blocks.
    offset : ndarray, shape (M, 2)
        Where a block's content may lie, relative to the block.
    log : ndarray of float32, shape (N, M)
        Log-likelihoods, each row up to a constant.
    weight : ndarray, shape (N,)
        How much each block counts; less than 1 where blocks share evidence.
    pixel : float
        Length of a pixel.
    """

    position: Array
    offset: Array
    log: NDArray[np.float32]
    weight: Array
    pixel: float

    def read(self, around: Array, width: float) -> tuple[Array, Array]:
        """Read the likelihoods near ``around`` (N, 2), within about ``width``.

        Returns
        -------
        information : ndarray, shape (N, 2, 2)
            What the likelihood adds to the expectation: its inverse covariance.
        moment : ndarray, shape (N, 2)
            Information times displacement.
        """
        # by torch: threads of numpy's own BLAS would stay awake and keep torch's from working
        offset = torch.from_numpy(self.offset).float()
        outer = (offset[:, :, None] * offset[:, None, :]).flatten(1)
        # the square distance less what is the same for the whole row
        near = torch.from_numpy(around).float() @ offset.T - 0.5 * outer[:, [0, 3]].sum(1)
        probability = (torch.from_numpy(self.log) + near / width**2).softmax(1)
        moments = (probability @ torch.cat([offset, outer], 1)).double().numpy()
        mean, second = moments[:, :2], moments[:, 2:].reshape(-1, 2, 2)
        floor = _SHARPEST * self.pixel**2
        covariance = second - mean[:, :, None] * mean[:, None, :] + floor * np.eye(2)
        precision = np.linalg.inv(covariance)
        expected = 1 / (width**2 + floor)
        values, vectors = np.linalg.eigh(precision)
        kept = np.maximum(values - expected, 0.0)
        information = (vectors * kept[:, None]) @ vectors.transpose(0, 2, 1)
        moment = (precision @ mean[..., None])[..., 0] - expected * around
        # along an axis that says nothing, nothing is wanted
        projected = (vectors.transpose(0, 2, 1) @ moment[..., None])[..., 0] * (kept > 0)
        moment = (vectors @ projected[..., None])[..., 0]
        return information * self.weight[:, None, None], moment * self.weight[:, None]


Field = Callable[[Array], Array]
"""Displacements (N, 2) at positions (N, 2)."""


def fit_affine(data: BlockLikelihoods, widths: tuple[float, ...], ridge: float = 1e-3) -> Array:
    """The affine (3, 3) that is most likely.

    Parameters
    ----------
    widths : tuple of float
        Of the reading around the affine, one a round. Not below what an elastic part adds to an
        affine: else the fit settles on a part of the picture.
    ridge : float
        Pull towards no change, as a share of the information.
    """
    top = with_ones(data.position)
    solution = np.zeros((3, 2))

    def fit(information: Array, moment: Array) -> Array:
        nonlocal solution
        pull = ridge * float(np.trace(information.sum(0))) / 2
        matrix, side = normal_of_affine(top, information, moment)
        solved = np.linalg.solve(matrix + (pull + 1e-9) * np.eye(6), side)
        solution = np.asarray(solved.reshape(2, 3).T, float)
        return np.asarray(top @ solution)

    _maximise(data, fit, widths)
    affine = np.eye(3)
    affine[:2] += solution.T
    return affine


def fit_homography(
    data: BlockLikelihoods,
    widths: tuple[float, ...],
    earlier: Field | None = None,
    ridge: float = 1e-3,
) -> Array:
    """The homography (3, 3) that is most likely, by Gauss-Newton from the identity.

    Parameters as of `fit_affine` and `fit_bspline_field`.
    """
    matrix = np.eye(3)
    top = with_ones(data.position)

    def reached() -> tuple[Array, Array]:
        u, v, w = matrix @ top.T
        return np.stack([u / w, v / w], 1), w

    def fit(information: Array, moment: Array) -> Array:
        nonlocal matrix
        for _ in range(2):
            place, w = reached()
            jacobian = np.zeros((len(top), 2, 8))
            jacobian[:, 0, :3] = jacobian[:, 1, 3:6] = top / w[:, None]
            for axis in range(2):
                jacobian[:, axis, 6:] = -place[:, axis, None] * top[:, :2] / w[:, None]
            missing = moment - (information @ (place - data.position)[..., None])[..., 0]
            normal = np.einsum("nip,nij,njq->pq", jacobian, information, jacobian, optimize=True)
            normal += ridge * np.trace(normal) / 8 * np.eye(8) + 1e-9 * np.eye(8)
            change = np.linalg.solve(normal, np.einsum("nip,ni->p", jacobian, missing))
            matrix = matrix + np.append(change, 0).reshape(3, 3)
        return reached()[0] - data.position

    _maximise(data, fit, widths, earlier)
    return matrix


def fit_bspline_field(
    data: BlockLikelihoods,
    half: tuple[float, float],
    *,
    spacing: float,
    bend: float,
    pull: float,
    loose: float,
    widths: tuple[float, ...],
    earlier: Field | None = None,
) -> tuple[Array, SplineField]:
    """The affine and the smooth field on top of it that are most likely together.

    How strong the field is, the data say: ``bend`` and ``pull`` are scaled by one factor, the one
    under which the data are most likely (MacKay, "Bayesian interpolation", Neural Computation 4,
    1992, section 4.3). Where an affine is enough, next to nothing of the field is left.

    Parameters
    ----------
    half : tuple of float
        Half the height and half the width of the rectangle that the field covers.
    spacing : float
        Distance of the control points.
    bend : float
        Standard deviation that is expected of the second differences of neighbouring control
        points; smaller is smoother.
    pull : float
        Standard deviation that is expected of the control points.
    loose : float
        Standard deviation that is expected of the affine's departures from no change.
    widths : tuple of float
        Of the reading around the field, one a round.
    earlier : callable, optional
        The field with which the images were resampled before they were compared; the result
        includes it.

    Returns
    -------
    affine : ndarray, shape (3, 3)
    field : SplineField
        What is displaced beyond that: position ``x`` goes to ``affine(x) + field(x)``.
    """
    splines, counts = spline_design(data.position, half, spacing)
    count = splines.shape[1]
    single = bending_of(counts) / bend**2 + eye_array(count) / pull**2
    system = SplinesWithAffine(csr_array(splines), with_ones(data.position))
    control, change = np.zeros((count, 2)), np.zeros((3, 2))
    strength, rounds = 1.0, itertools.count(1)

    def fit(information: Array, moment: Array) -> Array:
        nonlocal control, change, strength
        prior = single / strength
        control, change = system.solve(information, moment, prior, 1 / loose**2)
        if next(rounds) < len(widths):
            # parameters that the data determine; as if the components were independent and alike
            matrix = system.weighed(np.trace(information, axis1=1, axis2=2) / 2) + prior
            factor = torch.linalg.cholesky(torch.from_numpy(matrix.toarray()))
            known = prior.multiply(torch.cholesky_inverse(factor).numpy()).sum()
            determined = 2 * (count - float(known))
            energy = float((control * (single @ control)).sum())
            strength = min(max(energy / max(determined, 1e-6), _STRENGTHS[0]), _STRENGTHS[1])
        return np.asarray(system.splines @ control + system.top @ change)

    _maximise(data, fit, widths, earlier)
    affine = np.eye(3)
    affine[:2] += change.T
    return affine, SplineField(control.reshape(*counts, 2), half)


def _maximise(
    data: BlockLikelihoods,
    fit: Callable[[Array, Array], Array],
    widths: tuple[float, ...],
    earlier: Field | None = None,
) -> None:
    """Alternate between reading the likelihoods and fitting displacements (N, 2) to them."""
    around = np.zeros_like(data.position)
    before = np.zeros_like(around) if earlier is None else earlier(data.position)
    for width in widths:
        information, moment = data.read(around, width)
        # what is wanted of the whole field: what was there already and what is seen now
        displaced = fit(information, moment + (information @ before[..., None])[..., 0])
        around = displaced - before
        if earlier is not None:
            before = earlier(data.position + around)
            around = displaced - before
