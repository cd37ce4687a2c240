"""Votes -> displacements with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_busref.matching.features import Described
from napari_busref.matching.votes import offsets, pool_votes, window_correlation
from napari_busref.models.matcher import Matcher

_SHARPEST = 0.05  # variance of a displacement, in cells², that no vote goes below
_FEW = 0.3  # share of the voters that must lie in both images


@dataclass(frozen=True, eq=False)
class Measured:
    """Displacements of N places of the fixed grid, (x, y) in cells.

    Attributes
    ----------
    index : ndarray of int, shape (N, 2)
        Row and column of the cells.
    shift : ndarray, shape (N, 2)
        Where the place's content lies in the moving grid, relative to the place.
    information : ndarray, shape (N, 2, 2)
        Inverse covariance: an edge says much across and nothing along itself.
    """

    index: NDArray[np.intp]
    shift: NDArray[np.float64]
    information: NDArray[np.float64]


def measure(
    matcher: Matcher | None,
    fixed: Described,
    moving: Described,
    *,
    radius: int,
    reach: int,
    stride: int,
    edge_weight: float,
) -> Measured:
    """Let the cells around every ``stride``-th cell vote for its displacement.

    The votes are read as a likelihood over the window: the moments of their softmax, with the
    window's own spread taken out, are the displacement and its information.

    Parameters
    ----------
    fixed, moving : Described
        Of one size, batch of 1.
    radius, reach, stride : int
        Of the window, of the square of voters, and between the places; in cells.
    edge_weight : float
        How much the edges' directions count against the descriptors.
    """
    weight = fixed.known * moving.known
    window = torch.zeros((), device=weight.device)
    if fixed.learned is not None and moving.learned is not None and matcher is not None:
        temperature = matcher.temperature(1 + Matcher.reaches.index(reach))
        window = window_correlation(fixed.learned, moving.learned, radius) / temperature
    if fixed.edges is not None and moving.edges is not None:
        found = window_correlation(fixed.edges, moving.edges, radius)
        window = window + edge_weight * reach * found
    logits = pool_votes(window, weight, reach, stride)
    share = F.avg_pool2d(weight, reach, stride, reach // 2)[0, 0]
    probability = logits.softmax(1)[0].flatten(1).double().cpu().numpy()
    offset = offsets(radius, weight).double().cpu().numpy()

    mean = probability.T @ offset
    outer = offset[:, :, None] * offset[:, None, :]
    spread = np.tensordot(probability.T, outer, 1) - mean[:, :, None] * mean[:, None, :]
    covariance = spread + _SHARPEST * np.eye(2)
    precision = np.linalg.inv(covariance)
    # a flat window says nothing: remove what the window alone would have said
    flat = np.eye(2) / (radius * (radius + 1) / 3 + _SHARPEST)
    values, vectors = np.linalg.eigh(precision - flat)
    values = np.maximum(values, 1e-6)
    information = (vectors * values[:, None]) @ vectors.transpose(0, 2, 1)
    shift = np.linalg.solve(information + 1e-3 * np.eye(2), (precision @ mean[..., None]))[..., 0]
    shift = np.clip(shift, -radius, radius)

    rows, cols = share.shape
    index = np.stack(np.unravel_index(np.arange(rows * cols), (rows, cols)), 1) * stride
    voters = share.flatten().double().cpu().numpy()
    kept = voters > _FEW
    information = information * voters[:, None, None]
    return Measured(index[kept], shift[kept], information[kept])
