"""How far a registration holds when the places are asked one by one, and the other way round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from napari_busref.matching.features import Reference, known_cells
from napari_busref.matching.refine import Look, refined
from napari_busref.matching.views import View, finer, resample, working_size
from napari_busref.matching.votes import offsets, pool_votes, window_correlation
from napari_busref.models.geometry import (
    Estimate,
    base_grid,
    invert_affine,
    pixel_distance,
    transform_points,
)

_SIDE = 192
_RADIUS = 6
_REACH = 5
_CLOSE = 1.5  # cells
CHANCE = 9 / (2 * _RADIUS + 1) ** 2
"""Share of the offsets of the window that count as agreement."""
_OFF = ((0.0, 0.0, 0.03), (0.0, 0.0, -0.03))
_BACK = (Look("affine", _SIDE),)


@dataclass(frozen=True)
class Agreement:
    """Evidence for a registration.

    Attributes
    ----------
    local : float
        Share of the places in the overlap whose own best match, within a window of 12 cells,
        lies where the registration says; about `CHANCE` for images that share nothing.
    round_trip : float
        Mean distance, as a share of the fixed image's shorter side, by which the way there and an
        independent estimate of the way back miss each other. Infinite where there is none.
    """

    local: float
    round_trip: float


def agreement(reference: Reference, moving: View, estimate: Estimate) -> Agreement:
    """Measure both for an estimate fixed -> moving; ``moving`` (1, 1, H, W) of any size."""
    return Agreement(
        local_agreement(reference, moving, estimate), _round_trip(reference, moving, estimate)
    )


def local_agreement(reference: Reference, moving: View, estimate: Estimate) -> float:
    """Measure `Agreement.local` alone."""
    networks = reference.networks
    assert networks is not None
    shape = reference.view.shape
    size = working_size(shape, _SIDE * finer(moving, estimate, shape))
    view = resample(moving, estimate, size)
    target, source = reference.local(size).learned, networks.matcher(view.image, view.valid)
    both = known_cells(reference.resized(size)) * known_cells(view)
    votes = pool_votes(window_correlation(target, source, _RADIUS), both, _REACH)
    offset = offsets(_RADIUS, votes)[votes.argmax(1)]
    close = (offset.abs().amax(-1) <= _CLOSE).float()[:, None]
    inner = (F.avg_pool2d(both, _REACH, 1, _REACH // 2) > 0.9).float()
    total = float(inner.sum())
    return float((close * inner).sum()) / total if total >= 64 else 0.0


def _round_trip(reference: Reference, moving: View, estimate: Estimate) -> float:
    """Register the other way round from a start that is off, and compare."""
    theta = estimate.theta
    # a start that is off by some pixels must find its way home
    start = Estimate(invert_affine(theta) + torch.tensor(_OFF, device=theta.device))
    final = start
    fixed = reference.view
    for estimated in refined(Reference(reference.networks, moving), fixed, start, _BACK):
        final = estimated
    points = base_grid(16, 16, theta) * 0.9
    there = transform_points(theta, points)
    inside = (there.abs() <= 1).all(-1)
    if not bool(inside.any()):
        return float("inf")
    home = transform_points(final.theta, there)
    distance = pixel_distance(home, points, fixed.shape)[inside]
    return float(distance.mean()) / min(fixed.shape)
