"""Independent checks of a registration: block confidence, inverse consistency, local support."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from napari_busref.geometry import (
    Estimate,
    base_grid,
    invert_affine,
    offsets,
    pixel_distance,
    sample_field,
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
_LOCAL_SIDE = 288  # also the last coarse pyramid level, whose fixed features exist already
_LOCAL_STRIDE = 2
_MIN_TOLERANCE = 2.0  # px at that size
_LOCAL_MIN_VALID = 0.5
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
    initial = Estimate(invert_affine(theta) + _perturbation(features.image.shape, theta))
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


def _perturbation(shape: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """A shift by 3 % of half the image; of strips longer than 4 : 1, by as much as of 4 : 1.

    A share of the length of a strip would lie beyond what the blocks can see.
    """
    room = 2 * math.sqrt(shape[0] * shape[1])
    shares = [min(1.0, room / side) for side in (shape[1], shape[0])]
    return like.new_tensor(_PERTURBATION) * like.new_tensor(shares)[:, None]


def local_support(
    features: FixedFeatures, moving: MaskedImage, estimate: Estimate, tolerance: float
) -> NDArray[np.float32]:
    """What the blocks say of each place: its content lies where the estimate puts it, or not.

    Parameters
    ----------
    features : FixedFeatures
    moving : MaskedImage
    estimate : Estimate
    tolerance : float
        As a fraction of the fixed image's longer side; see `least_tolerance`.

    Returns
    -------
    ndarray of float32, shape (rows, cols)
        In equal cells of the fixed image, each about 16 px at a working size of 288 px: the
        logarithm of the mean likelihood of displacements within the tolerance, over that of all
        others. 0 where nothing shows, below 0 where the content lies elsewhere, NaN where an
        image is empty.
    """
    size = working_size(features.image.shape, _LOCAL_SIDE)
    network = features.networks.likelihood
    likelihood, valid = block_likelihoods(features, moving, estimate, size, _LOCAL_STRIDE)
    limit = min(tolerance * max(size), network.radius)
    close = offsets(network.radius, likelihood).norm(dim=1) <= limit
    logs = likelihood.log_softmax(0)
    inside, outside = (logs[one].logsumexp(0) - float(one.sum().log()) for one in (close, ~close))
    known = (valid > _LOCAL_MIN_VALID).to(logs.dtype)
    # Blocks overlap and err alone: the mean of 3 x 3 is steadier than each.
    around = F.avg_pool2d(torch.stack([(inside - outside) * known, known]), 3, 1, 1)
    # The blocks begin at the border, and every second one is here; the cells divide the image.
    cell = network.block * _LOCAL_STRIDE
    rows, cols = (-(-n // cell) for n in size)
    centres = base_grid(rows, cols, logs) + logs.new_tensor([cell / n / 2 for n in size[::-1]])
    scale = (logs.new_tensor(size) / logs.new_tensor(valid.shape) / cell).flip(0)
    parts = torch.cat([around, known[None]])[None]
    total, count, own = sample_field(parts, (centres + 1) * scale - 1)[0]
    support = (total / count.clamp_min(1e-6)).masked_fill(own < 0.5, float("nan"))
    return np.asarray(support.float().cpu().numpy())


def least_tolerance(shape: tuple[int, int]) -> float:
    """The smallest error that `local_support` can tell, in pixels of an image of this shape."""
    return _MIN_TOLERANCE * max(shape) / max(working_size(shape, _LOCAL_SIDE))
