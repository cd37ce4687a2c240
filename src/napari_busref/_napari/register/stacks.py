"""Register layers of any size and number of planes. Needs no Qt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.lazy import Source
from napari_busref._napari.layers.pair import world_transform
from napari_busref._napari.layers.plane_pairs import PlanePairs, Position, single_pair, stack_pairs
from napari_busref._napari.layers.planes import Plane
from napari_busref._napari.layers.reading import PIXEL_BUDGET, Reading, choose_reading
from napari_busref._napari.layers.result import LayersResult, PlaneResult
from napari_busref._napari.register.masks import mask_on
from napari_busref._napari.register.stack_fusion import Fuser, RegisteredPair
from napari_busref._napari.register.stack_warp import Warp
from napari_busref.fusion.stages import fusion_stages
from napari_busref.images.dtypes import checked_fill
from napari_busref.images.preprocess import MIN_SIZE
from napari_busref.registration.drift import Drift, RegisteredFrame
from napari_busref.registration.stages import registration_stages
from napari_busref.runtime.progress import Cancelled, Progress, Reporter
from napari_busref.transforms.grids import FIELD_BUDGET, Grid
from napari_busref.transforms.levels import from_levels, onto_levels
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref.fusion import FusionResult

__all__ = ["MODES", "expected_seconds", "register_stack"]

#: How to treat the other planes of a stack: leave them out, use the transform of the shown plane,
#: or register each.
MODES = ("plane", "one", "each")


_REPEATED = 0.95  # share of the progress at which planes beside the drift are repeated


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
    on_result: Callable[[LayersResult], None] | None = None,
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
        planes for all planes. ``"each"``: one for each plane, from the shown one outward. Each
        starts from its neighbour's transform without a search. A plane whose result is unreliable
        is registered again from `initial`. Along a single dimension, planes beside the drift are
        registered again, and gaps interpolated, as `napari_busref.register_series` does.
    initial : Transform or None or "world"
        Initial transform, from the pixels of the fixed to those of the moving layer at full
        resolution. ``"world"``: from `world_transform`; None: an equal field of view.
    fixed_mask, moving_mask : Plane, optional
        Planes of Labels layers on any grid; pixels that are 0 are not valid. In a stack each plane
        takes the labels at its position.
    fuse : bool
        Whether to fuse the planes, too.
    fusion : mapping, optional
        Arguments of `napari_busref.fuse`: ``model``, ``task`` and so on.
    device
        As for `napari_busref.register_and_fuse`.
    pixels : int
        Largest number of pixels that are read of a plane; see `choose_reading`. Larger planes are
        registered at a coarser level, and warped at full resolution.
    on_cancel : str
        ``"raise"``, or ``"best"``: return the best so far, if there is any.
    on_result : callable, optional
        Called after each plane with the result so far, as a cancelled call would return it.
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
        Naming the argument or layer, the given value and the accepted ones.
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
    run = _StackRun(
        pairs=single_pair(fixed, moving) if mode == "plane" else stack_pairs(fixed, moving),
        mode=mode,
        initial=initial,
        masks=(fixed_mask, moving_mask),
        pixels=pixels,
        fusion={"device": device, **(fusion or {})} if fuse else None,
        options={"device": device, "on_cancel": on_cancel, **options},
        on_result=on_result,
        cancel=cancel,
    )
    return run.work(Reporter(progress, cancel))


def expected_seconds(
    shape: tuple[int, int], options: Mapping[str, Any], fusion: Mapping[str, Any] | None
) -> tuple[float, float, float]:
    """Expected seconds to register the shown planes, to register a further pair, to fuse one.

    Parameters
    ----------
    shape : tuple of int
        Of the fixed plane as it is read.
    options, fusion : mapping
        Arguments of `napari_busref.register` and `napari_busref.fuse`; None to fuse nothing.
    """
    names = ("model", "search", "refine", "device")
    known = {name: options[name] for name in names if options.get(name) is not None}
    further = known | {"search": known.get("search", "none")}
    stages = [registration_stages(shape, **known), registration_stages(shape, **further)]
    if fusion is not None:
        given = {name: fusion[name] for name in ("model", "task", "device") if name in fusion}
        stages.append(fusion_stages(shape, **given))
    first, again, *fuse = (sum(one.seconds for one in planned) for planned in stages)
    return first, again, sum(fuse)


@dataclass(eq=False)
class _StackRun:
    """One call of `register_stack`."""

    pairs: PlanePairs
    mode: str
    initial: Transform | None
    masks: tuple[Plane | None, Plane | None]
    pixels: int
    fusion: dict[str, Any] | None
    options: dict[str, Any]
    on_result: Callable[[LayersResult], None] | None
    cancel: threading.Event | None
    planes: dict[Position, PlaneResult] = field(default_factory=dict)
    cval: float = 0.0
    fused: FusionResult | None = None  # of the first planes

    def __post_init__(self) -> None:
        fixed, moving = self.pairs.by_position[self.pairs.shown]
        self.readings = choose_reading(fixed, self.pixels), choose_reading(moving, self.pixels)
        self.fixed_grid, self.moving_grid = (reading.grid for reading in self.readings)
        self.fuser = (
            None
            if self.fusion is None
            else Fuser(self.pairs, self.readings, self.fusion, self.cancel)
        )
        self.field_pixels = max(1, FIELD_BUDGET // len(self.pairs.by_position))

    def work(self, reporter: Reporter) -> LayersResult:
        registered, first = self._shares()
        part = reporter.part(0.0, registered)
        shown = self._pair(self.pairs.shown, self._initial(), part)
        self.planes[self.pairs.shown] = self._plane_result(shown)
        cancelled = False
        warped: NDArray[Any] | list[Any] | None = None
        self._report(shown)
        try:
            self._fuse(self.pairs.shown, shown, reporter.part(registered, first))
            last = max(first, _REPEATED) if self.mode == "each" else 1.0
            if first < 1 and (self.mode == "each" or _found(shown)):
                self._other_planes(shown, reporter.part(first, last))
            if last < 1:
                self._follow_drift(shown, reporter.part(last, 1.0))
            warped = self._warped(shown, self.planes, reporter)
        except Cancelled:
            if self.options["on_cancel"] != "best":
                raise
            cancelled = True
        # a registration that was cancelled returns the best so far, and raises nothing
        cancelled = cancelled or (self.cancel is not None and self.cancel.is_set())
        if not cancelled:
            reporter.step("finished", 1.0)
        return self._result(shown, warped, cancelled)

    def _shares(self) -> tuple[float, float]:
        """Fractions of the time at which the shown planes are registered and fused."""
        register, again, fuse = self._seconds()
        further = len(self.pairs.by_position) - 1
        each = {"plane": 0.0, "one": fuse, "each": again + fuse}[self.mode]
        whole = register + fuse + further * each
        return register / whole, (register + fuse) / whole

    def _seconds(self) -> tuple[float, float, float]:
        return expected_seconds(self.fixed_grid.shape, self.options, self.fusion)

    def _other_planes(self, shown: RegisteredPair, reporter: Reporter) -> None:
        """Register or fuse all planes but the shown one."""
        order = list(self.pairs.outward())
        for number, (position, beside) in enumerate(order[1:]):
            part = reporter.part(number / (len(order) - 1), (number + 1) / (len(order) - 1))
            part = part.prefixed(f"plane {number + 2} of {len(order)}: ")
            if self.mode == "each":
                self._further_plane(position, beside, part)
                self._report(shown)
            else:
                other = Source(self.pairs.by_position[position][1])
                self._fuse(position, replace(shown, source=other, fixed=None), part)

    def _follow_drift(self, shown: RegisteredPair, reporter: Reporter) -> None:
        """Register planes beside the drift again, and interpolate gaps, as a series does."""
        numbers = zip(*self.pairs.by_position, strict=True)
        along = [axis for axis, found in enumerate(numbers) if len(set(found)) > 1]
        if len(along) != 1:
            return
        positions = {position[along[0]]: position for position in self.planes}
        frames = {n: _as_frame(self.planes[at]) for n, at in positions.items()}
        drift = Drift(frames)
        again = [n for n in drift.to_repeat() if positions[n] != self.pairs.shown]
        for number, n in enumerate(again):
            part = reporter.part(number / len(again), (number + 1) / len(again))
            part = part.prefixed(f"again {number + 1} of {len(again)}: ")
            for start in drift.starts(n):
                chosen = {"search": self.options.get("search") or "none", "on_cancel": "raise"}
                pair = self._pair(positions[n], start, part, **chosen)
                found = self._plane_result(pair)
                frame = _as_frame(found)
                if drift.better(n, frames[n], frame) is frame:
                    frames[n], self.planes[positions[n]] = frame, found
                    self._fuse(positions[n], pair, part)
                if pair.quality.reliable:
                    break
        for n, gap in Drift(frames).gaps().items():
            if positions[n] != self.pairs.shown:
                self.planes[positions[n]] = PlaneResult(*gap)
                if self.fuser is not None:
                    self.fuser.keep_fixed(positions[n], replace(shown, fixed=None))

    def _report(self, shown: RegisteredPair) -> None:
        if self.on_result is not None:
            self.on_result(self._result(shown, None, cancelled=True))

    def _result(
        self,
        shown: RegisteredPair,
        warped: NDArray[Any] | list[Any] | None,
        cancelled: bool,
    ) -> LayersResult:
        fuser, fusion, planes = self.fuser, self.fused, dict(self.planes)
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
            fused=None if fuser is None or fusion is None else fuser.fused,
            fused_grid=self.fixed_grid if fuser is None else fuser.grid,
            fused_pairs=self.pairs if fuser is None else fuser.pairs,
            weights=None if fuser is None or fusion is None else fuser.weights,
            reading={
                name: {
                    "level": reading.level,
                    "step": reading.step,
                    "shape": list(reading.grid.shape),
                }
                for name, reading in zip(("fixed", "moving"), self.readings, strict=True)
            },
            cancelled=cancelled,
        )

    def _initial(self) -> Transform | None:
        """Initial transform of a plane without a registered neighbour."""
        return self.initial

    def _on_grids(self, initial: Transform | None) -> Transform:
        if initial is None:
            fixed, moving = self.pairs.by_position[self.pairs.shown]
            initial = Transform.equal_field_of_view(fixed.shape, moving.shape)
        return onto_levels(initial, self.fixed_grid, self.moving_grid)

    def _pair(
        self,
        position: Position,
        initial: Transform | None,
        reporter: Reporter,
        **options: Any,
    ) -> RegisteredPair:
        """Read and register one pair of planes."""
        from napari_busref.registration import register

        fixed, moving = self.pairs.by_position[position]
        reporter.step("reading the images", 0.0)
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
            # None is an equal field of view, which coarser grids do not have to the pixel
            initial=None if initial is None and self._full() else self._on_grids(initial),
            fixed_mask=masks[0],
            moving_mask=masks[1],
            # `register` checks cancel, and still reports while it keeps the best
            progress=reporter.part(0.02, 1.0).regardless(),
            cancel=self.cancel,
            **(self.options | options),
        )
        self.cval = checked_fill(self.options.get("fill_value"), image.dtype, "fill_value")
        transform = from_levels(
            found.transform, self.fixed_grid, self.moving_grid, fixed.shape, moving.shape
        )
        step = float(np.mean(self.fixed_grid.step))
        quality = replace(
            found.quality,
            shift_px=found.quality.shift_px * step,
            map_px=found.quality.map_px * step,
        )
        copies = () if self.moving_grid.full else ((self.moving_grid, image),)
        return RegisteredPair(found, transform, quality, Source(moving, copies), target)

    def _mask(
        self, labels: Plane | None, plane: Plane, reading: Reading
    ) -> NDArray[np.bool_] | None:
        if labels is None:
            return None
        nearest = labels.nearest(plane.centre(), plane.world_units)
        if nearest is None:
            return None
        return mask_on(nearest, plane, reading.grid, pixels=self.pixels, cancel=self.cancel)

    def _further_plane(
        self, position: Position, beside: list[Position], reporter: Reporter
    ) -> None:
        """Register a further plane, keep its transform, and fuse it."""
        _, again, fuse = self._seconds()
        share = again / (again + fuse)  # a second attempt shares what is left
        best = None
        for neighbour in beside:
            found = self.planes.get(neighbour)
            if found is not None and found.quality.reliable:
                search = self.options.get("search") or "none"
                part = reporter.part(0.0, share)
                best = self._pair(
                    position, found.transform, part, search=search, on_cancel="raise"
                )
                break
        if best is None or not best.quality.reliable:
            part = reporter.part(share if best is not None else 0.0, 0.5 + share / 2)
            other = self._pair(position, self._initial(), part, on_cancel="raise")
            if best is None or other.quality.score > best.quality.score:
                best = other
        # kept even if the run is cancelled during its fusion
        self.planes[position] = self._plane_result(best)
        self._fuse(position, best, reporter.part(share, 1.0))

    def _plane_result(self, pair: RegisteredPair) -> PlaneResult:
        several = self.mode == "each"
        transform = pair.transform
        if several:
            nodes = Grid.covering(transform.fixed_shape, transform.spacing)
            transform = transform.with_spacing(nodes.coarser(self.field_pixels).step)
        return PlaneResult(transform, pair.quality, pair.registration.mask)

    def _fuse(self, position: Position, pair: RegisteredPair, reporter: Reporter) -> None:
        """Fuse a pair of planes; where nothing was found the fixed plane stays as it is."""
        if self.fuser is None:
            return
        if not _found(pair):
            if self.mode == "each":  # other modes then have nothing at all
                self.fuser.keep_fixed(position, pair)
            return
        reporter = Reporter(reporter, self.cancel)
        fused = self.fuser.fuse(position, pair, self.cval, reporter)
        self.fused = self.fused or fused

    def _warped(
        self,
        shown: RegisteredPair,
        planes: Mapping[Position, PlaneResult],
        reporter: Reporter | None,
    ) -> NDArray[Any] | list[Any]:
        """The warped moving layer; lazy without a reporter."""
        fixed, _ = self.pairs.by_position[self.pairs.shown]
        if self.mode == "plane" and self._full() and len(fixed.levels) == 1:
            return np.expand_dims(shown.registration.warped, self.pairs.hidden)
        warp = Warp(self.pairs, self.mode, shown.source, shown.transform, planes, self.cval)
        return warp.levels() if reporter is None else warp.layer(reporter)

    def _full(self) -> bool:
        """Whether the planes were read at full resolution."""
        return self.fixed_grid.full and self.moving_grid.full


def _found(pair: RegisteredPair) -> bool:
    return pair.quality.status != "not registered"


def _as_frame(plane: PlaneResult) -> RegisteredFrame:
    return RegisteredFrame(plane.transform, plane.quality, plane.mask)
