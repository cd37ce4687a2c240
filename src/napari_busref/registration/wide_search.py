"""Wide search: every rotation and scale, from few network calls.

The network describes one image every 30° and the other one at three sizes, then the same with the
images exchanged. Turned and averaged descriptors give 72 rotations and up to 19 scales; one FFT
covers all translations of a pose. The image that shows less has the same cells at every scale.
Both images get one local mean and contrast first, and both are described twice: upright, and
turned by a right angle. Each chance correlation then counts half.
A chance correlation over n cells falls as 1/sqrt(n), so the score is the sum over the overlap
divided by the root of its cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from napari_busref.geometry import invert_affine
from napari_busref.models.features.matcher import Matcher
from napari_busref.models.layers import unit_length
from napari_busref.registration.canvases import Canvas, Frame, centred_grid, sides_of
from napari_busref.registration.features import CELL
from napari_busref.registration.near_search import PoseCandidate, centred_features, corners_of
from napari_busref.registration.pyramid import MaskedImage
from napari_busref.runtime.progress import Reporter

_STEP = 1.5**0.25  # between scales
# Powers of the step at which the turned image shows a part of the other one, 1 to 2.5. One
# description of the other image serves a group.
_ZOOMED = (range(3), range(3, 6), range(6, 10))
_SHRUNK = (range(1, 3), *_ZOOMED[1:])  # with the images exchanged; 1 is known
_LEVEL = (range(-2, 3),)
_VIEWS = tuple(range(15, 360, 30))  # degrees at which the network sees the turned image
_TURNS = (-12.5, -7.5, -2.5, 2.5, 7.5, 12.5)  # degrees by which its descriptors are turned
_MIN_KNOWN = 0.6  # of a turned or averaged cell
_MIN_OVERLAP = 0.3  # of the smaller image
_PADDING = 0.7  # of the turned image; what wraps around overlaps too little to count
_PEAKS = 2  # per pose
_PEAK_DISTANCE = 3  # cells
_DISTINCT = 0.35  # of corners, in half sides of the moving image at scale 1
_DUPLICATE = 0.1  # of corners; such poses are one proposal
_SAME = 0.25  # of corners; these peaks are averaged
_MIN_RELATIVE = 0.8  # score of an averaged peak, relative to the best one
_SOFTNESS = 0.05  # of the weights of averaged peaks
_SHARE_EXPONENT = 0.25  # of the overlap, where peaks of one place are compared


@dataclass(frozen=True)
class SearchPass:
    """How finely a wide search compares.

    Attributes
    ----------
    side : int
        Side, in pixels, of the square whose area the content of the smaller field of view has.
    average : int
        Side, in cells, of the squares over which descriptors are averaged.
    groups : int
        How many groups of scales it compares: 2 reach 0.6 to 1.65, 3 reach 0.4 to 2.5.
    """

    side: int
    average: int
    groups: int = 3


QUICK = SearchPass(112, 2, groups=2)
CAREFUL = SearchPass(160, 3)


@dataclass(frozen=True)
class _Described:
    """Descriptors of an image, on a canvas that holds its content.

    Attributes
    ----------
    features, valid : Tensor
        (B, D, h, w), 0 where not valid, and (B, 1, h, w).
    middle : Tensor
        (B, 2), (row, col) of the image's centre, in cells from the upper left corner.
    """

    features: Tensor
    valid: Tensor
    middle: Tensor

    @property
    def cells(self) -> Tensor:
        """Rows and columns, (B, 2)."""
        return torch.tensor(self.valid.shape[-2:], device=self.valid.device).expand_as(self.middle)


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


def wide_search(
    matcher: Matcher,
    fixed: MaskedImage,
    moving: MaskedImage,
    initial: Tensor,
    how: SearchPass,
    *,
    mirrored: bool = False,
    level: bool = False,
    max_candidates: int = 6,
    reporter: Reporter | None = None,
) -> list[PoseCandidate]:
    """Propose poses of any rotation, and of a range of scales of equal fields of view.

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
    level : bool
        Only scales from 0.8 to 1.25, in a third of the time.
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
    if not (bool(fixed.valid.any()) and bool(moving.valid.any())):
        return []
    shear = sides_of(moving.shape, initial)[:, None] * initial[0, :, :2]
    shear = shear / sides_of(fixed.shape, initial)
    shear = shear / torch.linalg.det(shear).abs().sqrt()
    flip = initial.new_tensor([-1.0 if mirrored else 1.0, 1.0])
    frames = Frame.of(fixed, torch.eye(2).to(shear)), Frame.of(moving, shear * flip)
    if level:
        return _distinct(_compare(matcher, *frames, how, _LEVEL, reporter), max_candidates)
    zoomed = _compare(matcher, *frames, how, _ZOOMED[: how.groups], reporter.part(0.0, 0.5))
    shrunk = _compare(matcher, *frames[::-1], how, _SHRUNK[: how.groups], reporter.part(0.5, 1.0))
    shrunk = replace(shrunk, theta=invert_affine(shrunk.theta), scale=1 / shrunk.scale)
    return _distinct(_Poses.sorted([zoomed, shrunk]), max_candidates)


def _compare(
    matcher: Matcher,
    target: Frame,
    turned: Frame,
    how: SearchPass,
    groups: tuple[range, ...],
    reporter: Reporter,
) -> _Poses:
    """The peaks at each rotation and at groups of scales: poses target -> turned image."""
    steps = len(_VIEWS) + 4 * len(groups)  # a group takes as long as four views
    views = []
    for number, linear in enumerate(turned.turned(how.side, torch.tensor(_VIEWS))):
        reporter.step("searching", number / steps)
        views.append(_describe(matcher, turned.canvas(linear)))
    quarter = len(views) // 4  # the view turned further by a right angle
    pairs = [(view, views[(n + quarter) % len(views)]) for n, view in enumerate(views)]
    both = [_turned(_averaged(_joined(*pair), how.average)) for pair in pairs]
    found = []
    for number, powers in enumerate(groups):
        reporter.step("searching", (len(_VIEWS) + 4 * number) / steps)
        seen = _STEP ** (sum(powers) / len(powers))
        linear = target.linear(how.side * seen)
        canvas = target.canvas(linear)
        upright, across = (_describe(matcher, one) for one in (canvas, canvas.turned()))
        whole = _averaged(_joined(upright, across), how.average)
        scales = [_STEP**power for power in powers]
        targets = [_scaled(whole, scale / seen) for scale in scales]
        found.append(_correlate(target, turned, how, both, targets, scales))
    return _Poses.sorted(found)


def _describe(matcher: Matcher, canvas: Canvas) -> _Described:
    features, valid = centred_features(matcher, canvas.image)
    return _Described(features, valid, canvas.middle[None] / CELL)


def _joined(upright: _Described, across: _Described) -> _Described:
    """Descriptors of a canvas, followed by those of the canvas turned by a right angle."""
    turned = (torch.rot90(x, -1, (2, 3)) for x in (across.features, across.valid))
    rows, cols = upright.valid.shape[-2:]  # rounding may make a canvas a row longer or shorter
    features, valid = (F.pad(x, (0, cols - x.shape[-1], 0, rows - x.shape[-2])) for x in turned)
    known = upright.valid * valid
    return _Described(torch.cat([upright.features, features], 1) * known, known, upright.middle)


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
    """The descriptors turned by each of ``_TURNS``."""
    angle = view.features.new_tensor(_TURNS).deg2rad()
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    return _resampled(view, turn, view.cells[0])


def _scaled(image: _Described, factor: float) -> _Described:
    """The descriptors on more or fewer cells, by a factor."""
    linear = torch.eye(2).to(image.features)[None] / factor
    return _resampled(image, linear, (image.cells[0] * factor).ceil().long())


def _resampled(image: _Described, linear: Tensor, cells: Tensor) -> _Described:
    """Descriptors on a canvas of (rows, columns); ``linear`` (A, 2, 2) maps its cells to theirs.

    Both from the centre of their canvas. Interpolated descriptors get unit length again.
    """
    old, new = image.cells[0].to(linear) / 2, cells.to(linear) / 2
    rows, cols = cells.tolist()
    grid = torch.einsum("aij,hwj->ahwi", linear, centred_grid((rows, cols), new)) / old.flip(0)
    features, valid = (
        F.grid_sample(x.expand(len(grid), -1, -1, -1), grid, align_corners=False)
        for x in (image.features, image.valid)
    )
    known = (valid > _MIN_KNOWN).to(valid.dtype)
    away = (image.middle[0] - old).flip(0)
    middle = (torch.linalg.inv(linear) @ away).flip(1) + new
    return _Described(unit_length(features) * known, known, middle)


def _correlate(
    target: Frame,
    turned: Frame,
    how: SearchPass,
    views: list[_Described],
    targets: list[_Described],
    scales: list[float],
) -> _Poses:
    """The peaks over all translations, for each turn of each view and for each scale."""
    view, whole = (torch.cat([x.cells for x in given]).amax(0) for given in (views, targets))
    padded = [
        next_fast_len(math.ceil(int(n) + _PADDING * int(v)), real=True)
        for n, v in zip(whole, view, strict=True)
    ]
    overlap = _cross_correlate(views, targets, "valid", padded).round()
    cells = [torch.cat([x.valid.sum((1, 2, 3)) for x in given]) for given in (views, targets)]
    smaller = torch.minimum(cells[0][:, None], cells[1])[:, :, None, None].clamp_min(1)
    score = _cross_correlate(views, targets, "features", padded) / overlap.clamp_min(1).sqrt()
    score.masked_fill_(overlap < _MIN_OVERLAP * smaller, -torch.inf)
    top, place, index = _peaks(score)
    shared = overlap.flatten(2).gather(2, index).clamp_min(1)
    mean = top / shared.sqrt() * (shared / smaller[..., 0]).pow(_SHARE_EXPONENT)

    # Shifts between the upper left corners wrap around the middle of those that are possible.
    size = torch.tensor(padded, device=place.device)
    last = (_between(views, targets, "cells") + size) / 2
    shift = torch.where(place < last, place, place - size) - _between(views, targets, "middle")
    spread = shift.new_tensor(scales)[:, None]
    degrees = torch.tensor(_VIEWS)[:, None] + torch.tensor(_TURNS)
    # Working pixels of the target less the shift are working pixels of the turned image.
    linear = turned.turned(how.side, degrees.flatten())[:, None, None]
    pixels = shift.flip(-1) * (CELL * how.average)
    offset = -(linear @ pixels[..., None])
    within = linear @ torch.linalg.inv(target.linear(how.side) / spread[..., None, None])
    sides = [sides_of(frame.image.shape, shift) for frame in (target, turned)]
    within = (within * sides[0] / sides[1][:, None]).expand(*shift.shape[:3], 2, 2)
    theta = torch.cat([within, offset * 2 / sides[1][:, None]], -1)
    scale = spread.expand_as(top)
    return _Poses(theta.flatten(0, 2), scale.flatten(), top.flatten(), mean.flatten())


def _between(views: list[_Described], targets: list[_Described], name: str) -> Tensor:
    """Target less view, for each turn of each view: (V, N, 1, 2)."""
    view, target = (torch.cat([getattr(x, name) for x in given]) for given in (views, targets))
    return (target - view[:, None])[:, :, None]


def _cross_correlate(
    views: list[_Described], targets: list[_Described], name: str, padded: list[int]
) -> Tensor:
    """Cross-correlations of all views with all targets: (V, N, rows, cols)."""
    moving, fixed = (
        torch.cat([torch.fft.rfft2(getattr(x, name), padded) for x in given])
        for given in (views, targets)
    )
    # One matrix product for each frequency, over the channels.
    product = moving.conj().permute(2, 3, 0, 1) @ fixed.permute(2, 3, 1, 0)
    return torch.fft.irfft2(product.permute(2, 3, 0, 1), padded)


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
