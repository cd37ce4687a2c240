"""Scores that rank candidate estimates: edges, which no network maximised, and blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from torch import Tensor

from napari_busref.geometry import Estimate
from napari_busref.registration.consistency import block_confidence
from napari_busref.registration.features import FixedFeatures, edge_directions, valid_cells
from napari_busref.registration.pyramid import (
    MaskedImage,
    PyramidLevel,
    resample,
    working_size,
)
from napari_busref.registration.refine import refine_levels

PRE_REFINEMENT = PyramidLevel("affine", 128)
"""Level that a near search fits to a candidate before it compares it."""
_SIDE = 256
_SIGMA = 2.0  # px at that size


class CandidateScorer:
    """Scores of candidate estimates for one pair, cached per estimate.

    Attributes
    ----------
    edges, blocks : callable
        `edge_score` and `block_confidence` of an estimate.
    pre_refine : callable
        An estimate after one pyramid level.
    """

    def __init__(self, features: FixedFeatures, moving: MaskedImage) -> None:
        self.features, self.moving = features, moving
        self.edges = cache(partial(edge_score, features, moving))
        self.blocks = cache(partial(block_confidence, features, moving))
        self.pre_refine = cache(partial(_pre_refine, features, moving, self.edges))


def _pre_refine(
    features: FixedFeatures,
    moving: MaskedImage,
    score: Callable[[Estimate], float],
    estimate: Estimate,
) -> Estimate:
    *_, refined = refine_levels(features, moving, estimate, (PRE_REFINEMENT,), score=score)
    return refined


def is_finite(estimate: Estimate) -> bool:
    """Whether all values of an estimate are finite."""
    parts = (part for part in (estimate.theta, estimate.phi) if part is not None)
    return all(bool(part.isfinite().all()) for part in parts)


def edge_score(features: FixedFeatures, moving: MaskedImage, estimate: Estimate) -> float:
    """Correlation of the edge directions in the overlap, in [-1, 1].

    No network and no candidate has maximised it, so it ranks them without bias.
    """
    size = working_size(features.image.shape, _SIDE)
    source = resample(moving, estimate, size)
    first, second = features.edges(size, _SIGMA), edge_directions(source, _SIGMA)
    # Only cells with edges in both images, which excludes those beside a border.
    both = (_has_edges(first) * _has_edges(second)).to(first.dtype)
    first, second = (_centre(edges, both) for edges in (first, second))
    norm = (first.square().sum() * second.square().sum()).sqrt()
    if float(norm) < 1e-3:
        return -1.0
    correlation: Tensor = (first * second).sum() / norm
    # A small overlap correlates by chance more easily.
    return float(correlation) * float(valid_cells(source).mean()) ** 0.5


def _centre(edges: Tensor, both: Tensor) -> Tensor:
    """Subtract the mean direction: walls and horizons agree at every translation."""
    mean = (edges * both).sum((-2, -1), keepdim=True) / both.sum().clamp_min(1)
    return (edges - mean) * both


def _has_edges(edges: Tensor) -> Tensor:
    return (edges != 0).any(1, keepdim=True)
