"""Two independent checks of a registration: block confidence and inverse consistency."""

from __future__ import annotations

from napari_busref.geometry import (
    Estimate,
    base_grid,
    invert_affine,
    offsets,
    pixel_distance,
    transform_points,
)
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.pyramid import (
    MaskedImage,
    PyramidLevel,
    overlap_magnification,
    working_size,
)
from napari_busref.registration.refine import block_likelihoods, refine_levels

_SIDE = 128
_CLOSE_PX = 2  # at that size
_MIN_VALID = 0.9
_MIN_BLOCKS = 8
_PERTURBATION = ((0.0, 0.0, 0.03), (0.0, 0.0, -0.03))
_BACKWARD = (PyramidLevel("affine", 144),)


def block_confidence(features: FixedFeatures, moving: MaskedImage, estimate: Estimate) -> float:
    """Mean probability that a block lies within 2 px of where the estimate puts it.

    Returns
    -------
    float
        In [0, 1], at a working size of 128 px, from the block likelihoods. 0 where fewer than 8
        blocks are valid in both images.
    """
    shape = features.image.shape
    magnification = overlap_magnification(moving, estimate, shape)
    size, stride = working_size(shape, _SIDE * magnification), int(magnification)
    likelihood, valid = block_likelihoods(features, moving, estimate, size, stride)
    close = offsets(features.networks.likelihood.radius, likelihood).abs().amax(1) <= _CLOSE_PX
    probability = likelihood.softmax(0)[close].sum(0)
    counted = valid > _MIN_VALID
    return float(probability[counted].mean()) if int(counted.sum()) >= _MIN_BLOCKS else 0.0


def inverse_consistency(features: FixedFeatures, moving: MaskedImage, estimate: Estimate) -> float:
    """Distance between the estimate and an independent registration from moving to fixed.

    The backward registration starts from the perturbed inverse, so it has to converge.

    Returns
    -------
    float
        Mean distance as a fraction of the fixed image's shorter side. Infinite where no moving
        pixel maps back.
    """
    theta = estimate.theta
    initial = Estimate(invert_affine(theta) + theta.new_tensor(_PERTURBATION))
    fixed = features.image
    backward = FixedFeatures(features.networks, moving)
    *_, final = refine_levels(backward, fixed, initial, _BACKWARD)
    points = base_grid(16, 16, theta) * 0.9
    forward = transform_points(theta, points)
    inside = (forward.abs() <= 1).all(-1)
    if not bool(inside.any()):
        return float("inf")
    returned = transform_points(final.theta, forward)
    distance = pixel_distance(returned, points, fixed.shape)[inside]
    return float(distance.mean()) / min(fixed.shape)
