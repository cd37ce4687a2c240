"""Refinement: from a rough estimate to the pixel, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor

from napari_busref.geometry import (
    Estimate,
    compose_affine,
    isotropic_to_normalised,
    mean_distance,
    offsets,
    sample_field,
)
from napari_busref.models.features.likelihood import Likelihood
from napari_busref.models.features.matcher import Matcher
from napari_busref.registration.bsplines import Array
from napari_busref.registration.em_fit import (
    BlockLikelihoods,
    fit_affine,
    fit_bspline_field,
    fit_homography,
)
from napari_busref.registration.features import FixedFeatures, dense_features
from napari_busref.registration.pyramid import (
    MaskedImage,
    overlap_magnification,
    resample,
    working_size,
)


@dataclass(frozen=True)
class PyramidLevel:
    """One comparison of both images and one fit.

    Attributes
    ----------
    kind : str
        ``"affine"``, ``"homography"`` or ``"dense"``.
    side : float
        Working size: that of a square of this side has the area, in pixels; larger where the
        images share a small part, see `overlap_magnification`.
    most : int
        How often is looked at most: again as long as the affine still moves by two pixels or more.
    """

    kind: str
    side: float
    most: int = 1


LARGEST = 2048
"""Side of the largest working size; larger images are refined at that."""

_COARSE = (128, 128, 192, 288)
_STEP = 640  # from the coarse sides to one beyond this, halves of it lie between
_FEWEST = 12  # blocks that a fit needs
_KNOWN = 0.3  # share of a block that must lie in both images
_TOLERATED = 0.01  # fall of the judge's score
_MOST = 3  # looks that end the coarse ones
_STILL = 2.0  # px by which an affine moves that need not be looked at again

# Widths of the reading, in pixels, see `napari_busref.registration.em_fit`.
_STIFF = (8.0, 6.0, 5.0, 4.0, 4.0)
_SOFT = (8.0, 6.0, 4.0, 3.0, 2.0, 1.4)
# Of displacement fields, in units of half the shorter side: distance of control points, deviation
# expected of their second differences and of themselves.
_SPACING, _BEND, _PULL = 0.15, 0.04, 0.03
_LOOSE = 0.005  # deviation expected of what the affine still lacks when a field is read
_EVERY = 2  # of the blocks; the others look at much the same pixels
_SHARED = 3.0  # blocks that share one block's worth of evidence


def pyramid_schedule(
    refine: str, transform: str, shape: tuple[int, int], *, near: bool = False
) -> tuple[PyramidLevel, ...]:
    """What is looked at for a fixed image of ``shape``.

    Parameters
    ----------
    refine : str
        ``"affine"``, ``"dense"`` or ``"none"``.
    transform : str
        ``"affine"`` or ``"homography"``.
    near : bool
        Whether the start is off by a few pixels only: of the coarse looks the last is enough.
    """
    if refine == "none":
        return ()
    full = min((shape[0] * shape[1]) ** 0.5, LARGEST)
    fine = [full]
    while fine[0] > _STEP:
        fine.insert(0, fine[0] / 2)
    coarse = [side for side in _COARSE if side < full][-1 if near else 0 :]
    plan = [PyramidLevel("affine", side) for side in coarse or fine[:1]]
    plan[-1] = replace(plan[-1], most=_MOST)
    if transform == "homography":
        plan.append(PyramidLevel("homography", (coarse or fine)[-1]))
    kind = "dense" if refine == "dense" else transform
    return (*plan, *(PyramidLevel(kind, side) for side in fine))


def refine_levels(
    fixed: FixedFeatures,
    moving: MaskedImage,
    start: Estimate,
    plan: tuple[PyramidLevel, ...],
    *,
    learned: bool = True,
    edges: bool = True,
    judge: Callable[[Estimate], float] | None = None,
) -> Iterator[Estimate]:
    """Improve an estimate look by look.

    Parameters
    ----------
    fixed : Reference
        The fixed image with its descriptions.
    moving : View
        (1, 1, H, W), of any size.
    start : Estimate
        Fixed -> moving.
    plan : tuple of Look
        See `pyramid_schedule`.
    learned, edges : bool
        What to compare: learned features, and edges and pixels; switches of the ablation.
    judge : callable, optional
        Gives every estimate a score; a look that lowers it by more than a little is forgotten.

    Yields
    ------
    Estimate
        The best so far, after every look. Displacement fields are free of folds.
    """
    estimate = start
    score = judge(start) if judge is not None else 0.0
    enlarged = overlap_magnification(moving, start, fixed.view.shape)
    for look in plan:
        closer = replace(look, side=min(look.side * enlarged, LARGEST))
        # the edges of large pictures need no help, and the networks would take most of the time
        helped = learned and (closer.side <= _STEP or not edges)
        for _ in range(look.most):
            fitted = _fitted(fixed, moving, estimate, closer, helped, edges)
            reached = judge(fitted) if fitted is not None and judge is not None else 0.0
            if fitted is None or reached < score - _TOLERATED:
                break
            size = working_size(fixed.view.shape, closer.side)
            moved = mean_distance(estimate.theta, fitted.theta, size)
            estimate, score = fitted, reached
            if moved < _STILL:
                break
        yield estimate


def _fitted(
    fixed: FixedFeatures,
    moving: MaskedImage,
    estimate: Estimate,
    look: PyramidLevel,
    learned: bool,
    edges: bool,
) -> Estimate | None:
    """The estimate with what one look has found; None where too little can be compared."""
    networks = fixed.networks
    assert networks is not None
    size = working_size(fixed.view.shape, look.side)
    side = min(size)
    pixel, half = 2 / side, (size[0] / side, size[1] / side)
    likelihood, share = block_likelihoods(
        fixed, moving, estimate, size, _EVERY, learned=learned, pixels=edges
    )
    data = _likely(likelihood, share, networks.likelihood, pixel, half)
    if len(data.position) < _FEWEST:
        return None
    stiff, soft = (tuple(width * pixel for width in widths) for widths in (_STIFF, _SOFT))
    if look.kind == "affine":
        return _with_affine(estimate, fit_affine(data, stiff), size)
    earlier = _earlier(estimate, half)
    y, x = _axes(size, half)
    if look.kind == "homography":
        matrix = fit_homography(data, stiff, earlier)
        place = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))])
        u, v, w = np.tensordot(matrix, place, 1)
        field = np.stack([u / w, v / w], -1) - place[:2].transpose(1, 2, 0)
    else:
        matrix, splines = fit_bspline_field(
            data,
            half,
            spacing=_SPACING,
            bend=_BEND,
            pull=_PULL,
            loose=_LOOSE,
            widths=soft,
            earlier=earlier,
        )
        estimate = _with_affine(estimate, matrix, size)
        field = splines.on_grid(y, x) @ np.linalg.inv(matrix[:2, :2]).T  # before that affine
    return _with_field(estimate, field, half)


def block_likelihoods(
    fixed: FixedFeatures,
    moving: MaskedImage,
    estimate: Estimate,
    size: tuple[int, int],
    every: int,
    *,
    learned: bool = True,
    pixels: bool = True,
) -> tuple[Tensor, Tensor]:
    """Where the content of each block lies, seen from the estimate.

    Returns
    -------
    likelihood : Tensor
        (offsets, rows, cols), see `Likelihood`; of every so many blocks.
    share : Tensor
        (rows, cols), how much of each block both images show.
    """
    networks = fixed.networks
    assert networks is not None
    net = networks.likelihood
    target = fixed.local(size, learned=learned, pixels=pixels)
    source = dense_features(
        networks.matcher, resample(moving, estimate, size), learned=learned, pixels=pixels
    )
    shared = F.avg_pool2d(target.known * source.known, net.block)
    return net(target, source, every)[0], shared[0, 0, ::every, ::every]


def _likely(
    likelihood: Tensor, known: Tensor, net: Likelihood, pixel: float, half: tuple[float, float]
) -> BlockLikelihoods:
    """What `block_likelihoods` has said, where both images hold a picture."""
    rows, cols = np.indices(known.shape)
    index = np.stack([cols.ravel(), rows.ravel()], 1)
    position = (index * _EVERY + 0.5) * net.block * pixel - np.array(half[::-1])
    share = known.flatten().double().cpu().numpy()
    kept = share > _KNOWN
    return BlockLikelihoods(
        position[kept],
        offsets(net.radius, likelihood).double().cpu().numpy() * pixel,
        likelihood.flatten(1).T.cpu().numpy()[kept],
        share[kept] / _SHARED,
        pixel,
    )


def _earlier(estimate: Estimate, half: tuple[float, float]) -> Callable[[Array], Array] | None:
    """The estimate's field as a function of positions, if it has one."""
    phi, scale = estimate.phi, np.array(half[::-1])
    if phi is None:
        return None

    def field(position: Array) -> Array:
        points = torch.tensor(position / scale, dtype=torch.float32)[None, None].to(phi.device)
        return np.asarray(sample_field(phi, points)[0, :, 0].T.double().cpu().numpy() * scale)

    return field


def _with_affine(estimate: Estimate, matrix: Array, size: tuple[int, int]) -> Estimate:
    """The estimate after an affine (3, 3) of positions in units of half the shorter side."""
    delta = torch.tensor((matrix - np.eye(3))[None, :2], dtype=torch.float32)
    delta = isotropic_to_normalised(delta.to(estimate.theta.device), *size)
    return Estimate(compose_affine(estimate.theta, delta), estimate.phi)


def _axes(size: tuple[int, int], half: tuple[float, float]) -> tuple[Array, Array]:
    """Rows and columns of the cells, in units of half the shorter side."""
    y, x = (
        ((np.arange(n // Matcher.stride) + 0.5) * 2 / (n // Matcher.stride) - 1) * h
        for n, h in zip(size, half, strict=True)
    )
    return y, x


def _with_field(estimate: Estimate, field: Array, half: tuple[float, float]) -> Estimate:
    """The estimate's affine with a field (rows, cols, 2), smoothed until it does not fold."""
    phi = torch.tensor((field / half[::-1]).transpose(2, 0, 1)[None], dtype=torch.float32)
    return Estimate(estimate.theta, unfolded(phi.to(estimate.theta.device)))


def smallest_jacobian(phi: Tensor) -> float:
    """Smallest determinant of the Jacobian of ``x + phi(x)``, phi (1, 2, h, w) normalised."""
    height, width = phi.shape[-2:]
    along_y, along_x = torch.gradient(phi[0], dim=(1, 2))
    dy, dx = along_y * height / 2, along_x * width / 2
    determinant = (1 + dx[0]) * (1 + dy[1]) - dx[1] * dy[0]
    return float(determinant.min())


def unfolded(phi: Tensor, least: float = 0.1) -> Tensor:
    """Smooth a field until its smallest Jacobian determinant is at least ``least``."""
    sigma = 1.0
    original = phi
    while smallest_jacobian(phi) < least:
        if sigma > max(phi.shape[-2:]):
            return torch.zeros_like(phi)
        size = min(2 * round(3 * sigma) + 1, 2 * (min(phi.shape[-2:]) // 2) - 1)
        phi = gaussian_blur2d(original, (size, size), (sigma, sigma), "reflect")
        sigma *= 1.5
    return phi
