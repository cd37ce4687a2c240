"""Near search: a grid of poses around the initial one, all translations at once by FFT."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from napari_busref.geometry import base_grid, transform_points
from napari_busref.models.features.matcher import Matcher
from napari_busref.models.layers import unit_length
from napari_busref.registration.features import valid_cells
from napari_busref.registration.pyramid import MaskedImage, downsample, pixel_scale, working_size
from napari_busref.runtime.progress import Reporter

# The learned features were trained under 15 degrees and a quarter of the scale. So these steps
# cover +-15 degrees and 0.8 to 1.25, relative to the initial transform.
_ROTATIONS = (-10.0, 0.0, 10.0)  # degrees, counter-clockwise on the screen
_SCALES = tuple(0.85 * (1.18 / 0.85) ** (step / 2) for step in range(3))  # of the content
_MAX_SHIFT = 0.3  # of the moving image's centre, as a fraction of the fixed image's sides
_MIN_OVERLAP = 0.4  # as a fraction of the smaller image
_PRIOR_SIGMA = 0.3  # of a Gaussian on the shift, a mild preference among similar scores
_SIDE = 128
_DUPLICATE_DISTANCE = 0.06  # of corners, in units of half the side
_WEIGHT_EXPONENT = 0.25  # of overlap and prior, in the score
_BATCH_PIXELS = 1 << 19  # of moving images that the network takes at once
_MAX_CANVAS = 1 << 21  # px; a moving image that covers more is no pose to search
_REACHABLE = 0.75  # of the smallest overlap: an image may lose so many cells at its borders


@dataclass(frozen=True)
class PoseCandidate:
    """A pose at which the images may fit.

    Attributes
    ----------
    theta : Tensor
        (1, 2, 3), fixed -> moving, normalised coordinates.
    score : float
        Mean correlation of the learned features in the overlap, weighted by overlap and prior.
    """

    theta: Tensor
    score: float


def near_search(
    matcher: Matcher,
    fixed: MaskedImage,
    moving: MaskedImage,
    initial: Tensor,
    *,
    max_candidates: int = 3,
    reporter: Reporter | None = None,
) -> list[PoseCandidate]:
    """Compare all poses near the initial one.

    Parameters
    ----------
    matcher : Matcher
        Computes the learned features of both images.
    fixed, moving : MaskedImage
        (1, 1, H, W), of any sizes.
    initial : Tensor
        (1, 2, 3), fixed -> moving, normalised coordinates.
    max_candidates : int
        How many distinct candidates to return at most.
    reporter : Reporter, optional
        Receives the progress and may cancel, at every scale.

    Returns
    -------
    list of PoseCandidate
        Best first. Empty when the images overlap too little at every pose.
    """
    reporter = reporter or Reporter()
    found: list[PoseCandidate] = []
    shares = float(fixed.valid.mean()), float(moving.valid.mean())
    for index, scale in enumerate(_SCALES):
        reporter.step("searching", index / len(_SCALES))
        # Keeps the number of overlapping pixels roughly constant over the scales.
        size = working_size(fixed.shape, round(_SIDE / scale**0.5))
        target = _FixedTarget.of(matcher, fixed.resize(size))
        poses = torch.cat([_rotate_and_scale(initial, a, scale, size) for a in _ROTATIONS])
        poses = poses[_largest_overlap(poses, shares) >= _REACHABLE * _MIN_OVERLAP]
        if not len(poses):
            continue
        canvas = _canvas(poses, size)
        if canvas[0] * canvas[1] > _MAX_CANVAS:
            continue
        for thetas in poses.split(max(_BATCH_PIXELS // (canvas[0] * canvas[1]), 1)):
            found += _correlate_translations(matcher, target, moving, thetas, canvas)
    found.sort(key=lambda candidate: -candidate.score)
    return _suppress_duplicates(found, max_candidates)


@dataclass(frozen=True)
class _FixedTarget:
    """The fixed image at one scale of the search.

    Attributes
    ----------
    size : tuple of int
        (H, W) in pixels.
    features, valid : Tensor
        (1, D, h, w) learned features, 0 where not valid, and (1, 1, h, w) valid cells.
    """

    size: tuple[int, int]
    features: Tensor
    valid: Tensor

    @classmethod
    def of(cls, matcher: Matcher, image: MaskedImage) -> _FixedTarget:
        return cls(image.shape, *centred_features(matcher, image))


def centred_features(matcher: Matcher, image: MaskedImage) -> tuple[Tensor, Tensor]:
    """Learned features with mean 0 over the valid cells and 0 elsewhere; the valid cells."""
    valid = valid_cells(image)
    features = matcher(image.image, image.valid)
    total = valid.sum((-2, -1), keepdim=True).clamp_min(1)
    mean = (features * valid).sum((-2, -1), keepdim=True) / total
    return unit_length(features - mean) * valid, valid


def _rotate_and_scale(
    initial: Tensor, degrees: float, scale: float, size: tuple[int, int]
) -> Tensor:
    """Rotate and scale the content about the moving image's centre, (1, 2, 3)."""
    angle = math.radians(degrees)
    # Positions transform inversely to content.
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    aspect = size[1] / size[0]
    turn = initial.new_tensor([[cos, -sin / aspect], [sin * aspect, cos]])
    linear = initial[0, :, :2] @ turn
    return torch.cat([linear, -linear @ _centre(initial)[0][:, None]], 1)[None]


def _centre(thetas: Tensor) -> Tensor:
    """Fixed position of the moving image's centre, (B, 2), normalised."""
    return -torch.linalg.solve(thetas[:, :, :2], thetas[:, :, 2])


def _canvas(thetas: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the fixed grid that hold every rotated moving image."""
    extent = torch.linalg.inv(thetas[:, :, :2]).abs().sum(2).amax(0)
    rows, cols = (float(r) * n for r, n in zip(extent.flip(0), size, strict=True))
    return max(math.ceil(rows / 8), 6) * 8, max(math.ceil(cols / 8), 6) * 8


def _largest_overlap(thetas: Tensor, shares: tuple[float, float]) -> Tensor:
    """Upper bound of the overlap that any translation reaches, of the smaller image: (B,).

    A strip that is turned against another strip overlaps in a small parallelogram only. Its
    canvas is as large as a square of the strip's length.

    Parameters
    ----------
    thetas : Tensor
        (B, 2, 3), fixed -> moving.
    shares : (float, float)
        Valid fractions of the fixed and of the moving image.
    """
    spans = torch.linalg.inv(thetas[:, :, :2])  # the moving image's half axes, in columns
    area = 4 * torch.linalg.det(spans).abs()
    extent = 2 * spans.abs().sum(2)
    chord = area[:, None] / (2 * spans.abs().amax(2)).flip(1)  # longest along x and along y
    across = extent.flip(1).clamp(max=2) * chord.clamp(max=2)
    overlap = across.amin(1).minimum(area).clamp(max=4)
    return overlap / (area * shares[1]).clamp(max=4 * shares[0]).clamp_min(1e-6)


def _correlate_translations(
    matcher: Matcher,
    target: _FixedTarget,
    moving: MaskedImage,
    thetas: Tensor,
    canvas: tuple[int, int],
) -> list[PoseCandidate]:
    """The best translation of each rotated and scaled moving image."""
    size, device = target.size, thetas.device
    centre = _centre(thetas)
    extent = thetas.new_tensor([canvas[1] / size[1], canvas[0] / size[0]])
    grid = base_grid(*canvas, thetas) * extent + centre[:, None, None]
    factor = float(pixel_scale(thetas, size, moving.shape).min())
    image = downsample(moving, factor).sample(transform_points(thetas, grid))
    features, valid = centred_features(matcher, image)

    cells, placed = target.valid.shape[-2:], valid.shape[-2:]
    padded = [next_fast_len(a + b - 1, real=True) for a, b in zip(cells, placed, strict=True)]
    # Entry s: the canvas's first cell lies on fixed cell s. Negative s wrap around.
    score = _cross_correlate(target.features, features, padded)
    overlap = _cross_correlate(target.valid, valid, padded)
    rows, cols = (torch.arange(n, device=device, dtype=torch.float32) for n in padded)
    rows, cols = (
        torch.where(s < a, s, s - n) for s, a, n in zip((rows, cols), cells, padded, strict=True)
    )
    # Shift of the moving image's centre from its initial position, in sides.
    dy = ((rows + placed[0] / 2) / cells[0] - 0.5)[None, :, None] - centre[:, 1, None, None] / 2
    dx = ((cols + placed[1] / 2) / cells[1] - 0.5)[None, None, :] - centre[:, 0, None, None] / 2
    counts = valid.sum((1, 2, 3))[:, None, None]
    smaller = counts.clamp(max=float(target.valid.sum()))
    fraction = overlap / smaller.clamp_min(1)
    allowed = fraction >= _MIN_OVERLAP
    allowed = allowed & (dy.abs() <= _MAX_SHIFT) & (dx.abs() <= _MAX_SHIFT)
    prior = torch.exp(-0.5 * (dx.square() + dy.square()) / _PRIOR_SIGMA**2)
    weight = (fraction.clamp(0, 1) * prior).pow(_WEIGHT_EXPONENT)
    value = score / overlap.clamp_min(1) * weight
    best, index = value.masked_fill(~allowed, -torch.inf).flatten(1).max(1)
    found = []
    for number, (top, position) in enumerate(zip(best.tolist(), index.tolist(), strict=True)):
        if math.isinf(top):
            continue
        row, col = divmod(position, padded[1])
        shift = 2 * torch.stack([dx[number, 0, col], dy[number, row, 0]])
        linear = thetas[number, :, :2]
        offset = thetas[number, :, 2] - linear @ shift
        theta = torch.cat([linear, offset[:, None]], 1)[None]
        found.append(PoseCandidate(theta, top))
    return found


def _cross_correlate(first: Tensor, second: Tensor, padded: list[int]) -> Tensor:
    """Cross-correlation over all translations, summed over channels, by FFT: (B, rows, cols)."""
    spectra = (torch.fft.rfft2(x, padded) for x in (first, second))
    product = next(spectra) * next(spectra).conj()
    return torch.fft.irfft2(product.sum(1), padded)


def _suppress_duplicates(candidates: list[PoseCandidate], count: int) -> list[PoseCandidate]:
    """Up to ``count`` candidates, best first, whose corners lie apart."""
    kept: list[PoseCandidate] = []
    for candidate in candidates:
        corners = corners_of(candidate.theta)
        if all((corners - corners_of(k.theta)).abs().max() > _DUPLICATE_DISTANCE for k in kept):
            kept.append(candidate)
        if len(kept) == count:
            break
    return kept


def corners_of(theta: Tensor) -> Tensor:
    """Positions (N, 4, 2) of the fixed image's corners in the moving image, normalised."""
    corners = theta.new_tensor([[-1, -1], [1, -1], [-1, 1], [1, 1]])
    return transform_points(theta, corners[None, None])[:, 0]
