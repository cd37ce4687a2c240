"""Join what the tiles of a level say in one smooth displacement of the fixed image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.interpolate import BSpline
from scipy.sparse.linalg import LinearOperator, cg, splu

from napari_busref.registration.tiles import TileFit, displaced
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

__all__ = ["CONTROL", "join", "outlying"]

CONTROL = 64
"""Distance of the control points, in pixels of the level."""
NODES = 32.0
"""Spacing of the resulting displacement in fixed pixels."""

_BENDING_SIGMA = 1.5  # px of the level, of second differences of control points
_HELD_SIGMA = 2.0  # px of the level, where only the transform before can tell
_LOOSE = 1e-9  # 1 / px² of control points: few blocks leave the linear part undetermined
_LEAST_SPREAD = 0.5  # px of the level; neighbours that agree better make no outlier
_OUTLYING = 3.0  # standard deviations of a tile's move from those around it
_MIN_JACOBIAN = 0.1

Array = NDArray[np.float64]
Places = Mapping[tuple[int, int], TileFit]


def outlying(fits: Places, start: Transform, step: int) -> set[tuple[int, int]]:
    """Find the tiles whose mean move differs from those of the tiles around them.

    Parameters
    ----------
    fits : mapping
        From the row and column of a tile to its fit.
    start : Transform
        What they move from.
    step : int
        Fixed pixels along a side of the level's pixels.
    """
    moves = {place: fit.move(start) for place, fit in fits.items()}
    found = set()
    for place, move in moves.items():
        around = np.array(
            [
                moves[near]
                for row in (-1, 0, 1)
                for col in (-1, 0, 1)
                if (row or col) and (near := (place[0] + row, place[1] + col)) in moves
            ]
        )
        if len(around) < 3:
            continue
        middle = np.median(around, axis=0)
        spread = 1.48 * np.median(np.linalg.norm(around - middle, axis=1))
        apart = np.linalg.norm(move - middle)
        if apart > _OUTLYING * max(spread, _LEAST_SPREAD * step):
            found.add(place)
    return found


def join(
    fits: Iterable[TileFit], start: Transform, step: int, known: NDArray[np.bool_]
) -> tuple[Transform, float]:
    """Fit a bending-penalised cubic B-spline to the blocks, and to the transform before.

    Where neither can tell, the spline bends as little as possible between what is around.

    Parameters
    ----------
    fits : iterable of TileFit
    start : Transform
        The transform before.
    step : int
        Fixed pixels along a side of the level's pixels.
    known : ndarray of bool, shape (h, w)
        Where `start` can tell, on a coarse level of the fixed image.

    Returns
    -------
    transform : Transform
        With the affine of `start`. The moves from there do not fold.
    median : float
        Length of these moves, in fixed pixels.
    """
    from napari_busref.registration.bsplines import bending_of  # loads torch

    shape, spacing = start.fixed_shape, float(CONTROL * step)
    counts = (int(-(-shape[0] // spacing)) + 3, int(-(-shape[1] // spacing)) + 3)
    size = counts[0] * counts[1]
    normal = {pair: sparse.csr_array((size, size)) for pair in ((0, 0), (0, 1), (1, 1))}
    right = np.zeros((2, size))
    for fit in filter(lambda one: len(one.position), (*fits, _held(start, step, known))):
        basis = _basis_of(fit.position, spacing, counts)
        for i, j in normal:
            weighted = basis.multiply(fit.information[:, i, j, None])
            normal[i, j] = normal[i, j] + basis.T @ weighted
        right += (basis.T @ fit.moment).T
    nodes = Grid.covering(shape, (NODES, NODES))
    rows, cols = nodes.positions()
    at_nodes = [_basis(x.ravel(), spacing, n) for x, n in zip((rows, cols), counts, strict=True)]
    places = np.stack(np.broadcast_arrays(rows, cols), -1).reshape(-1, 2)
    before = displaced(start, places).T.reshape(2, *nodes.shape)
    bending = bending_of(counts) / (_BENDING_SIGMA * step) ** 2
    for stiffer in (1.0, 10.0, 100.0, 1000.0):
        prior = _LOOSE * sparse.eye_array(size) + stiffer * bending
        matrix = sparse.block_array(
            [[normal[0, 0] + prior, normal[0, 1]], [normal[0, 1].T, normal[1, 1] + prior]],
            format="csr",
        )
        solved, _ = cg(matrix, right.ravel(), rtol=1e-5, M=_both_alike(normal, prior))
        control = solved.reshape(2, *counts)
        move = np.stack([at_nodes[0] @ one @ at_nodes[1].T for one in control]) - before
        if _least_jacobian(move) > _MIN_JACOBIAN:
            break
    while _least_jacobian(move) <= _MIN_JACOBIAN:
        move = move / 2
    moves = Transform(
        displacement=move.astype(np.float32),
        fixed_shape=shape,
        moving_shape=shape,
        spacing=nodes.step,
    )
    return moves.compose(start), float(np.median(np.linalg.norm(move, axis=0)))


def _held(start: Transform, step: int, known: NDArray[np.bool_]) -> TileFit:
    """What the transform before says where it can tell, one block a control point."""
    rows, cols = Grid.covering(start.fixed_shape, (float(CONTROL * step),) * 2).positions()
    position = np.stack(np.broadcast_arrays(rows, cols), -1).reshape(-1, 2)
    index = (position * known.shape / start.fixed_shape).astype(int)
    position = position[known[tuple(np.minimum(index, np.array(known.shape) - 1).T)]]
    sure = 1 / (_HELD_SIGMA * step) ** 2
    information = np.broadcast_to(sure * np.eye(2), (len(position), 2, 2))
    return TileFit(position, information, sure * displaced(start, position), 1.0)


def _both_alike(
    normal: Mapping[tuple[int, int], sparse.csr_array], prior: sparse.csr_array
) -> LinearOperator:
    """The inverse as if both components were alike; wide gaps need it to converge."""
    alike = splu(sparse.csc_array((normal[0, 0] + normal[1, 1]) / 2 + prior))

    def solve(right: Array) -> Array:
        return np.asarray(alike.solve(right.reshape(2, -1).T).T.ravel())

    return LinearOperator((2 * prior.shape[0],) * 2, matvec=solve, dtype=np.float64)


def _least_jacobian(move: Array) -> float:
    rows, cols = (np.gradient(part, NODES) if min(part.shape) > 1 else (0, 0) for part in move)
    return float(np.min((1 + rows[0]) * (1 + cols[1]) - rows[1] * cols[0]))


def _basis(values: Array, spacing: float, count: int) -> sparse.csr_array:
    """Basis functions of evenly spaced control points at pixels, (N, count)."""
    knots = spacing * np.arange(-3, count + 1)
    inside = np.clip(values + 0.5, 0, spacing * (count - 3) * (1 - 1e-9))
    return sparse.csr_array(BSpline.design_matrix(inside, knots, 3))


def _basis_of(position: Array, spacing: float, counts: tuple[int, int]) -> sparse.csr_array:
    """Basis functions of a grid of control points at positions, (N, rows * cols)."""
    rows, cols = (_basis(position[:, axis], spacing, counts[axis]) for axis in (0, 1))
    data = rows.data.reshape(-1, 4, 1) * cols.data.reshape(-1, 1, 4)
    index = rows.indices.reshape(-1, 4, 1) * counts[1] + cols.indices.reshape(-1, 1, 4)
    start = np.arange(len(position) + 1) * 16
    shape = (len(position), counts[0] * counts[1])
    return sparse.csr_array((data.ravel(), index.ravel(), start), shape=shape)
