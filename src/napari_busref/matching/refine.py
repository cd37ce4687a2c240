"""Refinement: from a rough estimate to the pixel, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from numpy.typing import NDArray
from torch import Tensor

from napari_busref.matching.features import Reference, describe
from napari_busref.matching.fit import Displaced, fit_affine, fit_field, fit_homography
from napari_busref.matching.measure import Measured, measure
from napari_busref.matching.views import View, resample, working_size
from napari_busref.models.geometry import (
    Estimate,
    compose_affine,
    isotropic_to_normalised,
    sample_field,
)
from napari_busref.models.matcher import Matcher


@dataclass(frozen=True)
class Look:
    """One comparison of both images and one fit.

    Attributes
    ----------
    kind : str
        ``"affine"``, ``"homography"`` or ``"dense"``.
    side : int
        Working size: that of a square of this side has the area, in pixels.
    radius, reach, stride : int
        As of `measure`, in cells of two pixels.
    edge_weight : float
        As of `measure`; 0 looks at the descriptors alone.
    limits : tuple of float
        Residuals beyond which measurements are discounted, one a round, in units of half the
        shorter side. Not below what the elastic part of a warp adds to an affine: else the fit
        settles on a part of the picture.
    spacing : float
        Of the field's control points, in units of half the shorter side.
    bend : float
        Of the field, see `fit_field`.
    """

    kind: str
    side: int
    radius: int = 6
    reach: int = 11
    stride: int = 4
    edge_weight: float = 0.0
    limits: tuple[float, ...] = (0.3, 0.15, 0.08, 0.06)
    spacing: float = 0.2
    bend: float = 0.01


LARGEST = 2048
"""Side of the largest working size; larger images are refined at that."""

_CLOSER = (0.15, 0.08, 0.05, 0.04)
_FEWEST = 12  # measured places that a fit needs
_TOLERATED = 0.01  # fall of the judge's score

_AFFINE = (
    Look("affine", 128),
    Look("affine", 192, edge_weight=4.0),
    Look("affine", 288, edge_weight=10.0),
    Look("affine", LARGEST, radius=4, edge_weight=20.0),
)
_DENSE = (
    Look("dense", 192, radius=5, edge_weight=4.0, limits=_CLOSER),
    Look("dense", 288, radius=5, edge_weight=20.0, limits=_CLOSER),
    Look("dense", LARGEST, radius=5, edge_weight=20.0, limits=_CLOSER),
)


def looks(refine: str, transform: str) -> tuple[Look, ...]:
    """The looks of ``refine`` (``"affine"``, ``"dense"``, ``"none"``) with a kind of transform."""
    if refine == "none":
        return ()
    plan: tuple[Look, ...] = _AFFINE
    if transform == "homography":
        plan = (*plan, replace(plan[-2], kind="homography"), replace(plan[-1], kind="homography"))
    return plan if refine == "affine" else (*plan, *_DENSE)


def refined(
    fixed: Reference,
    moving: View,
    start: Estimate,
    plan: tuple[Look, ...],
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
        See `looks`.
    learned, edges : bool
        What to compare; switches of the ablation.
    judge : callable, optional
        Gives every estimate a score; a look that lowers it by more than a little is forgotten.

    Yields
    ------
    Estimate
        The best so far, after every look. Displacement fields are free of folds.
    """
    estimate = start
    score = judge(start) if judge is not None else 0.0
    for look in plan:
        with_edges = edges and (look.edge_weight > 0 or not learned)
        size = working_size(fixed.view.shape, look.side)
        target = fixed.described(size, learned=learned, edges=with_edges)
        source = describe(
            fixed.matcher, resample(moving, estimate, size), learned=learned, edges=with_edges
        )
        measured = measure(
            fixed.matcher,
            target,
            source,
            radius=look.radius,
            reach=look.reach,
            stride=look.stride,
            edge_weight=look.edge_weight,
        )
        if len(measured.index) >= _FEWEST:
            fitted = _fitted(estimate, measured, look, size)
            reached = judge(fitted) if judge is not None else 0.0
            if reached > score - _TOLERATED:
                estimate, score = fitted, reached
        yield estimate


def _fitted(estimate: Estimate, measured: Measured, look: Look, size: tuple[int, int]) -> Estimate:
    """The estimate with what one look has measured."""
    side = min(size)
    cell = 2 * Matcher.stride / side  # in units of half the shorter side
    half = (size[0] / side, size[1] / side)
    position = (measured.index[:, ::-1] + 0.5) * cell - np.array(half[::-1])
    # squares of voters that overlap count one vote several times
    shared = max((look.reach / look.stride) ** 2, 1.0)
    data = Displaced(position, measured.shift * cell, measured.information / cell**2 / shared)
    device = estimate.theta.device
    if look.kind == "affine":
        delta = torch.tensor(fit_affine(data, look.limits)[None, :2], dtype=torch.float32)
        delta = (delta - torch.eye(2, 3)).to(device)
        theta = isotropic_to_normalised(delta, *size)
        return Estimate(compose_affine(estimate.theta, theta), estimate.phi)

    total = _with_earlier(estimate, data, half)
    rows, cols = size[0] // Matcher.stride, size[1] // Matcher.stride
    y, x = (
        ((np.arange(n) + 0.5) * 2 / n - 1) * h for n, h in zip((rows, cols), half, strict=True)
    )
    if look.kind == "homography":
        matrix = fit_homography(total, look.limits)
        place = np.stack([*np.meshgrid(x, y), np.ones((rows, cols))])
        u, v, w = np.tensordot(matrix, place, 1)
        field = np.stack([u / w, v / w], -1) - place[:2].transpose(1, 2, 0)
    else:
        field = fit_field(total, half, look.spacing, look.bend, look.limits).on_grid(y, x)
    scale = np.array(half[::-1])
    phi = torch.tensor((field / scale).transpose(2, 0, 1)[None], dtype=torch.float32)
    return Estimate(estimate.theta, unfolded(phi.to(device)))


def _with_earlier(estimate: Estimate, data: Displaced, half: tuple[float, float]) -> Displaced:
    """Displacements from the affine: what was measured now and what the field had before."""
    if estimate.phi is None:
        return data
    scale = np.array(half[::-1])
    reached = torch.tensor((data.position + data.shift) / scale, dtype=torch.float32)
    earlier = sample_field(estimate.phi, reached[None, None].to(estimate.phi.device))
    shift: NDArray[np.float64] = earlier[0, :, 0].T.double().cpu().numpy() * scale
    return replace(data, shift=data.shift + shift)


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
