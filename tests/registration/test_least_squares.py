"""Least squares of splines and an affine together, beside the whole system written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array, eye_array

from napari_busref.registration.bsplines import bending_of, spline_design
from napari_busref.registration.least_squares import SplinesWithAffine, normal_of_affine, with_ones


def draws(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, information matrices of full and of no rank, and moments."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((count, 2, 2))
    information = root @ root.transpose(0, 2, 1)
    information[::5] = 0
    wanted = rng.standard_normal((count, 2))
    position = rng.uniform(-1, 1, (count, 2)) * (1.4, 1.0)
    return position, information, (information @ wanted[..., None])[..., 0]


@pytest.mark.parametrize("half", [(1.0, 1.4), (1.4, 1.0)])
def test_eliminating_the_affine_solves_the_whole_system(half: tuple[float, float]) -> None:
    position, information, moment = draws()
    position = position if half[1] > 1 else position[:, ::-1]
    splines, counts = spline_design(position, half, 0.5)
    top = with_ones(position)
    prior = bending_of(counts) + 0.3 * eye_array(splines.shape[1])
    system = SplinesWithAffine(csr_array(splines), top)
    control, affine = system.solve(information, moment, prior, 0.7)

    design = np.kron(np.concatenate([splines, top], 1), np.eye(2))  # (x, y) innermost
    weights = np.zeros((len(position), 2, len(position), 2))
    weights[np.arange(60), :, np.arange(60)] = information
    penalty = np.zeros((splines.shape[1] + 3,) * 2)
    penalty[:-3, :-3] = prior.toarray()
    penalty[-3:, -3:] = 0.7 * np.eye(3)
    matrix = design.T @ weights.reshape(120, 120) @ design + np.kron(penalty, np.eye(2))
    expected = np.linalg.solve(matrix, design.T @ moment.ravel()).reshape(-1, 2)
    np.testing.assert_allclose(np.concatenate([control, affine]), expected, atol=1e-10)


def test_an_affine_is_found_again() -> None:
    position, information, _ = draws()
    truth = np.array([[0.1, -0.2], [0.05, 0.03], [0.4, -0.6]])
    displaced = with_ones(position) @ truth
    moment = (information @ displaced[..., None])[..., 0]
    matrix, side = normal_of_affine(with_ones(position), information, moment)
    np.testing.assert_allclose(np.linalg.solve(matrix, side).reshape(2, 3).T, truth, atol=1e-10)
