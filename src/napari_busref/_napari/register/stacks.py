"""Registering layers of any size and number of planes: the work behind the panel, without Qt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.grids import FIELD_BUDGET, Rescaled
from napari_busref._napari.layers.lazy import Source
from napari_busref._napari.layers.pair import world_transform
from napari_busref._napari.layers.plane_pairs import PlanePairs, Position, single_pair, stack_pairs
from napari_busref._napari.layers.planes import Plane
from napari_busref._napari.layers.reading import PIXEL_BUDGET, Reading, choose_reading
from napari_busref._napari.layers.result import LayersResult, PlaneResult
from napari_busref._napari.register.masks import mask_on
from napari_busref._napari.register.stack_fusion import Fuser, ToFuse
from napari_busref._napari.register.stack_warp import Warp
from napari_busref.images.preprocess import MIN_SIZE
from napari_busref.runtime.progress import Cancelled, Progress, Reporter
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref.fusion import FusionResult
    from napari_busref.registration import RegistrationResult
    from napari_busref.registration.quality import Quality

__all__ = ["MODES", "register_stack"]

#: What to do with the other planes of a stack: nothing, use the transform of the shown one, or
#: find one for each.
MODES = ("plane", "one", "each")


def register_stack(
    fixed: Plane,
    moving: Plane,
    *,
    mode: Literal["plane", "one", "each"] = "plane",
    initial: Transform | Literal["world"] | None = "world",
    fixed_mask: Plane | None = None,
    moving_mask: Plane | None = None,
    fuse: bool = True,
    fusion: Mapping[str, Any] | None = None,
    device: Any = "auto",
    pixels: int = PIXEL_BUDGET,
    on_cancel: Literal["raise", "best"] = "raise",
    so_far: Callable[[LayersResult], None] | None = None,
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
        resolution. By default from `world_transform`; None: the same field of view.
    fixed_mask, moving_mask : Plane, optional
        Planes of Labels layers on any grid. Where they are 0 nothing is compared; outside
        `moving_mask` nothing counts as content either. In a stack each plane takes the labels that
        lie there.
    fuse : bool
        Whether to fuse too.
    fusion : mapping, optional
        Arguments of `napari_busref.fuse`: ``model``, ``task`` and so on.
    device
        As for `napari_busref.register_and_fuse`.
    pixels : int
        What is looked at of a plane, at most; see `choose_reading`. Larger planes are registered
        at a coarser level, and warped at full resolution.
    on_cancel : str
        ``"raise"``, or ``"best"``: return what has been found, if anything.
    so_far : callable, optional
        Called with what there is, as if it were cancelled then, whenever a plane is registered.
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
    >>> result = register_stack(fixed, moving, mode="each")  # doctest: +SKIP
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
        initial = world_transform(fixed, moving)
    elif initial is not None:
        given = initial.fixed_shape, initial.moving_shape
        if given != (fixed.shape, moving.shape):
            raise ValueError(
                f"initial: made for images of shape {given[0]} and {given[1]}, but the planes of "
                f"layers {fixed.name!r} and {moving.name!r} have {fixed.shape} and {moving.shape}"
            )
    pairs = single_pair(fixed, moving) if mode == "plane" else stack_pairs(fixed, moving)
    run = _Run(
        pairs=pairs,
        mode=mode,
        initial=initial,
        masks=(fixed_mask, moving_mask),
        pixels=pixels,
        fusion={"device": device, **(fusion or {})} if fuse else None,
        device=device,
        keep=on_cancel == "best",
        options=options | {"on_cancel": on_cancel},
        so_far=so_far,
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
    """One call of `register_stack`."""

    def __init__(
        self,
        *,
        pairs: PlanePairs,
        mode: str,
        initial: Transform | None,
        masks: tuple[Plane | None, Plane | None],
        pixels: int,
        fusion: dict[str, Any] | None,
        device: Any,
        keep: bool,
        options: dict[str, Any],
        so_far: Callable[[LayersResult], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        self.pairs, self.mode, self.initial, self.masks = pairs, mode, initial, masks
        self.pixels, self.device = pixels, device
        self.keep, self.options, self.so_far, self.cancel = keep, options, so_far, cancel
        fixed, moving = pairs.by_position[pairs.shown]
        self.readings = choose_reading(fixed, pixels), choose_reading(moving, pixels)
        self.fixed_grid, self.moving_grid = (reading.grid for reading in self.readings)
        self.fuser = None if fusion is None else Fuser(pairs, self.readings, fusion, cancel)
        self.field_pixels = max(1, FIELD_BUDGET // len(pairs.by_position))
        self.cval = 0.0

    def work(self, reporter: Reporter) -> LayersResult:
        order = list(self.pairs.outward())
        several = self.mode == "each"
        count = len(order)
        first_part = 1 / count if several or self.fuser is None else max(1 / count, 0.3)
        if self.mode == "plane" or (self.mode == "one" and self.fuser is None):
            first_part = 1.0
        shown = self._pair(
            self.pairs.shown, self._start(), reporter.part(0.0, 0.75 * first_part), ""
        )
        planes = {self.pairs.shown: self._result(shown)}
        fusion, cancelled = None, False
        self._tell(shown, planes, fusion)
        warped: NDArray[Any] | list[Any] | None = None
        try:
            part = reporter.part(0.75 * first_part, first_part)
            fusion = self._fuse(self.pairs.shown, shown, part, "")
            for number, (position, beside) in enumerate(order[1:], 2):
                if first_part == 1.0:
                    break
                share = (1 - first_part) / (count - 1)
                begin = first_part + (number - 2) * share
                part = reporter.part(min(begin, 1.0), min(begin + share, 1.0))
                words = f"plane {number} of {count}: "
                if several:
                    self._one_more(position, beside, planes, part, words)
                    self._tell(shown, planes, fusion)
                else:
                    self._fuse(position, self._same(position, shown), part, words)
            warped = self._warped(shown, planes, reporter)
        except Cancelled:
            if not self.keep:
                raise
            cancelled = True
        # set while the shown planes were refined, and that ended with the best so far
        cancelled = cancelled or (self.cancel is not None and self.cancel.is_set())
        if not cancelled:
            reporter.step("done", 1.0)
        return self._outcome(shown, planes, fusion, warped, cancelled)

    def _tell(
        self,
        shown: _Pair,
        planes: Mapping[Position, PlaneResult],
        fusion: FusionResult | None,
    ) -> None:
        if self.so_far is not None:
            self.so_far(self._outcome(shown, dict(planes), fusion, None, True))

    def _outcome(
        self,
        shown: _Pair,
        planes: Mapping[Position, PlaneResult],
        fusion: FusionResult | None,
        warped: NDArray[Any] | list[Any] | None,
        cancelled: bool,
    ) -> LayersResult:
        return LayersResult(
            registration=shown.registration,
            fusion=fusion,
            quality=shown.quality,
            mode=self.mode,
            pairs=self.pairs,
            initial=self.initial,
            fixed_grid=self.fixed_grid,
            moving_grid=self.moving_grid,
            transform=shown.transform,
            planes=planes,
            warped=self._warped(shown, planes, None) if warped is None else warped,
            reading=self._described(),
            cancelled=cancelled,
            **self._fused(fusion),
        )

    def _start(self) -> Rescaled | None:
        """Where a pair starts that has no neighbour; None: the same field of view."""
        return None if self.initial is None else Rescaled.of(self.initial)

    def _on_grids(self, start: Rescaled | None) -> Transform:
        if start is None:
            fixed, moving = self.pairs.by_position[self.pairs.shown]
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

        fixed, moving = self.pairs.by_position[position]
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
            # it looks at cancel itself, and reports on while it keeps the best
            progress=_prefixed(reporter.part(0.05, 1.0).regardless(), words),
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
        return replace(shown, source=Source(self.pairs.by_position[position][1]), fixed=None)

    def _result(self, pair: _Pair) -> PlaneResult:
        several = self.mode == "each"
        stored = pair.transform.stored(self.field_pixels) if several else pair.transform
        return PlaneResult(stored, pair.quality, pair.registration.mask)

    def _fuse(
        self, position: Position, pair: _Pair, reporter: Reporter, words: str
    ) -> FusionResult | None:
        if self.fuser is None:
            return None
        ready = ToFuse(pair.registration, pair.transform, pair.source, pair.fixed, self.cval)
        return self.fuser.fuse(position, ready, Reporter(_prefixed(reporter, words), self.cancel))

    def _fused(self, fusion: FusionResult | None) -> dict[str, Any]:
        """What `LayersResult` says of the fusion."""
        fuser = self.fuser
        if fuser is None:
            return {"fused": None, "fused_grid": self.fixed_grid, "fused_pairs": self.pairs}
        return {
            "fused": None if fusion is None else fuser.fused,
            "fused_grid": fuser.grid,
            "fused_pairs": fuser.pairs,
            "weights": None if fusion is None else fuser.weights,
        }

    def _warped(
        self,
        shown: _Pair,
        planes: Mapping[Position, PlaneResult],
        reporter: Reporter | None,
    ) -> NDArray[Any] | list[Any]:
        """The warped moving layer; without a reporter nothing is computed now."""
        single = self.mode == "plane"
        if (
            single
            and self._as_it_is()
            and len(self.pairs.by_position[self.pairs.shown][0].levels) == 1
        ):
            return np.expand_dims(shown.registration.warped, self.pairs.hidden)
        warp = Warp(self.pairs, self.mode, shown.source, shown.transform, planes, self.cval)
        if reporter is not None and warp.at_once:
            return warp.compute(reporter)
        levels = warp.levels()
        if reporter is not None and single and len(levels) > 1:  # what napari shows at first
            reporter.step("warping", 0.99)
            levels[-1] = levels[-1].compute()
        return levels

    def _as_it_is(self) -> bool:
        """Whether the planes were looked at in full resolution."""
        return self.fixed_grid.full and self.moving_grid.full

    def _described(self) -> dict[str, Any]:
        return {
            name: {"level": reading.level, "step": reading.step, "shape": list(reading.grid.shape)}
            for name, reading in zip(("fixed", "moving"), self.readings, strict=True)
        }


def _prefixed(reporter: Reporter, words: str) -> Progress:
    def step(stage: str, fraction: float) -> None:
        reporter.step(f"{words}{stage}", fraction)

    return step
