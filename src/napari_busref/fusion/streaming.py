"""`write_fused`: fuse images of any size block by block, with the result of the whole image."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_busref.fusion._fuse import SHARED_COLOURS, add_change, colour_change, run_network
from napari_busref.fusion.borders import border_side, border_steps, fade
from napari_busref.fusion.cells import CellSums, enlarge
from napari_busref.fusion.emphasis import more_detail
from napari_busref.fusion.halving import HALO, add_finest, halve, runs_halved
from napari_busref.fusion.skies import Sky, find_sky, sky_side
from napari_busref.fusion.tasks import model_for
from napari_busref.images.preprocess import (
    MAX_SAMPLES,
    Prepared,
    Scale,
    fill_invalid,
    fit_scale,
    usable,
)
from napari_busref.images.pyramid import (
    PyramidWriter,
    Unfinished,
    Window,
    blocks_of,
    input_key,
    unfinished,
)
from napari_busref.models.inference import (
    InferenceSession,
    cancellable,
    inference_session,
)
from napari_busref.runtime.file_safety import memory_budget
from napari_busref.runtime.options import check_number
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.runtime.threads import following_load
from napari_busref.transforms.streaming import (
    Content,
    as_large,
    mask_window,
    transform_key,
    warp_window,
)
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["write_fused"]

Grey = NDArray[np.float32]

_LEVELS = 65535  # of the fused brightness between two stages
_DETAIL_REACH = 8  # px: four sigmas of `more_detail`
_BAND = 512  # rows that are read at a time for a scale


def write_fused(
    path: str | os.PathLike[str],
    fixed: Any,
    moving: Any,
    *,
    transform: Transform | None = None,
    mask: Any = None,
    model: str | os.PathLike[str] | nn.Module | None = None,
    task: str = "infrared-visible",
    detail: float = 0.5,
    feather: float = 16.0,
    device: str | torch.device = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    metadata: Mapping[str, Any] | None = None,
    cloud: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Fuse a registered pair of any size, into a file.

    Blocks of 2048 x 2048 px are read, fused and written one by one. Global pooling takes a pass
    of its own. The result is that of `napari_busref.fuse`, to a grey level of 255.

    Parameters
    ----------
    path : path-like
        As of `napari_busref.write_warped`.
    fixed, moving : path-like, LargeImage or array_like
        Both on one grid; with `transform`, `moving` is the original image.
    transform : Transform, optional
        As of `napari_busref.fuse`. The warped image is kept until the end, beside the output.
    mask : path-like, LargeImage or array_like, shape (H, W), optional
        Valid pixels of the infrared image. Without it, the empty border of `moving` is found on
        at most 2048 x 2048 px.
    model : str, path or torch.nn.Module, optional
        As of `napari_busref.fuse`. The model must run in tiles.
    task, detail, feather, device, precision
        As of `napari_busref.fuse`.
    metadata : mapping, optional
        By default that of `fixed`.
    cloud, resume, overwrite
        As of `napari_busref.write_warped`.
    progress : Progress, optional
    cancel : threading.Event, optional
        Set it to stop before the next layer of the network.

    Returns
    -------
    pathlib.Path
        The file, which appears once it is complete.

    Raises
    ------
    TypeError, ValueError
        For an invalid argument; the message names it.
    MemoryError
        When the model holds more features of the whole image than half of the memory limit.
    FileExistsError, BlockingIOError, Cancelled, OSError, ModuleNotFoundError
        As of `napari_busref.write_warped`.
    """
    visible, infrared = as_large(fixed, "fixed"), as_large(moving, "moving")
    given = None if mask is None else as_large(mask, "mask")
    shape = (int(visible.shape[0]), int(visible.shape[1]))
    _check_shapes(shape, infrared, given, transform)
    options = {
        "task": task,
        "detail": check_number("detail", detail),
        "feather": check_number("feather", feather),
        "precision": precision,
    }
    chosen = model_for(task, model)
    key = {"function": "write_fused", "model": _model_key(chosen), **options}
    key |= {"fixed": input_key(visible), "moving": input_key(infrared)}
    key |= {} if given is None else {"mask": input_key(given)}
    key |= {} if transform is None else {"transform": transform_key(transform)}
    reporter = Reporter(progress, cancel)
    tags = getattr(visible, "metadata", {}) if metadata is None else metadata
    file = Path(path)
    with (
        following_load(),
        inference_session(chosen, "fusion", device, precision) as run,
        cancellable([run.module], reporter.check),
        unfinished(file, key, resume=resume, overwrite=overwrite) as work,
    ):
        if getattr(run.module, "receptive_field", None) is None:
            raise ValueError(f"model: {run.name} needs the whole image at once; use another model")
        if transform is not None:
            infrared, given = _warped(work, infrared, given, transform, reporter.part(0.0, 0.1))
        pair = _Pair.of(visible, infrared, given, reporter.part(0.1, 0.15))
        fused = _Network(run, pair, work).fuse(reporter.part(0.15, 0.85))
        writer = PyramidWriter(work, visible.shape, visible.dtype, tags, key)
        _compose(writer, work, pair, fused, options, reporter.part(0.85, 0.95))
        writer.finish(file, reporter.part(0.95, 1.0), cloud=cloud)
    reporter.step("done", 1.0)
    return file


def _check_shapes(
    shape: tuple[int, int], infrared: Any, mask: Any, transform: Transform | None
) -> None:
    there = tuple(int(side) for side in infrared.shape[:2])
    if transform is None and there != shape:
        raise ValueError(
            f"moving: got shape {there}, need {shape} as fixed; give its transform, or register "
            "the pair first"
        )
    if transform is not None:
        if not isinstance(transform, Transform):
            raise TypeError(f"transform: got {type(transform).__name__}, need a Transform")
        if (transform.fixed_shape, transform.moving_shape) != (shape, there):
            raise ValueError(
                f"transform: made for images of shape {transform.fixed_shape} and "
                f"{transform.moving_shape}, but fixed and moving are of shape {shape} and {there}"
            )
    if mask is not None and tuple(mask.shape) != shape:
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, need {shape} as fixed")


def _model_key(model: Any) -> str:
    if isinstance(model, str | os.PathLike):
        from napari_busref.models.registry import describe_weights

        return describe_weights(os.fspath(model), "fusion")
    return type(model).__name__


def _warped(
    work: Unfinished, moving: Any, mask: Any, transform: Transform, reporter: Reporter
) -> tuple[Any, Any]:
    """Warp the moving image and its valid pixels into arrays beside the output."""
    shape = transform.fixed_shape
    content = Content.of(moving)
    warped = work.array("warped", (*shape, *moving.shape[2:]), moving.dtype)
    inside = work.array("inside", shape, np.uint8)
    blocks = blocks_of(shape)
    for number, window in work.left("warp", blocks):
        reporter.step("warping", number / len(blocks))
        pixels = warp_window(moving, transform, window, fill=None)
        warped[window] = np.ma.filled(pixels) if np.ma.isMaskedArray(pixels) else pixels
        valid = mask_window(content, transform, window)
        if mask is not None:
            valid = valid & (np.ma.filled(np.asanyarray(mask[window]), 0) != 0)
        inside[window] = valid
    return warped, inside


# -- the pair -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Pair:
    """Both images on one grid, prepared window by window.

    Attributes
    ----------
    visible, infrared : array_like
        (H, W) or (H, W, C).
    mask : array_like or None
    content : Content or None
        Of the infrared image, without a mask.
    scales : tuple of Scale
    bounded : bool
        Whether the colours of the visible image are floats in [0, 1].
    """

    visible: Any
    infrared: Any
    mask: Any
    content: Content | None
    scales: tuple[Scale, Scale]
    bounded: bool

    @classmethod
    def of(cls, visible: Any, infrared: Any, mask: Any, reporter: Reporter) -> _Pair:
        """Find the empty border and the scales of a pair."""
        plain = Scale(0.0, 1.0)
        content = None if mask is not None else Content.of(infrared)
        first = cls(visible, infrared, mask, content, (plain, plain), False)
        reporter.step("reading", 0.0)
        scale, bounded = _scale_of(visible, first.valid_visible)
        reporter.step("reading", 0.5)
        other, _ = _scale_of(infrared, first.valid_infrared)
        return cls(visible, infrared, mask, content, (scale, other), bounded)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.visible.shape[0]), int(self.visible.shape[1])

    def valid_visible(self, image: Any, window: Window) -> NDArray[np.bool_]:
        """Valid pixels of a window of the visible image."""
        return usable(image)

    def valid_infrared(self, image: Any, window: Window) -> NDArray[np.bool_]:
        """Valid pixels of a window of the infrared image."""
        valid = usable(image)
        if self.mask is not None:
            valid &= np.ma.filled(np.asanyarray(self.mask[window]), 0) != 0
        if self.content is not None:
            valid &= ~self.content.empty(image, window)
        return valid

    def prepared(self, window: Window) -> tuple[Prepared, Prepared]:
        """Grey values and valid pixels of a window of both images."""
        found = []
        for image, valid_of, scale in (
            (self.visible, self.valid_visible, self.scales[0]),
            (self.infrared, self.valid_infrared, self.scales[1]),
        ):
            block = np.asanyarray(image[window])
            valid = valid_of(block, window)
            found.append(Prepared(scale.grey(np.ma.getdata(block), valid), valid, scale))
        return found[0], found[1]


def _scale_of(image: Any, valid_of: Any) -> tuple[Scale, bool]:
    """The scale of `napari_busref.images.preprocess.prepare`; whether floats lie in [0, 1]."""
    dtype = np.dtype(image.dtype)
    if dtype.kind == "b":
        return Scale(0.0, 1.0), False
    if dtype == np.uint8:
        return Scale(0.0, 255.0), False
    if dtype.kind in "iu" and dtype.itemsize == 8:
        raise ValueError("fixed and moving: 64-bit integers are not fused by blocks; use 32 bits")
    height, width = image.shape[:2]
    count = math.prod(image.shape[:2]) * (3 if len(image.shape) == 3 else 1)
    step, pixel, place = -(-count // MAX_SAMPLES), 0, 0
    sample, pixels = [], []
    least, most = math.inf, -math.inf
    for top in range(0, height, _BAND):
        window = (slice(top, min(top + _BAND, height)), slice(0, width))
        block = np.asanyarray(image[window])
        valid = valid_of(block, window)
        plain = np.ma.getdata(block)
        values = (plain[..., :3] if plain.ndim == 3 else plain)[valid]
        if not values.size:
            continue
        flat = values.reshape(-1)
        sample.append(flat[-place % step :: step])
        pixels.append(values[-pixel % step :: step])
        place, pixel = place + flat.size, pixel + len(values)
        least, most = min(least, float(flat.min())), max(most, float(flat.max()))
    if not sample:
        return Scale(0.0, 0.0), False
    found = fit_scale(np.concatenate(sample), np.concatenate(pixels), (least, most), None)
    return found, dtype.kind == "f" and least >= 0 and most <= 1


# -- the network --------------------------------------------------------------------------------


class _Network:
    """Runs a network on blocks of a pair.

    Parameters
    ----------
    run : InferenceSession
    pair : _Pair
    work : Unfinished
    """

    def __init__(self, run: InferenceSession, pair: _Pair, work: Unfinished) -> None:
        module: Any = run.module
        self._run, self._pair, self._work = run, pair, work
        self._halved = runs_halved(module, pair.shape)
        self._stride = getattr(module, "stride", 1)
        reach = getattr(module, "whole_receptive_field", None)
        self._alone = reach is not None
        reach = (module.receptive_field if reach is None else reach) + HALO * self._halved
        self._margin = -(-reach // self._stride) * self._stride
        self._sky: Sky | None = None

    def fuse(self, reporter: Reporter) -> Any:
        """Fuse all blocks; the brightness in [0, 65535], in an array beside the output."""
        from napari_busref.models.fusion.global_pooling import PassIncomplete, TileAccumulator

        fused = self._work.array("fused", self._pair.shape, np.uint16)
        blocks = blocks_of(self._pair.shape)
        if self._work.is_done("network"):
            return fused
        if getattr(self._run.module, "settles_skies", False):
            self._sky = self._find_sky(reporter.part(0.0, 0.1))
        shape = self._pair.shape
        accumulator = TileAccumulator(
            (-(-shape[0] // 2), -(-shape[1] // 2)) if self._halved else shape,
            self._stride,
            alone=self._alone,
            known=_read_known(self._work.folder),
            device=self._run.device,
            limit=memory_budget() / 2,
        )
        number, again = 0, True
        while again:
            bar = reporter.part(1 - 0.9 * 0.5**number, 1 - 0.9 * 0.5 ** (number + 1))
            for index, window in enumerate(blocks):
                bar.step(f"fusing, pass {number + 1}", index / len(blocks))
                if self._work.is_done(f"network {index}"):
                    continue
                try:
                    block = self._block(window, accumulator)
                except PassIncomplete:
                    continue
                fused[window] = np.rint(block * _LEVELS).astype(np.uint16)
                self._work.mark(f"network {index}")
            again = accumulator.end_pass()
            number += 1
            if again:
                _write_known(self._work.folder, accumulator.known)
        self._work.mark("network")
        return fused

    def _block(self, window: Window, accumulator: Any) -> Grey:
        """The fused brightness of a block, with a margin that is cut off."""
        factor = 2 if self._halved else 1
        outer = _grown(window, factor * self._margin, self._pair.shape)
        visible, infrared = self._filled(outer)
        first, second = (halve(visible), halve(infrared)) if self._halved else (visible, infrared)
        core = _within(window, outer, factor)
        origin = outer[0].start // factor, outer[1].start // factor
        with accumulator.tile((first.shape[0], first.shape[1]), core, origin):
            found = run_network(self._run, first, second)
        if not self._halved:
            return found[core]
        coarse = np.stack([first, second, found])
        part = _grown(window, 2 * HALO, self._pair.shape)
        inner, small = _within(part, outer), _within(part, outer, 2)
        sharp = add_finest(visible[inner], infrared[inner], coarse[:, small[0], small[1]])
        return sharp[_within(window, part)]

    def _filled(self, window: Window) -> tuple[Grey, Grey]:
        """Grey values as the network gets them: filled, and with a settled sky."""
        visible, infrared = self._pair.prepared(window)
        first, second = (_filled(image) for image in (visible, infrared))
        if self._sky is not None:
            second = self._sky.settle(first, second, window)
        return first, second

    def _find_sky(self, reporter: Reporter) -> Sky | None:
        shape = self._pair.shape
        side = sky_side(shape)
        sums = [CellSums(shape, side, 1) for _ in range(2)]
        blocks = blocks_of(shape)
        for number, window in enumerate(blocks):
            reporter.step("reading", number / len(blocks))
            for one, image in zip(sums, self._pair.prepared(window), strict=True):
                one.add(window, image.valid, image.grey)
        cells = [fill_invalid(one.means[0], one.coverage > 0) for one in sums]
        return find_sky(cells[0], cells[1], side, shape)


def _filled(image: Prepared) -> Grey:
    """`fill_invalid` on the box that holds the invalid pixels, and a valid one beside each."""
    if image.valid.all() or not image.valid.any():
        return image.grey
    box = []
    for axis in (0, 1):
        lost = np.flatnonzero(~image.valid.all(1 - axis))
        box.append(slice(max(int(lost[0]) - 1, 0), int(lost[-1]) + 2))
    filled, where = image.grey.copy(), (box[0], box[1])
    filled[where] = fill_invalid(image.grey[where], image.valid[where])
    return filled


def _grown(window: Window, margin: int, shape: tuple[int, int]) -> Window:
    rows, cols = (
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, size in zip(window, shape, strict=True)
    )
    return rows, cols


def _within(window: Window, outer: Window, factor: int = 1) -> Window:
    """A window in the pixels of another that holds it, which may be reduced."""
    rows, cols = (
        slice((part.start - whole.start) // factor, -(-(part.stop - whole.start) // factor))
        for part, whole in zip(window, outer, strict=True)
    )
    return rows, cols


def _read_known(folder: Path) -> list[list[NDArray[np.float32]]]:
    """The pooled values of the passes that an earlier run has completed."""
    file = folder / "pooled.npz"
    if not file.exists():
        return []
    with np.load(file) as stored:
        names = sorted(stored.files, key=lambda name: [int(part) for part in name.split("-")])
        found: list[list[NDArray[np.float32]]] = []
        for name in names:
            if int(name.split("-")[0]) == len(found):
                found.append([])
            found[-1].append(stored[name])
    return found


def _write_known(folder: Path, known: list[list[NDArray[np.float32]]]) -> None:
    values = {
        f"{call}-{index}": value
        for call, some in enumerate(known)
        for index, value in enumerate(some)
    }
    partial = folder / "pooled.part.npz"
    np.savez(partial, **values)  # type: ignore[arg-type]
    partial.replace(folder / "pooled.npz")


# -- the result ---------------------------------------------------------------------------------


def _compose(
    writer: PyramidWriter,
    work: Unfinished,
    pair: _Pair,
    fused: Any,
    options: Mapping[str, Any],
    reporter: Reporter,
) -> None:
    """Write the fused image in the colours, range and type of the visible one."""
    feather, detail = float(options["feather"]), float(options["detail"])
    halo = max(math.ceil(feather) + 1, _DETAIL_REACH)
    shape = pair.shape
    side = border_side(shape)

    def changed(window: Window) -> tuple[Prepared, Prepared, Grey]:
        """Both images of a window, and the change of brightness."""
        visible, infrared = pair.prepared(window)
        brightness = fused[window].astype(np.float32) / np.float32(_LEVELS)
        return visible, infrared, more_detail(brightness, detail) - visible.grey

    steps = None
    if feather > 0:
        steps = _border_steps(shape, side, changed, reporter.part(0.0, 0.4))
    blocks = writer.blocks
    for number, window in work.left("level 0", blocks):
        reporter.step("composing", 0.4 + 0.6 * number / len(blocks))
        outer = _grown(window, halo, shape)
        inner = _within(window, outer)
        visible, infrared, change = changed(outer)
        weight = fade(visible.valid & infrared.valid, feather)[inner]
        visible, infrared = (_cut(one, inner) for one in (visible, infrared))
        change = change[inner]
        if steps is not None:
            change = change - enlarge(steps, side, shape, window)
        image = np.ma.getdata(np.asanyarray(pair.visible[window]))
        colours = None
        if options["task"] in SHARED_COLOURS and image.ndim == len(pair.infrared.shape) == 3:
            other = np.ma.getdata(np.asanyarray(pair.infrared[window]))
            tint = colour_change(image, visible, other, infrared)
            colours = tint.__getitem__
        writer.write(window, add_change(image, change, weight, visible, colours, pair.bounded))


def _border_steps(
    shape: tuple[int, int], side: int, changed: Any, reporter: Reporter
) -> Grey | None:
    """The smooth image that `napari_busref.fusion.borders.continued` subtracts, on cells."""
    sums = CellSums(shape, side, 2)
    blocks = blocks_of(shape)
    for number, window in enumerate(blocks):
        reporter.step("composing", number / len(blocks))
        outer = _grown(window, _DETAIL_REACH, shape)
        visible, infrared, change = changed(outer)
        inner = _within(window, outer)
        both = (visible.valid & infrared.valid)[inner]
        sums.add(window, both, change[inner], visible.grey[inner])
    step, before = sums.means
    return border_steps(sums.coverage, step, before, side, sums.covered)


def _cut(image: Prepared, inner: Window) -> Prepared:
    return Prepared(image.grey[inner], image.valid[inner], image.scale)
