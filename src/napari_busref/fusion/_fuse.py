"""`fuse`: one picture from a registered visible and infrared pair."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref.fusion.emphasis import more_detail, more_infrared
from napari_busref.fusion.tasks import model_for
from napari_busref.fusion.tiling import choose_size, run_tiles
from napari_busref.images.dtypes import cast
from napari_busref.images.preprocess import (
    LUMA,
    Prepared,
    as_image,
    as_mask,
    fill_invalid,
    prepare,
)
from napari_busref.models.inference import (
    InferenceSession,
    cancellable,
    inference_session,
    to_array,
    versions,
)
from napari_busref.runtime.device import describe
from napari_busref.runtime.options import check_number
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.runtime.stopwatch import Stopwatch
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["FusionResult", "fuse"]

# Here both images are of one scene in the same light, so both have colours to give.
_SHARED_COLOURS = ("multi-focus", "multi-exposure")


@dataclass(frozen=True, eq=False)
class FusionResult:
    """What `fuse` returns.

    Attributes
    ----------
    fused : ndarray, shape (H, W) or (H, W, 3 or 4)
        The fused image, with the shape, number type and range of the visible one. Outside the
        mask it is the visible image, to the bit.
    parameters : dict
        What was asked for and what it ran on: model, device, versions. JSON can hold it.
    timings : dict
        Seconds of each stage and in total.
    loss_weights : dict of ndarray, or None
        What the model's learned loss asks for at every pixel, if that was wanted, as float32
        (H, W): ``"visible"`` and ``"infrared"``, the weights of being near either image, which
        add up to 1, and ``"gradient"``, in (0, 2), that of having the stronger gradient. 0 where
        the infrared image has no content.
    """

    fused: NDArray[Any]
    parameters: dict[str, Any]
    timings: dict[str, float]
    loss_weights: dict[str, NDArray[np.float32]] | None = None


def fuse(
    fixed: ArrayLike,
    moving: ArrayLike,
    *,
    model: str | os.PathLike[str] | nn.Module | None = None,
    task: str = "infrared-visible",
    infrared: float = 0.5,
    detail: float = 0.5,
    transform: Transform | None = None,
    device: str | torch.device = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    tile: int | Literal["auto"] | None = "auto",
    mask: ArrayLike | None = None,
    feather: float = 16.0,
    loss_weights: bool = False,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> FusionResult:
    """Fuse a registered pair.

    The brightness Y of the visible image is fused with the infrared image and its chroma (Cb and
    Cr, ITU-R BT.601, full range) is kept, which is the same as adding the change of Y to red,
    green and blue. Values beyond the range that the model sees are kept as detail. With the tasks
    ``"multi-focus"`` and ``"multi-exposure"``, where both images may be of one camera, the chroma
    of two colour images is their mean weighed by how far each is from grey.

    Parameters
    ----------
    fixed : array_like, shape (H, W) or (H, W, 3 or 4)
        The visible image. Any real number type, range and byte order; at least 16 x 16 px. Not
        changed. Alpha is kept.
    moving : array_like, shape (H, W) or (H, W, 3 or 4)
        The infrared image on the same grid, such as `RegistrationResult.warped`; with `transform`,
        the infrared image as it was taken. Not changed.
    model : str, path or torch.nn.Module, optional
        A name of ``list_models("fusion")``, a ``.safetensors`` file with its card, or a module
        that maps visible and infrared (B, 1, H, W) in [0, 1] to fused (B, 1, H, W). By default
        the model of the task. A name gets the weights that are made for the task, if there are
        any (`napari_busref.fusion.tasks.TASKS`).
    task : str
        ``"infrared-visible"``, ``"medical"``, ``"multi-focus"`` or ``"multi-exposure"``.
    infrared : float
        In [0, 1]: which image leads the brightness of large areas. At 0 it is the visible
        image's, at 1 the infrared image's, at 0.5 what the model made; between them it goes over
        linearly. Fine structure is not touched. See `napari_busref.fusion.emphasis.more_infrared`.
    detail : float
        In [0, 1]: structure finer than about 2 px is multiplied by twice this; 0.5 changes
        nothing. See `napari_busref.fusion.emphasis.more_detail`.
    transform : Transform, optional
        How the pair was registered: `moving` is taken to the fixed grid with it first, by a
        linear interpolation, and the mask is where its content is.
    device : str or torch.device
        As for `napari_busref.register`.
    precision : {"float32", "bfloat16"}
        What the network computes with; bfloat16 is faster on some devices and needs less memory,
        and grey levels are off by up to about 2 %.
    tile : int, "auto" or None
        Side in pixels of the tiles that the network sees one after the other, for images that do
        not fit into the memory. The result is that of the whole image. ``"auto"`` cuts images of
        more than 2.5 million pixels, if the model can be cut; None never cuts.
    mask : array_like of bool, shape (H, W), optional
        Where the infrared image holds content, such as `RegistrationResult.mask`. By default
        everything but its empty border. NaN, infinite and transparent pixels of either image are
        left out anyway.
    feather : float
        Width in pixels of the band inside the border of the mask in which the fused image fades
        into the visible one. 0 switches abruptly.
    loss_weights : bool
        Also return the weights of the model's learned loss at every pixel. ``"refusion"`` has
        some.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop at the next stage or tile.

    Returns
    -------
    FusionResult

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what is accepted.
    ArithmeticError
        When the model returns values that are not finite.
    Cancelled
        When `cancel` was set.
    MemoryError
        When the device has too little memory.

    Examples
    --------
    >>> import numpy as np
    >>> visible, infrared = np.full((16, 16), 100, np.uint8), np.full((16, 16), 200, np.uint8)
    >>> int(fuse(visible, infrared, model="average", device="cpu").fused[0, 0])
    150
    """
    reporter = Reporter(progress, cancel)
    reporter.step("checking the images", 0.0)
    watch = Stopwatch()
    image = as_image(fixed, "fixed")
    shape = image.shape[0], image.shape[1]
    other = as_image(moving, "moving")
    wanted = None if mask is None else as_mask(mask, "mask", shape)
    feather = check_number("feather", feather)
    emphasis = check_number("infrared", infrared), check_number("detail", detail)
    chosen = model_for(task, model)
    if transform is not None:
        other, inside = _carry(other, transform, shape)
        wanted = inside if wanted is None else wanted & inside
    elif other.shape[:2] != shape:
        raise ValueError(
            f"moving: got shape {other.shape[:2]}, need {shape} as fixed; register the pair first "
            "and give .warped, or give its transform"
        )
    visible = prepare(image, "fixed")
    thermal = _thermal(other, wanted)
    weight = _weight(visible.valid & thermal.valid, feather)
    watch.lap("prepare")

    reporter.step("loading the model", 0.1)
    with (
        inference_session(chosen, "fusion", device, precision) as run,
        cancellable([run.module], reporter.check),
    ):
        if loss_weights and not hasattr(run.module, "loss_weights"):
            raise ValueError(
                f"loss_weights: {run.name} learns by no loss with weights of its own; use "
                'model="refusion"'
            )
        size = choose_size(run.module, run.name, shape, tile)
        watch.lap("load")
        reporter.step("fusing", 0.2)
        change, learned = np.zeros(shape, np.float32), None
        if loss_weights:
            learned = _loss_weights(run, visible, thermal, size, reporter.part(0.2, 0.3))
        if weight.any():
            start = 0.3 if loss_weights else 0.2
            change = _change(run, visible, thermal, emphasis, size, reporter.part(start, 0.9))
        parameters = {
            "function": "fuse",
            "model": run.name,
            "task": task,
            "infrared": emphasis[0],
            "detail": emphasis[1],
            "device": describe(run.device),
            "precision": precision,
            "tile": size,
            "mask": "found" if wanted is None else "given" if mask is not None else "transform",
            "feather": feather,
            "fixed_shape": list(image.shape),
            "fixed_dtype": str(image.dtype),
            "versions": versions(),
        }
    watch.lap("model")

    reporter.step("putting colours back", 0.9)
    colours = None
    if task in _SHARED_COLOURS and image.ndim == other.ndim == 3:
        colours = _colour_change(image, visible, other, thermal) * weight[..., None]
    fused = _add(image, change * weight, colours, weight > 0, visible)
    watch.lap("compose")
    reporter.step("fused", 1.0)
    return FusionResult(fused, parameters, watch.total(), learned)


def _carry(
    moving: NDArray[Any], transform: Transform, shape: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The moving image on the fixed grid, and where its content is."""
    if not isinstance(transform, Transform):
        raise TypeError(f"transform: got {type(transform).__name__}, need a Transform")
    if (transform.fixed_shape, transform.moving_shape) != (shape, moving.shape[:2]):
        raise ValueError(
            f"transform: made for images of shape {transform.fixed_shape} and "
            f"{transform.moving_shape}, but fixed and moving are of shape {shape} and "
            f"{moving.shape[:2]}"
        )
    valid = prepare(moving, "moving", find_border=True).valid
    return transform.apply(moving), transform.mask(valid)


def _thermal(infrared: NDArray[Any], mask: NDArray[np.bool_] | None) -> Prepared:
    if mask is not None and not mask.any():  # nothing to fuse, which is no error
        nothing = np.zeros(infrared.shape[:2], np.float32)
        return Prepared(nothing, nothing > 0, 0.0, 0.0)
    return prepare(infrared, "moving", mask=mask, find_border=mask is None)


def _weight(mask: NDArray[np.bool_], feather: float) -> NDArray[np.float32]:
    """1 well inside the mask, 0 outside, a smooth step over `feather` pixels between."""
    if feather == 0 or mask.all() or not mask.any():
        return mask.astype(np.float32)
    ramp = np.minimum(ndimage.distance_transform_edt(mask) / (feather + 1), 1).astype(np.float32)
    weight: NDArray[np.float32] = ramp * ramp * (3 - 2 * ramp)
    return weight


def _change(
    run: InferenceSession,
    visible: Prepared,
    thermal: Prepared,
    emphasis: tuple[float, float],
    size: int | None,
    reporter: Reporter,
) -> NDArray[np.float32]:
    """Fused minus visible brightness, both in [0, 1]."""
    # no edge for the network where the content ends
    seen = fill_invalid(visible.grey, visible.valid)
    warmth = fill_invalid(thermal.grey, thermal.valid)

    def network(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
        return _fused(run, first, second)

    if size is None:
        fused = network(seen, warmth)
    else:
        fused = run_tiles(network, run.module, seen, warmth, size, reporter)
    fused = more_infrared(fused, seen, warmth, emphasis[0])
    return more_detail(fused, emphasis[1]) - seen


def _loss_weights(
    run: InferenceSession,
    visible: Prepared,
    thermal: Prepared,
    size: int | None,
    reporter: Reporter,
) -> dict[str, NDArray[np.float32]]:
    """What the loss of the network asks for at every pixel: `FusionResult.loss_weights`."""
    names = ("visible", "infrared", "gradient")  # as in models.refusion.LossWeights
    found = np.zeros((len(names), *visible.grey.shape), np.float32)
    if thermal.valid.any():
        seen = fill_invalid(visible.grey, visible.valid)
        warmth = fill_invalid(thermal.grey, thermal.valid)
        module: Any = run.module

        def weigh(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
            weights = module.loss_weights(run.tensor(first), run.tensor(second))
            return np.stack([to_array(weight) for weight in weights])

        proposal = SimpleNamespace(receptive_field=module.weights_receptive_field)
        side = size or max(seen.shape)
        found = run_tiles(weigh, proposal, seen, warmth, side, reporter, found.shape[:1])
        found[:, ~(visible.valid & thermal.valid)] = 0
    return dict(zip(names, found, strict=True))


def _fused(
    run: InferenceSession, visible: NDArray[np.float32], infrared: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the network makes of a pair, checked and clipped to [0, 1]."""
    import torch

    shape = (1, 1, *visible.shape)
    answer = run.module(run.tensor(visible), run.tensor(infrared))
    if not isinstance(answer, torch.Tensor) or tuple(answer.shape) != shape:
        what = list(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise TypeError(f"model: {run.name} returned {what}, need a tensor {list(shape)}")
    fused = to_array(answer)
    if not np.isfinite(fused).all():
        raise ArithmeticError(f"model: {run.name} returned values that are not finite")
    return np.clip(fused, 0, 1)


def _colour_change(
    image: NDArray[Any], visible: Prepared, other: NDArray[Any], thermal: Prepared
) -> NDArray[np.float32]:
    """Change of red, green and blue, in [0, 1] and without brightness, that shares the chroma.

    Of each of B - Y and R - Y the mean of both images, weighed by its size (Prabhakar et al., ICCV
    2017).
    """
    first, second = (
        _chroma(picture, ready) for picture, ready in ((image, visible), (other, thermal))
    )
    second[~thermal.valid] = 0
    weights = np.abs(first), np.abs(second)
    total = weights[0] + weights[1]
    both = weights[0] * first + weights[1] * second
    red, blue = np.moveaxis(
        np.divide(both, total, out=first.copy(), where=total > 0) - first, -1, 0
    )
    # brightness stays: 0 = 0.299 R + 0.587 G + 0.114 B
    green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
    return np.stack([red, green, blue], -1)


def _chroma(image: NDArray[Any], ready: Prepared) -> NDArray[np.float32]:
    """R - Y and B - Y, (H, W, 2), in the scale in which the model sees the image."""
    kept = np.where(ready.valid[..., None], image[..., :3:2], ready.low)
    span = ready.high - ready.low if ready.high > ready.low else 1.0
    colours = np.clip((kept - ready.low) / span, 0, 1).astype(np.float32)
    colours[~ready.valid] = 0
    return colours - ready.grey[..., None]


def _add(
    image: NDArray[Any],
    change: NDArray[np.float32],
    colours: NDArray[np.float32] | None,
    where: NDArray[np.bool_],
    visible: Prepared,
) -> NDArray[Any]:
    """Add a change of brightness, and of colour, to an image in its own range and type."""
    fused = image.copy()
    parts = fused[..., :3] if fused.ndim == 3 else fused
    step = change[where][:, None] if fused.ndim == 3 else change[where]
    if colours is not None:
        step = step + colours[where]
    values = parts[where].astype(np.float64) + step * (visible.high - visible.low)
    if fused.dtype.kind == "f" and (visible.low, visible.high) == (0.0, 1.0):
        values = np.clip(values, 0, 1)
    parts[where] = cast(values, fused.dtype)
    return fused
