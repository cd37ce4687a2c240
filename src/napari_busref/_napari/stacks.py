"""Registering layers of any size and number of planes: the work behind the panel, without Qt."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.frames import Frame, Position, plane_frame, stack_frame
from napari_busref._napari.grids import FIELD_BUDGET, Grid, Rescaled
from napari_busref._napari.layers import initial_transform
from napari_busref._napari.lazy import BLOCK, Source, lazy_array, warp_window
from napari_busref._napari.masks import mask_on
from napari_busref._napari.planes import Plane
from napari_busref._napari.reading import (
    PIXEL_BUDGET,
    Reading,
    choose_reading,
    level_grid,
)
from napari_busref.preprocess import MIN_SIZE
from napari_busref.progress import Cancelled, Progress, Reporter
from napari_busref.transform import Transform

if TYPE_CHECKING:
    from napari_busref.fusion import FusionResult
    from napari_busref.quality import Quality
    from napari_busref.registration import RegistrationResult

__all__ = [
    "FUSION_BUDGET",
    "MODES",
    "STACK_BUDGET",
    "LayersResult",
    "PlaneResult",
    "register_layers",
]

#: What to do with the other planes of a stack: nothing, use the transform of the shown one, or
#: find one for each.
MODES = ("plane", "one", "each")

#: Planes of more pixels are fused as they were read for the registration.
FUSION_BUDGET = 4096 * 4096

#: Fused stacks of more bytes are not made; then the shown plane alone is fused.
STACK_BUDGET = 1 << 30

# A warped plane of more pixels is computed when it is looked at, even from an array in memory.
_EAGER = 8192 * 8192
_SMALLEST_LEVEL = 1024 * 1024


@dataclass(frozen=True, eq=False)
class PlaneResult:
    """What was found for one plane of a stack.

    Attributes
    ----------
    transform : Rescaled
        Between the pictures at full resolution.
    quality : Quality
        In pixels of the fixed layer at full resolution.
    mask : ndarray of bool
        The reconstructible area, on `LayersResult.fixed_grid`.
    """

    transform: Rescaled
    quality: Quality
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LayersResult:
    """What `register_layers` returns; `result_layers` makes layers of it.

    Attributes
    ----------
    registration : RegistrationResult
        Of the shown planes, as they were read: on `fixed_grid` and `moving_grid`.
    fusion : FusionResult or None
        Of the shown planes, on `fused_grid`; None when it was not asked for or not reached.
    quality : Quality
        Of the shown planes, in pixels of the fixed layer at full resolution.
    mode : str
        One of `MODES`.
    frame : Frame
        Where the results lie.
    initial : Transform or None
        Where the shown planes started, from full resolution to full resolution.
    fixed_grid, moving_grid : Grid
        Pixels at which the two layers were looked at.
    transform : Rescaled
        Of the shown planes, between the pictures at full resolution.
    planes : mapping
        For each position along the other dimensions, shown one first, what was found there. The
        mode "each" has an entry for each plane that was done, the others for the shown one only.
    warped : ndarray or list of dask arrays
        The moving layer on the fixed one, with all dimensions of `frame`: an array in memory, or
        the levels of a pyramid, finest first, computed where they are looked at (of a single
        plane the coarsest is in memory).
    fused : ndarray or None
        Fused planes, with all dimensions of `fused_frame`. Planes that were not reached are 0.
    fused_grid : Grid
        Pixels of `fused`.
    fused_frame : Frame
        `frame`, or the shown plane alone if the whole would be larger than `STACK_BUDGET`.
    reading : dict
        How the layers were read: level, step and shape of each. JSON can hold it.
    cancelled : bool
        Whether this is what had been done when the run was cancelled.
    """

    registration: RegistrationResult
    fusion: FusionResult | None
    quality: Quality
    mode: str
    frame: Frame
    initial: Transform | None
    fixed_grid: Grid
    moving_grid: Grid
    transform: Rescaled
    planes: Mapping[Position, PlaneResult]
    warped: NDArray[Any] | list[Any]
    fused: NDArray[Any] | None
    fused_grid: Grid
    fused_frame: Frame
    reading: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False


def register_layers(
    fixed: Plane,
    moving: Plane,
    *,
    mode: Literal["plane", "one", "each"] = "plane",
    initial: Transform | Literal["world"] | None = "world",
    fixed_mask: Plane | None = None,
    moving_mask: Plane | None = None,
    fuse: bool = True,
    fusion_model: Any = "gaf",
    device: Any = "auto",
    pixels: int = PIXEL_BUDGET,
    on_cancel: Literal["raise", "best"] = "raise",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> LayersResult:
    """Register and fuse two layers as a viewer shows them.

    Parameters
    ----------
    fixed, moving : Plane
        From `shown_plane`.
    mode : str
        For stacks. ``"plane"``: the shown planes alone. ``"one"``: the transform of the shown
        planes for all planes. ``"each"``: one for each plane, from the shown one outward, each
        started from its neighbour's without a search; a plane that then comes out unreliable is
        tried again from the beginning.
    initial : Transform or None or "world"
        Where to start, from the pixels of the fixed to those of the moving layer at full
        resolution. By default from `initial_transform`; None: the same field of view.
    fixed_mask, moving_mask : Plane, optional
        Planes of Labels layers on any grid. Where they are 0 nothing is compared; outside
        `moving_mask` nothing counts as content either. In a stack each plane takes the labels that
        lie there.
    fuse : bool
        Whether to fuse too.
    fusion_model, device
        As for `napari_busref.register_and_fuse`.
    pixels : int
        What is looked at of a plane, at most; see `choose_reading`. Larger planes are registered
        at a coarser level, and warped at full resolution.
    on_cancel : str
        ``"raise"``, or ``"best"``: return what has been found, if anything.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop.
    **options
        For `napari_busref.register`: ``model``, ``search``, ``refine``, ``transform``.

    Returns
    -------
    LayersResult

    Raises
    ------
    ValueError, TypeError
        Naming the argument or layer, what was given and what is accepted.
    Cancelled, MemoryError, ArithmeticError
        As `napari_busref.register_and_fuse`.

    Examples
    --------
    >>> fixed, moving = (shown_plane(layer, viewer) for layer in layers)  # doctest: +SKIP
    >>> result = register_layers(fixed, moving, mode="each")  # doctest: +SKIP
    >>> viewer.layers.extend(result_layers(result, fixed, moving))  # doctest: +SKIP
    """
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, need one of {MODES}")
    for plane in (fixed, moving):
        if min(plane.shape) < MIN_SIZE:
            raise ValueError(
                f"layer {plane.name!r} has {plane.shape[0]} x {plane.shape[1]} px; registration "
                f"needs at least {MIN_SIZE} x {MIN_SIZE}"
            )
    if isinstance(initial, str):
        if initial != "world":
            raise ValueError(f"initial: got {initial!r}, need a Transform, None or 'world'")
        initial = initial_transform(fixed, moving)
    elif initial is not None:
        given = initial.fixed_shape, initial.moving_shape
        if given != (fixed.shape, moving.shape):
            raise ValueError(
                f"initial: made for images of shape {given[0]} and {given[1]}, but the planes of "
                f"layers {fixed.name!r} and {moving.name!r} have {fixed.shape} and {moving.shape}"
            )
    frame = plane_frame(fixed, moving) if mode == "plane" else stack_frame(fixed, moving)
    run = _Run(
        frame=frame,
        mode=mode,
        initial=initial,
        masks=(fixed_mask, moving_mask),
        pixels=pixels,
        fusion_model=fusion_model if fuse else None,
        device=device,
        keep=on_cancel == "best",
        options=options | {"on_cancel": on_cancel},
        cancel=cancel,
    )
    return run.work(Reporter(progress, cancel))


@dataclass(eq=False)
class _Pair:
    """One pair of planes while it is worked on."""

    registration: RegistrationResult
    transform: Rescaled
    quality: Quality
    source: Source
    fixed: NDArray[Any] | None  # as it was read; None for what was found on another pair


class _Run:
    """One call of `register_layers`."""

    def __init__(
        self,
        *,
        frame: Frame,
        mode: str,
        initial: Transform | None,
        masks: tuple[Plane | None, Plane | None],
        pixels: int,
        fusion_model: Any,
        device: Any,
        keep: bool,
        options: dict[str, Any],
        cancel: threading.Event | None,
    ) -> None:
        self.frame, self.mode, self.initial, self.masks = frame, mode, initial, masks
        self.pixels, self.fusion_model, self.device = pixels, fusion_model, device
        self.keep, self.options, self.cancel = keep, options, cancel
        fixed, moving = frame.pairs[frame.shown]
        self.readings = choose_reading(fixed, pixels), choose_reading(moving, pixels)
        self.fixed_grid, self.moving_grid = (reading.grid for reading in self.readings)
        full = Grid(fixed.shape)
        small = fixed.shape[0] * fixed.shape[1] <= FUSION_BUDGET
        self.fused_grid = full if small else self.fixed_grid
        self.field_pixels = max(1, FIELD_BUDGET // len(frame.pairs))
        self.fused: NDArray[Any] | None = None
        self.fused_frame = frame
        self.cval = 0.0

    def work(self, reporter: Reporter) -> LayersResult:
        order = list(self.frame.outward())
        several = self.mode == "each"
        count = len(order)
        first_part = 1 / count if several or not self.fusion_model else max(1 / count, 0.3)
        if self.mode == "plane" or (self.mode == "one" and not self.fusion_model):
            first_part = 1.0
        shown = self._pair(
            self.frame.shown, self._start(), reporter.part(0.0, 0.75 * first_part), ""
        )
        self._prepare_fused()
        planes = {self.frame.shown: self._result(shown)}
        fusion, cancelled = None, False
        warped: NDArray[Any] | list[Any] | None = None
        try:
            part = reporter.part(0.75 * first_part, first_part)
            fusion = self._fuse(self.frame.shown, shown, part, "")
            for number, (position, beside) in enumerate(order[1:], 2):
                if first_part == 1.0:
                    break
                share = (1 - first_part) / (count - 1)
                begin = first_part + (number - 2) * share
                part = reporter.part(min(begin, 1.0), min(begin + share, 1.0))
                words = f"plane {number} of {count}: "
                if several:
                    self._one_more(position, beside, planes, part, words)
                else:
                    self._fuse(position, self._same(position, shown), part, words)
            if self._at_once():
                warped = self._compute(shown, planes, reporter)
            elif self.mode == "plane":
                warped = self._levels(shown, planes)
                if isinstance(warped, list) and len(warped) > 1:  # what napari shows at first
                    reporter.step("warping", 0.99)
                    warped[-1] = warped[-1].compute()
        except Cancelled:
            if not self.keep:
                raise
            cancelled = True
        # set while the shown planes were refined, and that ended with the best so far
        cancelled = cancelled or (self.cancel is not None and self.cancel.is_set())
        if not cancelled:
            reporter.step("done", 1.0)
        return LayersResult(
            registration=shown.registration,
            fusion=fusion,
            quality=shown.quality,
            mode=self.mode,
            frame=self.frame,
            initial=self.initial,
            fixed_grid=self.fixed_grid,
            moving_grid=self.moving_grid,
            transform=shown.transform,
            planes=planes,
            warped=self._levels(shown, planes) if warped is None else warped,
            fused=self.fused if fusion is not None else None,
            fused_grid=self.fused_grid,
            fused_frame=self.fused_frame,
            reading=self._described(),
            cancelled=cancelled,
        )

    def _start(self) -> Rescaled | None:
        """Where a pair starts that has no neighbour; None: the same field of view."""
        return None if self.initial is None else Rescaled.of(self.initial)

    def _on_grids(self, start: Rescaled | None) -> Transform:
        if start is None:
            fixed, moving = self.frame.pairs[self.frame.shown]
            start = Rescaled.of(Transform.equal_field_of_view(fixed.shape, moving.shape))
        return start.onto(self.fixed_grid, self.moving_grid)

    def _pair(
        self,
        position: Position,
        start: Rescaled | None,
        reporter: Reporter,
        words: str,
        **options: Any,
    ) -> _Pair:
        """Read and register one pair of planes."""
        from napari_busref.registration import register

        fixed, moving = self.frame.pairs[position]
        reporter.step(f"{words}reading", 0.0)
        target, image = (
            replace(reading, plane=plane).read(cancel=self.cancel)
            for reading, plane in zip(self.readings, (fixed, moving), strict=True)
        )
        masks = [
            self._mask(labels, plane, reading)
            for labels, plane, reading in zip(
                self.masks, (fixed, moving), self.readings, strict=True
            )
        ]
        found = register(
            target,
            image,
            # None says the same field of view, which coarser grids need not have to the pixel
            initial=None if start is None and self._as_it_is() else self._on_grids(start),
            device=self.device,
            fixed_mask=masks[0],
            moving_mask=masks[1],
            progress=_prefixed(reporter.part(0.05, 1.0), words),
            cancel=self.cancel,
            **(self.options | options),
        )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            self.cval = np.nan
        transform = Rescaled(
            found.transform, self.fixed_grid, self.moving_grid, fixed.shape, moving.shape
        )
        step = float(np.mean(self.fixed_grid.step))
        quality = replace(found.quality, shift_px=found.quality.shift_px * step)
        copies = () if self.moving_grid.full else ((self.moving_grid, image),)
        return _Pair(found, transform, quality, Source(moving, copies), target)

    def _mask(
        self, labels: Plane | None, plane: Plane, reading: Reading
    ) -> NDArray[np.bool_] | None:
        if labels is None:
            return None
        here = labels.nearest(plane.centre(), plane.world_units)
        if here is None:
            return None
        return mask_on(here, plane, reading.grid, pixels=self.pixels, cancel=self.cancel)

    def _one_more(
        self,
        position: Position,
        beside: list[Position],
        planes: dict[Position, PlaneResult],
        reporter: Reporter,
        words: str,
    ) -> None:
        """Find and keep the transform of a further plane."""
        trusted = [where for where in beside if where in planes and planes[where].quality.reliable]
        part = reporter.part(0.0, 0.4)
        best = None
        if trusted:
            search = self.options.get("search") or "none"
            start = planes[trusted[0]].transform
            best = self._pair(position, start, part, words, search=search, on_cancel="raise")
        if best is None or not best.quality.reliable:
            part = reporter.part(0.4, 0.8)
            again = self._pair(position, self._start(), part, words, on_cancel="raise")
            if best is None or again.quality.score > best.quality.score:
                best = again
        # found, so it is kept even if the run is cancelled while it is fused
        planes[position] = self._result(best)
        self._fuse(position, best, reporter.part(0.8, 1.0), words)

    def _same(self, position: Position, shown: _Pair) -> _Pair:
        """Another pair of planes with the transform of the shown one."""
        return replace(shown, source=Source(self.frame.pairs[position][1]), fixed=None)

    def _result(self, pair: _Pair) -> PlaneResult:
        several = self.mode == "each"
        stored = pair.transform.stored(self.field_pixels) if several else pair.transform
        return PlaneResult(stored, pair.quality, pair.registration.mask)

    def _prepare_fused(self) -> None:
        if not self.fusion_model:
            return
        fixed, moving = self.frame.pairs[self.frame.shown]
        for frame in (self.frame, plane_frame(fixed, moving)):
            shape = (*frame.sizes_on(self.fused_grid), *fixed.source.shape[fixed.ndim :])
            dtype = np.dtype(fixed.source.dtype).newbyteorder("=")
            self.fused_frame = frame
            if np.prod(shape, dtype=float) * dtype.itemsize <= STACK_BUDGET:
                break
        self.fused = np.zeros(shape, dtype)

    def _fuse(
        self, position: Position, pair: _Pair, reporter: Reporter, words: str
    ) -> FusionResult | None:
        """Fuse one pair of planes and put the result where it belongs."""
        if self.fused is None:
            return None
        where: Position = position
        if self.fused_frame is not self.frame:
            if position != self.frame.shown:
                return None
            where = self.fused_frame.shown
        from napari_busref.fusion import fuse

        grid = self.fused_grid
        reporter.check()
        image = pair.fixed
        if image is None or grid != self.fixed_grid:
            fixed = self.frame.pairs[position][0]
            reading = self.readings[0] if grid == self.fixed_grid else Reading(fixed, 0, 1)
            image = replace(reading, plane=fixed).read(cancel=self.cancel)
        mask = _spread(pair.registration.mask, self.fixed_grid, grid)
        if pair.fixed is not None and grid == self.fixed_grid and self.moving_grid.full:
            warped = pair.registration.warped
        else:
            window = (slice(0, grid.shape[0]), slice(0, grid.shape[1]))
            warped = warp_window(pair.source, pair.transform, grid, window, cval=self.cval)
        result = fuse(
            image,
            warped,
            model=self.fusion_model,
            device=self.device,
            mask=mask,
            progress=_prefixed(reporter, words),
            cancel=self.cancel,
        )
        index: list[Any] = [slice(None)] * len(self.fused_frame.sizes)
        for axis, number in zip(self.fused_frame.hidden, where, strict=True):
            index[axis] = number
        self.fused[tuple(index)] = result.fused
        return result

    def _levels(
        self, shown: _Pair, planes: Mapping[Position, PlaneResult]
    ) -> NDArray[Any] | list[Any]:
        """The warped moving layer, computed where it is looked at unless it is there already."""
        frame = self.frame
        fixed, moving = frame.pairs[frame.shown]
        if self.mode == "plane" and self._as_it_is() and len(fixed.levels) == 1:
            return np.expand_dims(shown.registration.warped, frame.hidden)
        return [
            lazy_array(
                frame.sizes_on(grid),
                frame.axes,
                _Blocks(frame, grid, self.mode, shown, planes, self.cval),
                np.dtype(moving.source.dtype).newbyteorder("="),
                tuple(moving.source.shape[moving.ndim :]),
            )
            for grid in _pyramid(fixed)
        ]

    def _as_it_is(self) -> bool:
        """Whether the planes were looked at in full resolution."""
        return self.fixed_grid.full and self.moving_grid.full

    def _at_once(self) -> bool:
        """Whether the warped layer is to be an array in memory, as the moving one is."""
        fixed, moving = self.frame.pairs[self.frame.shown]
        return (
            self.mode == "plane"
            and not self._as_it_is()
            and len(fixed.levels) == 1
            and isinstance(moving.source, np.ndarray)
            and fixed.shape[0] * fixed.shape[1] <= _EAGER
        )

    def _compute(
        self, shown: _Pair, planes: Mapping[Position, PlaneResult], reporter: Reporter
    ) -> NDArray[Any]:
        """Warp the shown plane now, some rows at a time."""
        frame = self.frame
        moving = frame.pairs[frame.shown][1]
        height, width = (frame.sizes[axis] for axis in frame.axes)
        channels = moving.source.shape[moving.ndim :]
        dtype = np.dtype(moving.source.dtype).newbyteorder("=")
        warped = np.empty((height, width, *channels), dtype)
        blocks = _Blocks(frame, Grid((height, width)), self.mode, shown, planes, self.cval)
        for top in range(0, height, BLOCK):
            reporter.step("warping", 0.99)
            rows = slice(top, min(top + BLOCK, height))
            warped[rows] = blocks(frame.shown, (rows, slice(0, width)))
        return np.expand_dims(warped, frame.hidden)

    def _described(self) -> dict[str, Any]:
        return {
            name: {"level": reading.level, "step": reading.step, "shape": list(reading.grid.shape)}
            for name, reading in zip(("fixed", "moving"), self.readings, strict=True)
        }


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Computes the blocks of one level of the warped layer."""

    frame: Frame
    grid: Grid
    mode: str
    shown: _Pair
    planes: Mapping[Position, PlaneResult]
    cval: float

    def __call__(self, position: Position, window: tuple[slice, slice]) -> NDArray[Any]:
        moving = self.frame.pairs[self.frame.shown][1]
        pair = self.frame.pairs.get(position)
        found = self.planes.get(position)
        if pair is None or (self.mode == "each" and found is None):
            shape = [part.stop - part.start for part in window]
            dtype = np.dtype(moving.source.dtype).newbyteorder("=")
            return np.zeros((*shape, *moving.source.shape[moving.ndim :]), dtype)
        transform = found.transform if found is not None else self.shown.transform
        source = self.shown.source if pair[1] is moving else Source(pair[1])
        return warp_window(source, transform, self.grid, window, cval=self.cval, nested=True)


def _pyramid(fixed: Plane) -> list[Grid]:
    """The levels of the fixed plane, or, if it is large and has none, halves and quarters."""
    if len(fixed.levels) > 1:
        return [level_grid(fixed, level) for level in range(len(fixed.levels))]
    grids = [Grid(fixed.shape)]
    while grids[-1].shape[0] * grids[-1].shape[1] > max(PIXEL_BUDGET, _SMALLEST_LEVEL):
        rows, cols = (max(1, size // 2) for size in grids[-1].shape)
        grids.append(Grid((rows, cols), (2.0 * grids[-1].step[0], 2.0 * grids[-1].step[1])))
    return grids


def _spread(mask: NDArray[np.bool_], grid: Grid, onto: Grid) -> NDArray[np.bool_]:
    """A mask on another grid over the same picture, each pixel from the one that it lies in."""
    if grid == onto:
        return mask
    index = [
        np.clip(((np.arange(size) + 0.5) * fine / coarse).astype(int), 0, limit - 1)
        for size, fine, coarse, limit in zip(
            onto.shape, onto.step, grid.step, grid.shape, strict=True
        )
    ]
    return mask[np.ix_(*index)]


def _prefixed(reporter: Reporter, words: str) -> Progress:
    def step(stage: str, fraction: float) -> None:
        reporter.step(f"{words}{stage}", fraction)

    return step
