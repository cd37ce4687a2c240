"""How far a registration holds when the places are asked one by one, and the other way round."""

from __future__ import annotations

import torch

from napari_busref.geometry import (
    Estimate,
    base_grid,
    invert_affine,
    offsets,
    pixel_distance,
    transform_points,
)
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.pyramid import MaskedImage, overlap_magnification, working_size
from napari_busref.registration.refine import PyramidLevel, block_likelihoods, refine_levels

_SIDE = 128
_CLOSE = 2  # px at that size
_FEWEST = 8  # blocks
_OFF = ((0.0, 0.0, 0.03), (0.0, 0.0, -0.03))
_BACK = (PyramidLevel("affine", 144),)


def block_confidence(reference: FixedFeatures, moving: MaskedImage, estimate: Estimate) -> float:
    """Ask each block alone whether it lies where an estimate fixed -> moving puts it.

    Returns
    -------
    float
        Probability, on average over the blocks of the overlap, that a block's content lies within
        2 px of where the estimate says, at a working size of 128 px: what
        `napari_busref.models.features.likelihood.Likelihood` says. 0 where fewer than 8 blocks are shared.
    """
    networks = reference.networks
    assert networks is not None
    shape = reference.view.shape
    enlarged = overlap_magnification(moving, estimate, shape)
    size, every = working_size(shape, _SIDE * enlarged), int(enlarged)
    likelihood, share = block_likelihoods(reference, moving, estimate, size, every)
    close = offsets(networks.likelihood.radius, likelihood).abs().amax(1) <= _CLOSE
    right = likelihood.softmax(0)[close].sum(0)
    known = share > 0.9
    return float(right[known].mean()) if int(known.sum()) >= _FEWEST else 0.0


def inverse_consistency(
    reference: FixedFeatures, moving: MaskedImage, estimate: Estimate
) -> float:
    """Register the other way round from a start that is off, and compare.

    Returns
    -------
    float
        Mean distance, as a share of the fixed image's shorter side, by which the way there and
        the way back miss each other. Infinite where there is none.
    """
    theta = estimate.theta
    # a start that is off by some pixels must find its way home
    start = Estimate(invert_affine(theta) + torch.tensor(_OFF, device=theta.device))
    final = start
    fixed = reference.view
    for estimated in refine_levels(FixedFeatures(reference.networks, moving), fixed, start, _BACK):
        final = estimated
    points = base_grid(16, 16, theta) * 0.9
    there = transform_points(theta, points)
    inside = (there.abs() <= 1).all(-1)
    if not bool(inside.any()):
        return float("inf")
    home = transform_points(final.theta, there)
    distance = pixel_distance(home, points, fixed.shape)[inside]
    return float(distance.mean()) / min(fixed.shape)
