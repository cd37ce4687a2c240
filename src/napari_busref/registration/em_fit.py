"""MAP fit of a transform to multimodal block likelihoods, by annealed expectation maximisation.

The likelihood of one block's displacement has several peaks, and only the whole field tells which
one is right. Each round weighs the likelihoods by a Gaussian around the current field (E-step) and
fits the field to the resulting moments (M-step). The Gaussian narrows from round to round.

Positions and displacements are (x, y) in units of half the shorter side of the fixed image, from
its centre. So nothing here depends on size or aspect.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array

from napari_busref.registration.bsplines import (
    KNOT_SPACING,
    Array,
    SplineField,
    bending_of,
    spline_design,
)
from napari_busref.registration.least_squares import SplinesWithAffine, normal_of_affine, with_ones

# What refinement uses. Bandwidths are in pixels of the working size.
AFFINE_BANDWIDTHS = (8.0, 6.0, 5.0, 4.0, 4.0)
FIELD_BANDWIDTHS = (8.0, 6.0, 4.0, 3.0, 2.0, 1.4)
BENDING_SIGMA = 0.04  # of second differences of control points
DISPLACEMENT_SIGMA = 0.03  # of control points
AFFINE_SIGMA = 0.005  # of the affine's change when a field is fitted

_VARIANCE_FACTORS = (1e-3, 4.0)  # range of the factor on the field's prior variance
_MIN_VARIANCE = 0.08  # pixels², of one block's displacement


@dataclass(frozen=True, eq=False)
class BlockLikelihoods:
    """Log-likelihoods of N blocks over M displacements.

    Attributes
    ----------
    position : ndarray, shape (N, 2)
        Centres of the blocks.
    offset : ndarray, shape (M, 2)
        The displacements.
    log : ndarray of float32, shape (N, M)
        Log-likelihoods, each row up to a constant.
    weight : ndarray, shape (N,)
        Weight of each block, below 1 where blocks overlap.
    pixel : float
        Length of a pixel.
    """

    position: Array
    offset: Array
    log: NDArray[np.float32]
    weight: Array
    pixel: float

    def e_step(self, around: Array, bandwidth: float) -> tuple[Array, Array]:
        """Moments of the likelihoods under a Gaussian around the current displacements.

        Parameters
        ----------
        around : ndarray, shape (N, 2)
            The current displacements.
        bandwidth : float
            Standard deviation of the Gaussian.

        Returns
        -------
        information : ndarray, shape (N, 2, 2)
            Inverse covariance that the likelihood adds to the Gaussian's.
        moment : ndarray, shape (N, 2)
            Information times displacement.
        """
        # In torch: numpy's BLAS threads spin for 0.1 s after a call and block torch's threads.
        offset = torch.from_numpy(self.offset).float()
        outer = (offset[:, :, None] * offset[:, None, :]).flatten(1)
        # The squared distance, without the term that is constant in a row.
        near = torch.from_numpy(around).float() @ offset.T - 0.5 * outer[:, [0, 3]].sum(1)
        probability = (torch.from_numpy(self.log) + near / bandwidth**2).softmax(1)
        moments = (probability @ torch.cat([offset, outer], 1)).double().numpy()
        mean, second = moments[:, :2], moments[:, 2:].reshape(-1, 2, 2)
        floor = _MIN_VARIANCE * self.pixel**2
        covariance = second - mean[:, :, None] * mean[:, None, :] + floor * np.eye(2)
        precision = np.linalg.inv(covariance)
        expected = 1 / (bandwidth**2 + floor)
        values, vectors = np.linalg.eigh(precision)
        kept = np.maximum(values - expected, 0.0)
        information = (vectors * kept[:, None]) @ vectors.transpose(0, 2, 1)
        moment = (precision @ mean[..., None])[..., 0] - expected * around
        # An axis without information has no moment.
        projected = (vectors.transpose(0, 2, 1) @ moment[..., None])[..., 0] * (kept > 0)
        moment = (vectors @ projected[..., None])[..., 0]
        return information * self.weight[:, None, None], moment * self.weight[:, None]

    def part(self, kept: NDArray[np.bool_]) -> BlockLikelihoods:
        """The blocks where ``kept`` (N,) is True."""
        return replace(
            self, position=self.position[kept], log=self.log[kept], weight=self.weight[kept]
        )

    def log_likelihood(self, displacement: Array, bandwidth: float) -> Array:
        """Logarithm of the likelihood, averaged by a Gaussian around displacements (N, 2): (N,).

        Up to a constant for each block.
        """
        offset = torch.from_numpy(self.offset).float()
        apart = torch.from_numpy(displacement).float()[:, None] - offset
        near = -0.5 * apart.square().sum(2) / bandwidth**2
        logs = (torch.from_numpy(self.log) + near).logsumexp(1)
        return np.asarray(logs.double().numpy())


Field = Callable[[Array], Array]
"""Displacements (N, 2) at positions (N, 2)."""
EStep = Callable[[Array, float], tuple[Array, Array]]
"""See `BlockLikelihoods.e_step`."""


def fit_affine(
    data: BlockLikelihoods, bandwidths: tuple[float, ...], ridge: float = 1e-3
) -> Array:
    """Fit an affine.

    Parameters
    ----------
    data : BlockLikelihoods
    bandwidths : tuple of float
        Standard deviation of the E-step's Gaussian in each round. Keep it above the displacements
        that an affine cannot follow, else the fit settles on a part of the picture.
    ridge : float
        Pull towards the identity, as a fraction of the information.

    Returns
    -------
    ndarray, shape (3, 3)
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

    _annealed_em(data, fit, bandwidths)
    affine = np.eye(3)
    affine[:2] += solution.T
    return affine


def fit_homography(
    data: BlockLikelihoods,
    bandwidths: tuple[float, ...],
    earlier: Field | None = None,
    ridge: float = 1e-3,
) -> Array:
    """Fit a homography (3, 3) by Gauss-Newton steps from the identity.

    See `fit_affine` and `fit_bspline_field` for the parameters.
    """
    matrix = np.eye(3)
    top = with_ones(data.position)

    def projected() -> tuple[Array, Array]:
        u, v, w = matrix @ top.T
        return np.stack([u / w, v / w], 1), w

    def fit(information: Array, moment: Array) -> Array:
        nonlocal matrix
        for _ in range(2):
            position, w = projected()
            jacobian = np.zeros((len(top), 2, 8))
            jacobian[:, 0, :3] = jacobian[:, 1, 3:6] = top / w[:, None]
            for axis in range(2):
                jacobian[:, axis, 6:] = -position[:, axis, None] * top[:, :2] / w[:, None]
            residual = moment - (information @ (position - data.position)[..., None])[..., 0]
            normal = np.einsum("nip,nij,njq->pq", jacobian, information, jacobian, optimize=True)
            normal += ridge * np.trace(normal) / 8 * np.eye(8) + 1e-9 * np.eye(8)
            step = np.linalg.solve(normal, np.einsum("nip,ni->p", jacobian, residual))
            matrix = matrix + np.append(step, 0).reshape(3, 3)
        return projected()[0] - data.position

    _annealed_em(data, fit, bandwidths, earlier)
    return matrix


def fit_bspline_field(
    data: BlockLikelihoods,
    half: tuple[float, float],
    *,
    bandwidths: tuple[float, ...],
    spacing: float = KNOT_SPACING,
    bending_sigma: float = BENDING_SIGMA,
    displacement_sigma: float = DISPLACEMENT_SIGMA,
    affine_sigma: float = AFFINE_SIGMA,
    earlier: Field | None = None,
    e_step: EStep | None = None,
) -> tuple[Array, SplineField]:
    """Fit an affine and a smooth displacement field together.

    One factor scales the field's two prior variances. It maximises the evidence (MacKay, "Bayesian
    interpolation", Neural Computation 4, 1992, section 4.3). Where an affine is enough, the field
    nearly vanishes.

    Parameters
    ----------
    data : BlockLikelihoods
    half : tuple of float
        Half the height and half the width of the rectangle that the field covers.
    spacing : float
        Distance of the control points.
    bending_sigma : float
        Prior standard deviation of second differences of neighbouring control points. A smaller
        one gives a smoother field.
    displacement_sigma : float
        Prior standard deviation of the control points.
    affine_sigma : float
        Prior standard deviation of the affine's departure from the identity.
    bandwidths : tuple of float
        Standard deviation of the E-step's Gaussian in each round.
    earlier : callable, optional
        The field that was applied when the images were resampled. The result includes it.
    e_step : callable, optional
        Replaces `BlockLikelihoods.e_step` of the data.

    Returns
    -------
    affine : ndarray, shape (3, 3)
    field : SplineField
        Position ``x`` goes to ``affine(x) + field(x)``.
    """
    splines, counts = spline_design(data.position, half, spacing)
    count = splines.shape[1]
    unscaled = bending_of(counts) / bending_sigma**2 + eye_array(count) / displacement_sigma**2
    system = SplinesWithAffine(csr_array(splines), with_ones(data.position))
    control, change = np.zeros((count, 2)), np.zeros((3, 2))
    factor, rounds = 1.0, itertools.count(1)

    def fit(information: Array, moment: Array) -> Array:
        nonlocal control, change, factor
        prior = unscaled / factor
        control, change = system.solve(information, moment, prior, 1 / affine_sigma**2)
        if next(rounds) < len(bandwidths):
            # Effective number of parameters, as if both components were independent and alike.
            weight = np.trace(information, axis1=1, axis2=2) / 2
            matrix = torch.from_numpy((system.normal(weight) + prior).toarray())
            covariance = torch.cholesky_inverse(torch.linalg.cholesky(matrix)).numpy()
            determined = 2 * (count - float(prior.multiply(covariance).sum()))
            energy = float((control * (unscaled @ control)).sum())
            low, high = _VARIANCE_FACTORS
            factor = min(max(energy / max(determined, 1e-6), low), high)
        return np.asarray(system.splines @ control + system.top @ change)

    _annealed_em(data, fit, bandwidths, earlier, e_step)
    affine = np.eye(3)
    affine[:2] += change.T
    return affine, SplineField(control.reshape(*counts, 2), half)


def _annealed_em(
    data: BlockLikelihoods,
    fit: Callable[[Array, Array], Array],
    bandwidths: tuple[float, ...],
    earlier: Field | None = None,
    e_step: EStep | None = None,
) -> None:
    """Alternate the E-step with ``fit``, which maps information and moments to displacements."""
    step = e_step or data.e_step
    around = np.zeros_like(data.position)
    base = np.zeros_like(around) if earlier is None else earlier(data.position)
    for bandwidth in bandwidths:
        information, moment = step(around, bandwidth)
        # The fit is of the whole field: the earlier one plus what these images still show.
        displaced = fit(information, moment + (information @ base[..., None])[..., 0])
        around = displaced - base
        if earlier is not None:
            base = earlier(data.position + around)
            around = displaced - base
