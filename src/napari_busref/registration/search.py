"""Global search: rotations and scales on a grid, all translations at once."""

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
from napari_busref.registration.pyramid import MaskedImage, pixel_scale, reduced, working_size
from napari_busref.runtime.progress import Reporter


@dataclass(frozen=True)
class SearchRange:
    """Where a search looks.

    Attributes
    ----------
    rotations : tuple of float
        Degrees, counter-clockwise on the screen.
    scales : tuple of float
        Size of the moving image's content against the start.
    shift : float
        Largest shift of the moving image's centre, as a share of the fixed image's sides.
    overlap : float
        Smallest overlap, as a share of the smaller of both images.
    prior : float
        Standard deviation of the shift that is expected, as a share of the fixed image's side:
        a mild preference when several places look alike.
    """

    rotations: tuple[float, ...]
    scales: tuple[float, ...]
    shift: float
    overlap: float
    prior: float


def _geometric(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(low * (high / low) ** (index / (count - 1)) for index in range(count))


# The descriptors were trained under 15 degrees and a quarter of the scale, so a step in between
# is safe: +-15 degrees, 0.8 to 1.25; any rotation, 0.4 to 2.5.
RANGES = {
    "near": SearchRange((-10.0, 0.0, 10.0), _geometric(0.85, 1.18, 3), 0.3, 0.4, 0.3),
    "wide": SearchRange(
        tuple(15.0 * index for index in range(24)), _geometric(0.42, 2.4, 9), 1.0, 0.3, 0.5
    ),
}

_SIDE = 128
_ALIKE = 0.06  # corners this close, in units of half the side, make one candidate
_MILD = 0.25  # exponent of what overlap and prior weigh
_CHUNK = 1 << 19  # pixels of the moving images that are described at once


@dataclass(frozen=True)
class PoseCandidate:
    """A place where the images may fit.

    Attributes
    ----------
    theta : Tensor
        (1, 2, 3), fixed -> moving, normalised coordinates.
    score : float
        Mean correlation of the descriptors in the overlap, weighed by its size and by the prior.
    """

    theta: Tensor
    score: float


def search(
    matcher: Matcher,
    fixed: MaskedImage,
    moving: MaskedImage,
    start: Tensor,
    within: SearchRange,
    *,
    keep: int = 3,
    reporter: Reporter | None = None,
) -> list[PoseCandidate]:
    """Look for the moving image's place in the whole range.

    Parameters
    ----------
    matcher : Matcher
        Describes both images.
    fixed, moving : View
        (1, 1, H, W), of any sizes.
    start : Tensor
        (1, 2, 3), fixed -> moving, normalised coordinates.
    within : SearchRange
        What is tried, relative to the start.
    keep : int
        How many distinct candidates to return at most.
    reporter : Reporter, optional
        Told, and asked whether to stop, at every scale.

    Returns
    -------
    list of Place
        Best first; empty when the images overlap too little everywhere.
    """
    found: list[PoseCandidate] = []
    for index, scale in enumerate(within.scales):
        if reporter is not None:
            reporter.step("searching", index / len(within.scales))
        # the content that both show is to have about as many pixels at every scale
        size = working_size(fixed.shape, round(_SIDE / scale**0.5))
        target = _Target.of(matcher, fixed.resized(size))
        turned = torch.cat([_turned(start, a, scale, size) for a in within.rotations])
        canvas = _canvas(turned, size)
        for thetas in turned.split(max(_CHUNK // (canvas[0] * canvas[1]), 1)):
            found += _best_shifts(matcher, target, moving, thetas, canvas, within)
    found.sort(key=lambda candidate: -candidate.score)
    return _distinct(found, keep)


@dataclass(frozen=True)
class _Target:
    """The fixed image of a search.

    Attributes
    ----------
    size : tuple of int
        Pixels.
    features, known : Tensor
        (1, D, h, w) descriptors, 0 where not known, and (1, 1, h, w).
    """

    size: tuple[int, int]
    features: Tensor
    known: Tensor

    @classmethod
    def of(cls, matcher: Matcher, view: MaskedImage) -> _Target:
        return cls(view.shape, *_centred(matcher, view))


def _centred(matcher: Matcher, view: MaskedImage) -> tuple[Tensor, Tensor]:
    """Descriptors that average to nothing over the known cells and are 0 elsewhere; the cells."""
    known = valid_cells(view)
    described = matcher(view.image, view.valid)
    total = known.sum((-2, -1), keepdim=True).clamp_min(1)
    mean = (described * known).sum((-2, -1), keepdim=True) / total
    return unit_length(described - mean) * known, known


def _turned(start: Tensor, degrees: float, scale: float, size: tuple[int, int]) -> Tensor:
    """The start with its content turned and scaled about the moving image's centre, (1, 2, 3)."""
    angle = math.radians(degrees)
    # positions go the other way than content
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    aspect = size[1] / size[0]
    turn = torch.tensor([[cos, -sin / aspect], [sin * aspect, cos]], device=start.device)
    linear = start[0, :, :2] @ turn
    return torch.cat([linear, -linear @ _centre(start)[0][:, None]], 1)[None]


def _centre(thetas: Tensor) -> Tensor:
    """Where the moving image's centre lies in the fixed one, (B, 2), normalised."""
    return -torch.linalg.solve(thetas[:, :, :2], thetas[:, :, 2])


def _canvas(thetas: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns, in pixels of the fixed grid, that hold every turned moving image."""
    reach = torch.linalg.inv(thetas[:, :, :2]).abs().sum(2).amax(0)
    rows, cols = (float(r) * n for r, n in zip(reach.flip(0), size, strict=True))
    return max(math.ceil(rows / 8), 6) * 8, max(math.ceil(cols / 8), 6) * 8


def _best_shifts(
    matcher: Matcher,
    target: _Target,
    moving: MaskedImage,
    thetas: Tensor,
    canvas: tuple[int, int],
    within: SearchRange,
) -> list[PoseCandidate]:
    """The best shift of each turned and scaled moving image."""
    size, device = target.size, thetas.device
    home = _centre(thetas)
    extent = torch.tensor([canvas[1] / size[1], canvas[0] / size[0]], device=device)
    grid = base_grid(*canvas, thetas) * extent + home[:, None, None]
    factor = float(pixel_scale(thetas, size, moving.shape).min())
    view = reduced(moving, factor).sampled(transform_points(thetas, grid))
    features, known = _centred(matcher, view)

    cells, placed = target.known.shape[-2:], known.shape[-2:]
    padded = [next_fast_len(a + b - 1, real=True) for a, b in zip(cells, placed, strict=True)]

    def correlate(first: Tensor, second: Tensor) -> Tensor:
        spectra = (torch.fft.rfft2(x, padded) for x in (first, second))
        product = next(spectra) * next(spectra).conj()
        return torch.fft.irfft2(product.sum(1), padded)

    # entry s: the canvas's first cell lies on fixed cell s; negative s wrap around
    score, overlap = correlate(target.features, features), correlate(target.known, known)
    rows, cols = (torch.arange(n, device=device) for n in padded)
    rows, cols = (
        torch.where(s < a, s, s - n) for s, a, n in zip((rows, cols), cells, padded, strict=True)
    )
    # where the moving image's centre would lie, against where the start has it, in sides
    dy = ((rows + placed[0] / 2) / cells[0] - 0.5)[None, :, None] - home[:, 1, None, None] / 2
    dx = ((cols + placed[1] / 2) / cells[1] - 0.5)[None, None, :] - home[:, 0, None, None] / 2
    counts = known.sum((1, 2, 3))[:, None, None]
    smaller = counts.clamp(max=float(target.known.sum()))
    share = overlap / smaller.clamp_min(1)
    allowed = (share >= within.overlap) & (dy.abs() <= within.shift) & (dx.abs() <= within.shift)
    prior = torch.exp(-0.5 * (dx.square() + dy.square()) / within.prior**2)
    value = score / overlap.clamp_min(1) * (share.clamp(0, 1) * prior).pow(_MILD)
    best, index = value.masked_fill(~allowed, -torch.inf).flatten(1).max(1)
    found = []
    for number, (top, place) in enumerate(zip(best.tolist(), index.tolist(), strict=True)):
        if math.isinf(top):
            continue
        row, col = divmod(place, padded[1])
        shift = 2 * torch.stack([dx[number, 0, col], dy[number, row, 0]])
        linear = thetas[number, :, :2]
        offset = thetas[number, :, 2] - linear @ shift
        found.append(PoseCandidate(torch.cat([linear, offset[:, None]], 1)[None], top))
    return found


def _distinct(candidates: list[PoseCandidate], keep: int) -> list[PoseCandidate]:
    """The best ones that lie apart."""
    kept: list[PoseCandidate] = []
    for candidate in candidates:
        corners = _corners(candidate.theta)
        if all((corners - _corners(k.theta)).abs().max() > _ALIKE for k in kept):
            kept.append(candidate)
        if len(kept) == keep:
            break
    return kept


def _corners(theta: Tensor) -> Tensor:
    corners = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]], device=theta.device)
    return transform_points(theta, corners[None, None])
