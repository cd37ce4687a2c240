"""Wide search: every rotation and scale, from few network calls.

The network describes the moving image every 30° and both images at a few sizes. Turned and
averaged descriptors give 72 rotations and 19 scales; one FFT covers all translations of a pose.
A chance correlation over n cells falls as 1/sqrt(n), so the score is the sum over the overlap
divided by the root of its cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from napari_busref.models.features.matcher import Matcher
from napari_busref.models.layers import unit_length
from napari_busref.registration.features import CELL
from napari_busref.registration.near_search import PoseCandidate, centred_features, corners_of
from napari_busref.registration.pyramid import MaskedImage, downsample
from napari_busref.runtime.progress import Reporter

_STEP = 1.5**0.25  # between scales
# Scales 0.40 to 2.5 as powers of the step, how often the moving image shrinks by 1.5 for them,
# and whether one of the images is small.
_GROUPS = (
    (range(-9, -4), 0, True),
    (range(-4, 2), 0, False),
    (range(2, 6), 1, True),
    (range(6, 10), 2, True),
)
_VIEWS = tuple(range(15, 360, 30))  # degrees at which the network sees the moving image
_TURNS = (-12.5, -7.5, -2.5, 2.5, 7.5, 12.5)  # degrees by which its descriptors are turned
_MAX_CANVAS = 1.15  # of the moving image's longer side
_MIN_KNOWN = 0.6  # of a turned or averaged cell
_MIN_OVERLAP = 0.3  # of the smaller image
_PADDING = 0.85  # of both images; what wraps around overlaps too little to count
_PEAKS = 2  # per pose
_PEAK_DISTANCE = 3  # cells
_DISTINCT = 0.35  # of corners, in half sides of the moving image at scale 1
_DUPLICATE = 0.1  # of corners; such poses are one proposal
_SAME = 0.25  # of corners; these peaks are averaged
_MIN_RELATIVE = 0.8  # score of an averaged peak, relative to the best one
_SOFTNESS = 0.05  # of the weights of averaged peaks
# The best chance peak of mismatched pairs is 1.31 times as high over 2 x 2 cells as over 3 x 3.
_CHANCE_EXPONENT = 0.7
_SHARE_EXPONENT = 0.25  # of the overlap, where peaks of one place are compared


@dataclass(frozen=True)
class SearchPass:
    """How finely a wide search compares.

    Attributes
    ----------
    side : int
        Side, in pixels, of the square whose area both images have at scale 1.
    average : int
        Side, in cells, of the squares over which descriptors are averaged.
    average_small : int
        The same at scales where one image is small.
    """

    side: int
    average: int
    average_small: int


# Half of the chance peaks of 128 px disappear at 192 px, for 1.6 times the CPU time.
QUICK = SearchPass(128, 2, 2)
CAREFUL = SearchPass(192, 3, 2)


@dataclass(frozen=True)
class _Described:
    """Descriptors of an image, on a canvas about its centre.

    Attributes
    ----------
    features, valid : Tensor
        (B, D, h, w), 0 where not valid, and (B, 1, h, w).
    middle : Tensor
        (2,), (row, col) of the image's centre, in cells from the upper left corner.
    """

    features: Tensor
    valid: Tensor
    middle: Tensor

    @property
    def cells(self) -> Tensor:
        """Rows and columns, (2,)."""
        return torch.tensor(self.valid.shape[-2:], device=self.valid.device)


@dataclass(frozen=True)
class _Poses:
    """Poses at which the correlation peaks.

    Attributes
    ----------
    theta : Tensor
        (N, 2, 3), fixed -> moving, normalised coordinates.
    scale : Tensor
        (N,), moving over fixed lengths, of equal fields of view.
    score : Tensor
        (N,), sum of correlations over the root of the overlapping cells.
    mean : Tensor
        (N,), mean correlation times a power of the overlap.
    """

    theta: Tensor
    scale: Tensor
    score: Tensor
    mean: Tensor

    @classmethod
    def sorted(cls, parts: list[_Poses]) -> _Poses:
        """All poses that overlap enough, best first."""
        joined = [
            torch.cat(values) for values in zip(*(vars(x).values() for x in parts), strict=True)
        ]
        order = joined[2].argsort(descending=True)
        order = order[joined[2][order].isfinite()]
        return cls(*(values[order] for values in joined))


@dataclass(frozen=True)
class _Frames:
    """Working pixels of both images, (x, y) from their centres.

    Attributes
    ----------
    fixed, moving : tuple of int
        (H, W) in pixels.
    shear : Tensor
        (2, 2), what the initial transform does beside a similarity, with a reflection if wanted.
    """

    fixed: tuple[int, int]
    moving: tuple[int, int]
    shear: Tensor

    @classmethod
    def of(
        cls, fixed: tuple[int, int], moving: tuple[int, int], initial: Tensor, mirrored: bool
    ) -> _Frames:
        linear = _sides(moving, initial)[:, None] * initial[0, :, :2] / _sides(fixed, initial)
        shear = linear / torch.linalg.det(linear).abs().sqrt()
        flip = initial.new_tensor([-1.0 if mirrored else 1.0, 1.0])
        return cls(fixed, moving, shear * flip)

    def fixed_linear(self, side: float) -> Tensor:
        """Working pixels -> fixed pixels, (2, 2)."""
        return torch.eye(2).to(self.shear) * (math.prod(self.fixed) ** 0.5 / side)

    def moving_linear(self, side: float, degrees: Tensor) -> Tensor:
        """Working pixels -> moving pixels for content turned by angles (N,): (N, 2, 2)."""
        angle = degrees.to(self.shear).deg2rad()
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
        return self.shear @ turn * (math.prod(self.moving) ** 0.5 / side)

    def thetas(self, linear: Tensor, target: Tensor, shift: Tensor) -> Tensor:
        """Poses (V, N, K, 2, 3) of shifts (V, N, K, 2) in working pixels.

        ``linear`` (V, 2, 2) maps working to moving pixels; ``target`` (N,) are the fixed sides.
        """
        fixed, moving = (_sides(shape, shift) for shape in (self.fixed, self.moving))
        scaled = linear[:, None] * (target / math.prod(self.fixed) ** 0.5)[:, None, None]
        scaled = (scaled * fixed / moving[:, None])[:, :, None]
        offset = -(linear[:, None, None] @ shift[..., None]) * 2 / moving[:, None]
        return torch.cat([scaled.expand(*offset.shape[:3], 2, 2), offset], -1)


def wide_search(
    matcher: Matcher,
    fixed: MaskedImage,
    moving: MaskedImage,
    initial: Tensor,
    how: SearchPass,
    *,
    mirrored: bool = False,
    max_candidates: int = 6,
    reporter: Reporter | None = None,
) -> list[PoseCandidate]:
    """Propose poses of any rotation, and of scales from 0.4 to 2.5 of equal fields of view.

    Parameters
    ----------
    matcher : Matcher
        Computes the descriptors.
    fixed, moving : MaskedImage
        (1, 1, H, W), of any sizes.
    initial : Tensor
        (1, 2, 3), fixed -> moving, normalised coordinates. Every pose has its shear.
    how : SearchPass
    mirrored : bool
        Propose reflected poses instead.
    max_candidates : int
        How many distinct candidates to return at most.
    reporter : Reporter, optional
        Receives the progress and may cancel, at every description.

    Returns
    -------
    list of PoseCandidate
        Best first. Empty when the images overlap too little at every pose.
    """
    reporter = reporter or Reporter()
    frames = _Frames.of(fixed.shape, moving.shape, initial, mirrored)

    @cache
    def target(side: float) -> _Described:
        return _describe(matcher, fixed, frames.fixed_linear(side))

    @cache
    def views(shrink: int, part: Reporter) -> list[_Described]:
        described = []
        turned = frames.moving_linear(how.side / 1.5**shrink, torch.tensor(_VIEWS))
        for number, linear in enumerate(turned):
            part.step("searching", number / len(_VIEWS))
            described.append(_describe(matcher, moving, linear))
        return described

    parts = [reporter.part(index / 3, (index + 1) / 3) for index in range(3)]
    found = []
    for powers, shrink, small in _GROUPS:
        average = how.average_small if small else how.average
        seen = [_turned(_averaged(view, average)) for view in views(shrink, parts[shrink])]
        sides = [how.side * _STEP ** (power - 4 * shrink) for power in powers]
        targets = [_averaged(target(side), average) for side in sides]
        scales = initial.new_tensor([_STEP**power for power in powers])
        side = how.side / 1.5**shrink
        poses = _correlate(frames, side, scales, seen, targets, CELL * average)
        chance = (how.average / average) ** _CHANCE_EXPONENT
        found.append(replace(poses, score=poses.score / chance))
    return _distinct(_Poses.sorted(found), max_candidates)


def _sides(shape: tuple[int, int], like: Tensor) -> Tensor:
    """Width and height."""
    return like.new_tensor([shape[1], shape[0]])


def _centred_grid(size: tuple[int, int], middle: Tensor) -> Tensor:
    """Positions (h, w, 2), (x, y) of the cells of a map, from a (row, col)."""
    rows, cols = (torch.arange(n).to(middle) + 0.5 - m for n, m in zip(size, middle, strict=True))
    return torch.stack(torch.meshgrid(rows, cols, indexing="ij")[::-1], -1)


def _describe(matcher: Matcher, image: MaskedImage, linear: Tensor) -> _Described:
    """Describe an image on a canvas; ``linear`` maps the canvas's pixels to the image's."""
    sides = _sides(image.shape, linear)
    longest = max(image.shape) / float(torch.linalg.det(linear).abs().sqrt()) * _MAX_CANVAS
    width, height = (
        max(math.ceil(min(float(n), longest) / 8 - 1e-3) * 8, Matcher.smallest)
        for n in torch.linalg.inv(linear).abs() @ sides
    )
    middle = linear.new_tensor([height, width]) / 2
    grid = _centred_grid((height, width), middle) @ linear.T * 2 / sides
    placed = downsample(image, float(linear.norm(dim=0).min())).sample(grid[None])
    features, valid = centred_features(matcher, placed)
    return _Described(features, valid, middle / CELL)


def _averaged(image: _Described, average: int) -> _Described:
    """Means over squares of cells, unit length, where more than half of the cells are valid."""
    if average == 1:
        return image
    bottom, right = (-n % average for n in image.features.shape[-2:])
    features, valid = (
        F.avg_pool2d(F.pad(x, (0, right, 0, bottom)), average)
        for x in (image.features, image.valid)
    )
    known = (valid > 0.5).to(valid.dtype)
    return _Described(unit_length(features) * known, known, image.middle / average)


def _turned(view: _Described) -> _Described:
    """The descriptors turned about the image's centre by each of ``_TURNS``."""
    angle = view.features.new_tensor(_TURNS).deg2rad()
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    cells = _centred_grid((view.valid.shape[-2], view.valid.shape[-1]), view.middle)
    grid = torch.einsum("aij,hwj->ahwi", turn, cells) + view.middle.flip(0)
    grid = grid * 2 / view.cells.flip(0) - 1
    features, valid = (
        F.grid_sample(x.expand(len(grid), -1, -1, -1), grid, align_corners=False)
        for x in (view.features, view.valid)
    )
    known = (valid > _MIN_KNOWN).to(valid.dtype)
    return _Described(unit_length(features) * known, known, view.middle)


def _correlate(
    frames: _Frames,
    side: float,
    scales: Tensor,
    views: list[_Described],
    targets: list[_Described],
    cell: int,
) -> _Poses:
    """The peaks over all translations, for each turn of each view and for each scale."""
    view, target = (torch.stack([x.cells for x in given]).amax(0) for given in (views, targets))
    padded = [next_fast_len(math.ceil(_PADDING * int(n)), real=True) for n in view + target]
    overlap = _cross_correlate(views, targets, "valid", padded).round()
    moving_cells, fixed_cells = (
        torch.cat([x.valid.sum((1, 2, 3)) for x in given]) for given in (views, targets)
    )
    smaller = torch.minimum(moving_cells[:, None], fixed_cells)[:, :, None, None].clamp_min(1)
    score = _cross_correlate(views, targets, "features", padded) / overlap.clamp_min(1).sqrt()
    score.masked_fill_(overlap < _MIN_OVERLAP * smaller, -torch.inf)
    top, place, index = _peaks(score)
    cells = overlap.flatten(2).gather(2, index).clamp_min(1)
    mean = top / cells.sqrt() * (cells / smaller[..., 0]).pow(_SHARE_EXPONENT)

    # Shifts between the upper left corners wrap around the middle of those that are possible.
    size = torch.tensor(padded, device=place.device)
    last = (_between(views, targets, "cells") + size) / 2
    shift = torch.where(place < last, place, place - size) - _between(views, targets, "middle")
    degrees = torch.tensor(_VIEWS)[:, None] + torch.tensor(_TURNS)
    linear = frames.moving_linear(side, degrees.flatten())
    pixels = shift.flip(-1) * cell
    theta = frames.thetas(linear, side * scales, pixels)
    spread = scales[None, :, None].expand_as(top)
    return _Poses(theta.flatten(0, 2), spread.flatten(), top.flatten(), mean.flatten())


def _between(views: list[_Described], targets: list[_Described], name: str) -> Tensor:
    """Target less view, for each turn of each view: (V, N, 1, 2)."""
    view, target = (torch.stack([getattr(x, name) for x in given]) for given in (views, targets))
    return (target - view[:, None]).repeat_interleave(len(_TURNS), 0)[:, :, None]


def _cross_correlate(
    views: list[_Described], targets: list[_Described], name: str, padded: list[int]
) -> Tensor:
    """Cross-correlations of all views with all targets: (V, N, rows, cols)."""
    moving, fixed = (
        torch.cat([torch.fft.rfft2(getattr(x, name), padded) for x in given])
        for given in (views, targets)
    )
    # A matrix product for each frequency.
    first, second = (x.flatten(2).permute(2, 0, 1) for x in (moving.conj(), fixed))
    product = (first @ second.mT).permute(1, 2, 0)
    return torch.fft.irfft2(product.unflatten(2, moving.shape[-2:]), padded)


def _peaks(score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The highest peaks of maps (V, N, rows, cols).

    Returns
    -------
    score : Tensor
        (V, N, K).
    place : Tensor
        (V, N, K, 2), (row, col), between cells by a parabola.
    index : Tensor
        (V, N, K), of the peak's cell in the flat map.
    """
    rows, cols = score.shape[-2:]
    flat = score.flatten(2)
    y, x = (torch.arange(n, device=score.device) for n in (rows, cols))
    found = []
    for _ in range(_PEAKS):
        top, index = flat.max(2, keepdim=True)
        row, col = index // cols, index % cols
        below = [
            _vertex(top, *(flat.gather(2, (row + n) % rows * cols + col) for n in (-1, 1))),
            _vertex(top, *(flat.gather(2, row * cols + (col + n) % cols) for n in (-1, 1))),
        ]
        found.append((top, torch.cat([row + below[0], col + below[1]], 2), index))
        near = _near(y - row, rows)[..., None] & _near(x - col, cols)[:, :, None]
        flat = flat.masked_fill(near.flatten(2), -torch.inf)
    tops, places, indices = zip(*found, strict=True)
    return torch.cat(tops, 2), torch.stack(places, 2), torch.cat(indices, 2)


def _vertex(top: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Offset of the maximum of a parabola through three values, in [-0.5, 0.5]."""
    curvature = 2 * top - before - after
    offset = ((after - before) / (2 * curvature)).clamp(-0.5, 0.5)
    return torch.where(curvature.isfinite() & (curvature > 0), offset, 0.0)


def _near(distance: Tensor, period: int) -> Tensor:
    """Whether circular distances are at most ``_PEAK_DISTANCE``."""
    distance = distance.abs()
    return torch.minimum(distance, period - distance) <= _PEAK_DISTANCE


def _distinct(poses: _Poses, count: int) -> list[PoseCandidate]:
    """Up to ``count`` poses whose corners lie apart, each the mean of the peaks around it."""
    corners = corners_of(poses.theta)
    kept: list[int] = []
    found: list[PoseCandidate] = []
    for number, scale in enumerate(poses.scale.tolist()):
        apart = (corners - corners[number]).abs().amax((1, 2))
        reach = _DISTINCT * max(scale, 0.5)
        if any(float(apart[other]) <= reach for other in kept):
            continue
        kept.append(number)
        near = (apart <= reach) & (poses.score > _MIN_RELATIVE * poses.score[number])
        best = int(poses.mean.masked_fill(~near, -torch.inf).argmax())
        same = (corners - corners[best]).abs().amax((1, 2)) <= _SAME
        weight = ((poses.mean / poses.mean[best] - 1) / _SOFTNESS).exp() * (near & same)
        theta = (poses.theta * weight[:, None, None]).sum(0) / weight.sum()
        if any(_apart(theta[None], other.theta) <= _DUPLICATE for other in found):
            continue
        found.append(PoseCandidate(theta[None], float(poses.score[number])))
        if len(found) == count:
            break
    return found


def _apart(first: Tensor, second: Tensor) -> float:
    return float((corners_of(first) - corners_of(second)).abs().max())
