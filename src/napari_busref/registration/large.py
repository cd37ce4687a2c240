"""Register pairs that are larger than one array: coarse as a whole, then fine in tiles."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_busref.images.block_means import block_means
from napari_busref.images.nodata import NoData
from napari_busref.images.preprocess import prepare
from napari_busref.registration.joined_field import NODES
from napari_busref.registration.prepare import initial_transform
from napari_busref.registration.result import Preview, RegistrationResult, after_picture
from napari_busref.registration.tile_levels import (
    Images,
    Refined,
    expected_seconds,
    in_tiles,
    part_first,
    windows,
)
from napari_busref.registration.tiles import Source, texture
from napari_busref.runtime.device import resolve_device
from napari_busref.runtime.progress import Cancelled, Progress, Reporter
from napari_busref.runtime.stopwatch import Stopwatch
from napari_busref.transforms.grids import FIELD_BUDGET, Grid
from napari_busref.transforms.levels import from_levels, onto_levels
from napari_busref.transforms.transform import Transform, Window

__all__ = ["LARGE", "LargeRegistrationResult", "is_large", "refine_large", "register_large"]

LARGE = FIELD_BUDGET
"""Pixels of the fixed image above which `register` continues in tiles."""

_WHOLE = 2048  # side of the square whose area the coarse level has at most
_FINER = 1.5  # a level that is less finer than the one before tells little
_LEAST_PIXELS = 0.5  # moving pixels along a side of a level's pixels
_STEPS = {"full": 1, "half": 2, "quarter": 4, "none": math.inf}
_COARSE_SECONDS = 12e-6  # of a pixel, to share the progress
_BLOCK = 2048  # rows and columns that are warped at a time


class LargeRegistrationResult(RegistrationResult):
    """The result of `napari_busref.register` for a large pair.

    `warped` and `mask` are computed on first use, and hold as many pixels as the fixed image.
    `Transform.apply` with a window computes parts of the warped image.

    Attributes
    ----------
    agreement : ndarray of float32, shape (rows, cols), or None
        For each tile of the finest level: the mean probability that the content of a block lies
        within 2 px of that level of where the transform puts it. NaN where a tile was left out.
        None where no tile was registered.
    """

    agreement: NDArray[np.float32] | None
    _moving: tuple[Any, float | None, NDArray[np.bool_]]

    def __init__(
        self,
        coarse: RegistrationResult,
        transform: Transform,
        preview: Preview | None,
        moving: Any,
        fill_value: float | None,
        agreement: NDArray[np.float32] | None,
        parameters: dict[str, Any],
        timings: dict[str, float],
    ) -> None:
        step = transform.fixed_shape[0] / coarse.transform.fixed_shape[0]
        quality = replace(
            coarse.quality,
            shift_px=coarse.quality.shift_px * step,
            map_px=coarse.quality.map_px * step,
        )
        known = {"quality": quality, "timings": timings, "parameters": parameters}
        known |= {"transform": transform, "preview": preview, "agreement": agreement}
        for name, value in known.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_moving", (moving, fill_value, coarse.mask))

    @cached_property
    def warped(self) -> NDArray[Any]:
        """The moving image on the grid of the fixed one, see `RegistrationResult`."""
        moving, fill_value, _ = self._moving
        channels = tuple(moving.shape[2:])
        warped = np.empty((*self.transform.fixed_shape, *channels), np.dtype(moving.dtype))
        for window in windows(self.transform.fixed_shape, _BLOCK):
            part = self.transform.apply(moving, cval=fill_value, window=window)
            warped[window] = np.ma.getdata(part)
        return warped

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The reconstructible mask; empty borders and masks count on the coarse level."""
        coarse = self._moving[2]
        rows, cols = (
            np.arange(size) * count // size
            for size, count in zip(self.transform.fixed_shape, coarse.shape, strict=True)
        )
        mask = self.transform.mask()
        mask &= coarse[np.ix_(rows, cols)]
        return mask

    def __repr__(self) -> str:
        quality, shape = self.quality, self.transform.fixed_shape
        return (
            f"<RegistrationResult: {quality.verdict}; {shape}, score {quality.score:.2f}, "
            f"{quality.numbers}>"
        )


@dataclass(frozen=True)
class _Large:
    """A large pair on its coarse level.

    Attributes
    ----------
    images : tuple
        Fixed and moving, as given.
    shapes : tuple
        Their (H, W).
    levels : tuple of Grid
        The coarse level of each.
    coarse : tuple of ndarray
        The images there.
    nodata : float, "auto" or None
    """

    images: tuple[Any, Any]
    shapes: tuple[tuple[int, int], tuple[int, int]]
    levels: tuple[Grid, Grid]
    coarse: tuple[NDArray[Any], NDArray[Any]]
    nodata: NoData

    @classmethod
    def of(cls, fixed: Any, moving: Any, nodata: NoData, side: int) -> _Large:
        """Read the coarse level of both images."""
        images = fixed, moving
        shapes = [(int(one.shape[0]), int(one.shape[1])) for one in images]
        steps = [max(math.ceil((h * w) ** 0.5 / side), 1) for h, w in shapes]
        levels = [
            Grid.covering(shape, (float(step), float(step)))
            for shape, step in zip(shapes, steps, strict=True)
        ]
        coarse = [
            block_means(image, step, nodata=nodata)
            for image, step in zip(images, steps, strict=True)
        ]
        return cls(images, tuple(shapes), tuple(levels), tuple(coarse), nodata)  # type: ignore[arg-type]

    def full(self, transform: Transform) -> Transform:
        """A transform of the coarse levels between pixels at full resolution."""
        return _sparse(from_levels(transform, *self.levels, *self.shapes))

    def unread(self, masks: tuple[Any, Any], found: Transform, device: Any) -> Images:
        """Both images, to be read window by window; `found` is the registration so far."""
        ready = [
            prepare(image, name, mask=mask, find_border=True, nodata=None)
            for image, name, mask in zip(self.coarse, ("fixed", "moving"), masks, strict=True)
        ]
        fixed, moving = (
            Source(image, self.nodata, one.scale, one.valid)
            for image, one in zip(self.images, ready, strict=True)
        )
        textured, theirs = (texture(one, one.valid) for one in ready)
        known = textured & onto_levels(found, *self.levels).mask(theirs)
        return Images(fixed, moving, known, str(resolve_device(device)))


def is_large(fixed: Any, moving: Any, finest: str | None) -> bool:
    """Whether `register` reads images window by window.

    Parameters
    ----------
    fixed, moving : array_like
    finest : str or None
        As of `napari_busref.register`.
    """
    shapes: list[tuple[int, ...]] = [getattr(image, "shape", ()) for image in (fixed, moving)]
    plain = all(len(one) == 2 or (len(one) == 3 and one[-1] in (3, 4)) for one in shapes)
    if not plain or any(hasattr(image, "dims") for image in (fixed, moving)):
        return False
    limit = max(LARGE, _WHOLE**2)
    return finest not in (None, "none") or shapes[0][0] * shapes[0][1] > limit


def register_large(
    fixed: Any,
    moving: Any,
    finest: str | None,
    *,
    whole: Callable[..., RegistrationResult],
    initial: Transform | tuple[ArrayLike, ArrayLike] | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    nodata: NoData = "auto",
    fill_value: float | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    side: int | None = None,
    **options: Any,
) -> LargeRegistrationResult:
    """Register a pair of any size; see `napari_busref.register` for the other parameters.

    Parameters
    ----------
    whole : callable
        `napari_busref.register`, for the coarse level.
    side : int
        The coarse level has at most the area of a square of this side, by default 2048 px.
    """
    reporter, watch = Reporter(progress, cancel), Stopwatch()
    reporter.step("reading the images", 0.0)
    pair = _Large.of(fixed, moving, nodata, side or _WHOLE)
    start = None
    if initial is not None:
        start, _ = initial_transform(initial, *pair.shapes)
    masks = tuple(
        None if mask is None else block_means(mask, round(level.step[0]))
        for mask, level in zip((fixed_mask, moving_mask), pair.levels, strict=True)
    )
    steps = _levels(pair, finest, start)
    seconds = pair.coarse[0].size * _COARSE_SECONDS, expected_seconds(pair.shapes[0], steps)
    share = seconds[0] / sum(seconds)
    coarse = whole(
        *pair.coarse,
        initial=None if start is None else onto_levels(start, *pair.levels),
        fixed_mask=masks[0],
        moving_mask=masks[1],
        nodata=None,
        finest="none",
        progress=reporter.part(0.1 * share, share),
        cancel=cancel,
        **options,
    )
    watch.lap("coarse level")
    found = Refined(pair.full(coarse.transform))
    dense = coarse.parameters["refine"] == "dense" and coarse.quality.status == "registered"
    if coarse.quality.status == "not registered":
        found = Refined(start or Transform.equal_field_of_view(*pair.shapes))
    try:
        if dense:
            device = options.get("device", "auto")
            images = pair.unread((masks[0], masks[1]), found.transform, device)
            for reached in in_tiles(images, found, steps, reporter.part(share, 1.0)):
                found = reached
    except Cancelled:
        if options.get("on_cancel") != "best":
            raise
    watch.lap("tiles")
    reporter.regardless().step("registered", 1.0)
    parameters = coarse.parameters | {
        "fixed_shape": list(pair.shapes[0]),
        "moving_shape": list(pair.shapes[1]),
        "levels": [{"step": pair.levels[0].step[0]}, *found.levels],
    }
    preview = _preview(coarse, pair, start)
    agreement = found.agreement
    return LargeRegistrationResult(
        coarse, found.transform, preview, moving, fill_value, agreement, parameters, watch.total()
    )


def refine_large(
    fixed: Any,
    moving: Any,
    transform: Transform,
    first: Window,
    *,
    finest: str = "full",
    masks: Callable[[Grid, Grid], tuple[Any, Any]] | None = None,
    nodata: NoData = "auto",
    device: Any = "auto",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[tuple[Refined, bool]]:
    """Refine a registration in tiles, a part of the image first.

    Parameters
    ----------
    fixed, moving, finest, nodata, device, progress, cancel
        As of `register_large`.
    transform : Transform
        The registration, from a coarse level.
    first : tuple of slice
        Rows and columns of the fixed image that come first.
    masks : callable, optional
        From the grids of both coarse levels to the valid pixels there, or None for all.

    Yields
    ------
    Refined
        What is done so far.
    bool
        Whether the part, or everything, is complete.

    Raises
    ------
    ValueError
        When no level is finer than the coarse one, or the moving image shows none.
    Cancelled
        Between two tiles.
    """
    reporter = Reporter(progress, cancel)
    reporter.step("reading the images", 0.0)
    pair = _Large.of(fixed, moving, nodata, _WHOLE)
    steps = _levels(pair, finest, transform)
    if not steps:
        raise ValueError("finest: the images show nothing finer than what was registered")
    valid = (None, None) if masks is None else masks(*pair.levels)
    images = pair.unread(valid, transform, device)
    yield from part_first(images, Refined(_sparse(transform)), steps, first, reporter)


def _sparse(transform: Transform) -> Transform:
    """The same map with values as far apart as those of joined tiles."""
    return transform.with_spacing(NODES) if max(transform.spacing) > 1 else transform


def _levels(pair: _Large, finest: str | None, start: Transform | None) -> list[int]:
    """Steps of the levels that are registered in tiles, coarse to fine."""
    start = start or Transform.equal_field_of_view(*pair.shapes)
    scale = float(np.sqrt(abs(np.linalg.det(start.affine[:2, :2]))))
    least = max(_STEPS[finest or "half"], _LEAST_PIXELS / scale)
    return [step for step in (8, 4, 2, 1) if least <= step <= pair.levels[0].step[0] / _FINER]


def _preview(coarse: RegistrationResult, pair: _Large, start: Transform | None) -> Preview | None:
    """The preview of the coarse level, in pixels at full resolution."""
    if coarse.preview is None:
        return None
    return replace(
        coarse.preview,
        initial=start or Transform.equal_field_of_view(*pair.shapes),
        step=round(coarse.preview.step * pair.levels[0].step[0]),
        after=after_picture(coarse),
    )
