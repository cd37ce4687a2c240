"""Coarse-to-fine refinement: fit a transform to block likelihoods, one pyramid level at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

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
from napari_busref.registration.bsplines import Array, SplineField
from napari_busref.registration.context import MatchOptions
from napari_busref.registration.em_fit import (
    AFFINE_BANDWIDTHS,
    FIELD_BANDWIDTHS,
    BlockLikelihoods,
    EStep,
    fit_affine,
    fit_bspline_field,
    fit_homography,
)
from napari_busref.registration.features import FixedFeatures, dense_features
from napari_busref.registration.held_out import earns_its_place
from napari_busref.registration.pyramid import (
    MAX_SIDE,
    MaskedImage,
    PyramidLevel,
    overlap_magnification,
    resample,
    working_size,
)

_MAX_LEARNED_SIDE = 640  # px; larger levels compare edges and pixels only
_MIN_BLOCKS = 12
_MIN_VALID = 0.3  # valid fraction of a block in both images
_CONVERGED_PX = 2.0  # an affine that moves by less is not fitted again

_BLOCK_STRIDE = 2  # blocks overlap, so every second one is enough
_BLOCKS_PER_EVIDENCE = 3.0  # overlapping blocks that count as one independent block

Size = tuple[int, int]


def _unreported(done: float) -> None:
    pass


def refine_levels(
    fixed: FixedFeatures,
    moving: MaskedImage,
    initial: Estimate,
    schedule: tuple[PyramidLevel, ...],
    options: MatchOptions | None = None,
    *,
    score: Callable[[Estimate], float] | None = None,
    report: Callable[[float], None] = _unreported,
) -> Iterator[Estimate]:
    """Improve an estimate, level by level.

    Parameters
    ----------
    fixed : FixedFeatures
    moving : MaskedImage
        (1, 1, H, W), of any size.
    initial : Estimate
        Fixed -> moving.
    schedule : tuple of PyramidLevel
        See `napari_busref.registration.pyramid.pyramid_schedule`.
    options : MatchOptions, optional
        Which features to compare, and the tolerance of the score.
    score : callable, optional
        Scores an estimate. A fit that lowers the score by more than the tolerance is rejected.
    report : callable, optional
        Receives the completed share of all levels.

    Yields
    ------
    Estimate
        The best estimate after every level. Its displacement field does not fold.
    """
    options = options or MatchOptions()
    estimate = initial
    best = score(initial) if score is not None else 0.0
    magnification = overlap_magnification(moving, initial, fixed.image.shape)
    costs = [level.side**2 for level in schedule]
    for index, level in enumerate(schedule):
        scaled = replace(level, side=min(level.side * magnification, MAX_SIDE))
        # Edges suffice for large images, where the networks would take most of the time.
        learned = options.learned and (scaled.side <= _MAX_LEARNED_SIDE or not options.edges)
        before, own = sum(costs[:index]) / sum(costs), costs[index] / sum(costs)

        def within(done: float, before: float = before, own: float = own) -> None:
            report(before + own * done)

        chosen = replace(options, learned=learned)
        for _ in range(level.max_repeats):
            fitted = fit_level(fixed, moving, estimate, scaled, chosen, within)
            reached = score(fitted) if fitted is not None and score is not None else 0.0
            if fitted is None or reached < best - options.score_tolerance:
                break
            size = working_size(fixed.image.shape, scaled.side)
            step = mean_distance(estimate.theta, fitted.theta, size)
            estimate, best = fitted, reached
            if step < _CONVERGED_PX:
                break
        yield estimate
        within(1.0)


def fit_level(
    fixed: FixedFeatures,
    moving: MaskedImage,
    estimate: Estimate,
    level: PyramidLevel,
    options: MatchOptions,
    report: Callable[[float], None] = _unreported,
) -> Estimate | None:
    """Fit one level's transform model; None where too few blocks are valid in both images."""
    size = working_size(fixed.image.shape, level.side)
    compared = {"learned": options.learned, "edges": options.edges}
    likelihood, valid = block_likelihoods(
        fixed, moving, estimate, size, _BLOCK_STRIDE, report=report, **compared
    )
    report(0.85)
    data = collect_blocks(likelihood, valid, fixed.networks.likelihood, size)
    if len(data.position) < _MIN_BLOCKS:
        return None
    return _FITTERS[level.model](data, estimate, size, options)


def block_likelihoods(
    fixed: FixedFeatures,
    moving: MaskedImage,
    estimate: Estimate,
    size: Size,
    stride: int,
    *,
    learned: bool = True,
    edges: bool = True,
    report: Callable[[float], None] = _unreported,
) -> tuple[Tensor, Tensor]:
    """Log-likelihoods of each block's displacement from the estimate.

    Returns
    -------
    likelihood : Tensor
        (offsets, rows, cols) of every ``stride``-th block, see `Likelihood`.
    valid : Tensor
        (rows, cols), the fraction of each block that is valid in both images.
    """
    networks = fixed.networks
    target = fixed.dense(size, learned=learned, edges=edges)
    report(0.22)  # measured shares of a level at 384 x 512
    source = dense_features(
        networks.matcher, resample(moving, estimate, size), learned=learned, edges=edges
    )
    report(0.44)
    valid = F.avg_pool2d(target.valid * source.valid, networks.likelihood.block)
    return networks.likelihood(target, source, stride)[0], valid[0, 0, ::stride, ::stride]


def collect_blocks(
    likelihood: Tensor, valid: Tensor, network: Likelihood, size: Size
) -> BlockLikelihoods:
    """The likelihoods of the blocks that are valid in both images."""
    pixel, half = _pixel(size), _half(size)
    rows, cols = np.indices(valid.shape)
    index = np.stack([cols.ravel(), rows.ravel()], 1)
    position = (index * _BLOCK_STRIDE + 0.5) * network.block * pixel - np.array(half[::-1])
    fraction = valid.flatten().double().cpu().numpy()
    kept = fraction > _MIN_VALID
    return BlockLikelihoods(
        position[kept],
        offsets(network.radius, likelihood).double().cpu().numpy() * pixel,
        likelihood.flatten(1).T.cpu().numpy()[kept],
        fraction[kept] / _BLOCKS_PER_EVIDENCE,
        pixel,
    )


def _fit_affine(
    data: BlockLikelihoods, estimate: Estimate, size: Size, options: MatchOptions
) -> Estimate:
    return _with_affine(estimate, fit_affine(data, _in_pixels(AFFINE_BANDWIDTHS, size)), size)


def _fit_homography(
    data: BlockLikelihoods, estimate: Estimate, size: Size, options: MatchOptions
) -> Estimate:
    """Fit a homography and store it as the displacement field on top of the affine."""
    half = _half(size)
    matrix = fit_homography(data, _in_pixels(AFFINE_BANDWIDTHS, size), _field_of(estimate, half))
    y, x = _cell_axes(size)
    position = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))])
    u, v, w = np.tensordot(matrix, position, 1)
    field = np.stack([u / w, v / w], -1) - position[:2].transpose(1, 2, 0)
    return _with_field(estimate, field, half)


def _fit_dense(
    data: BlockLikelihoods, estimate: Estimate, size: Size, options: MatchOptions
) -> Estimate:
    """Fit an affine and a B-spline displacement field together, or the affine alone.

    See `napari_busref.registration.held_out`. A field of an earlier level has been judged.
    """
    half, bandwidths = _half(size), _in_pixels(FIELD_BANDWIDTHS, size)
    earlier = _field_of(estimate, half)

    def fit(
        blocks: BlockLikelihoods, rounds: tuple[float, ...], e_step: EStep | None = None
    ) -> tuple[Array, SplineField]:
        return fit_bspline_field(
            blocks,
            half,
            bandwidths=rounds,
            earlier=earlier,
            e_step=e_step,
        )

    e_step = options.e_step and partial(options.e_step, data, estimate)
    matrix, splines = fit(data, bandwidths, e_step)
    judged = estimate.phi is not None and options.transform == "affine"
    if not judged and e_step is None:
        affine = fit_affine(data, bandwidths)
        if not earns_its_place(data, (matrix, splines), affine, fit, bandwidths, earlier):
            return _with_affine(estimate, affine, size)
    # An estimate applies its field before its affine.
    field = splines.on_grid(*_cell_axes(size)) @ np.linalg.inv(matrix[:2, :2]).T
    return _with_field(_with_affine(estimate, matrix, size), field, half)


_FITTERS = {"affine": _fit_affine, "homography": _fit_homography, "dense": _fit_dense}


def _pixel(size: Size) -> float:
    """Length of a pixel in units of half the shorter side."""
    return 2 / min(size)


def _half(size: Size) -> tuple[float, float]:
    """Half the height and half the width in units of half the shorter side."""
    return size[0] / min(size), size[1] / min(size)


def _in_pixels(bandwidths: tuple[float, ...], size: Size) -> tuple[float, ...]:
    return tuple(bandwidth * _pixel(size) for bandwidth in bandwidths)


def _field_of(estimate: Estimate, half: tuple[float, float]) -> Callable[[Array], Array] | None:
    """The estimate's displacement field as a function of positions, if it has one."""
    phi, scale = estimate.phi, np.array(half[::-1])
    if phi is None:
        return None

    def field(position: Array) -> Array:
        points = torch.tensor(position / scale, dtype=torch.float32)[None, None].to(phi.device)
        return np.asarray(sample_field(phi, points)[0, :, 0].T.double().cpu().numpy() * scale)

    return field


def _with_affine(estimate: Estimate, matrix: Array, size: Size) -> Estimate:
    """The estimate after an affine (3, 3) of positions in units of half the shorter side."""
    delta = torch.tensor((matrix - np.eye(3))[None, :2], dtype=torch.float32)
    delta = isotropic_to_normalised(delta.to(estimate.theta.device), *size)
    return Estimate(compose_affine(estimate.theta, delta), estimate.phi)


def _cell_axes(size: Size) -> tuple[Array, Array]:
    """Row and column positions of the cells, in units of half the shorter side."""
    y, x = (
        ((np.arange(n // Matcher.stride) + 0.5) * 2 / (n // Matcher.stride) - 1) * h
        for n, h in zip(size, _half(size), strict=True)
    )
    return y, x


def _with_field(estimate: Estimate, field: Array, half: tuple[float, float]) -> Estimate:
    """The estimate's affine with a field (rows, cols, 2), smoothed until it does not fold."""
    phi = torch.tensor((field / half[::-1]).transpose(2, 0, 1)[None], dtype=torch.float32)
    return Estimate(estimate.theta, unfold_field(phi.to(estimate.theta.device)))


def min_jacobian(phi: Tensor) -> float:
    """Smallest Jacobian determinant of ``x + phi(x)``; phi (1, 2, h, w) is normalised."""
    height, width = phi.shape[-2:]
    along_y, along_x = torch.gradient(phi[0], dim=(1, 2))
    dy, dx = along_y * height / 2, along_x * width / 2
    determinant = (1 + dx[0]) * (1 + dy[1]) - dx[1] * dy[0]
    return float(determinant.min())


def unfold_field(phi: Tensor, threshold: float = 0.1) -> Tensor:
    """Smooth a field until its smallest Jacobian determinant reaches ``threshold``."""
    sigma = 1.0
    original = phi
    while min_jacobian(phi) < threshold:
        if sigma > max(phi.shape[-2:]):
            return torch.zeros_like(phi)
        size = min(2 * round(3 * sigma) + 1, 2 * (min(phi.shape[-2:]) // 2) - 1)
        phi = gaussian_blur2d(original, (size, size), (sigma, sigma), "reflect")
        sigma *= 1.5
    return phi
