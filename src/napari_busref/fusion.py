"""`fuse`: one picture from a registered visible and infrared pair."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref._arrays import cast
from napari_busref._inference import Runner, Stopwatch, runner, to_array, versions
from napari_busref.device import describe
from napari_busref.preprocess import Prepared, as_image, as_mask, fill_invalid, prepare
from napari_busref.progress import Progress, Reporter

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["FusionResult", "fuse"]


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
    """

    fused: NDArray[Any]
    parameters: dict[str, Any]
    timings: dict[str, float]


def fuse(
    fixed: ArrayLike,
    moving: ArrayLike,
    *,
    model: str | os.PathLike[str] | nn.Module = "gaf",
    device: str | torch.device = "auto",
    mask: ArrayLike | None = None,
    feather: float = 16.0,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> FusionResult:
    """Fuse a registered pair.

    The brightness Y of the visible image is fused with the infrared image and its chroma (Cb and
    Cr, ITU-R BT.601, full range) is kept, which is the same as adding the change of Y to red,
    green and blue. Values beyond the range that the model sees are kept as detail.

    Parameters
    ----------
    fixed : array_like, shape (H, W) or (H, W, 3 or 4)
        The visible image. Any real number type, range and byte order; at least 16 x 16 px. Not
        changed. Alpha is kept.
    moving : array_like, shape (H, W) or (H, W, 3 or 4)
        The infrared image on the same grid, such as `RegistrationResult.warped`. Not changed.
    model : str, path or torch.nn.Module
        A name of ``list_models("fusion")``, a ``.safetensors`` file with its card, or a module
        that maps visible and infrared (B, 1, H, W) in [0, 1] to fused (B, 1, H, W).
    device : str or torch.device
        As for `napari_busref.register`.
    mask : array_like of bool, shape (H, W), optional
        Where the infrared image holds content, such as `RegistrationResult.mask`. By default
        everything but its empty border. NaN, infinite and transparent pixels of either image are
        left out anyway.
    feather : float
        Width in pixels of the band inside the border of the mask in which the fused image fades
        into the visible one. 0 switches abruptly.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop at the next stage.

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
    infrared = as_image(moving, "moving")
    shape = image.shape[:2]
    if infrared.shape[:2] != shape:
        raise ValueError(
            f"moving: got shape {infrared.shape[:2]}, need {shape} as fixed; register the pair "
            "first and give .warped"
        )
    if not isinstance(feather, Real) or not 0 <= feather < np.inf:
        raise ValueError(f"feather: got {feather!r}, need a number of pixels, at least 0")
    wanted = None if mask is None else as_mask(mask, "mask", shape)
    visible = prepare(image, "fixed")
    thermal = _thermal(infrared, wanted)
    weight = _weight(visible.valid & thermal.valid, float(feather))
    watch.lap("prepare")

    reporter.step("loading the model", 0.1)
    with runner(model, "fusion", device) as run:
        watch.lap("load")
        reporter.step("fusing", 0.2)
        change = _change(run, visible, thermal) if weight.any() else np.zeros(shape, np.float32)
        parameters = {
            "function": "fuse",
            "model": run.name,
            "device": describe(run.device),
            "mask": "given" if wanted is not None else "found",
            "feather": float(feather),
            "fixed_shape": list(image.shape),
            "fixed_dtype": str(image.dtype),
            "versions": versions(),
        }
    watch.lap("model")

    reporter.step("putting colours back", 0.9)
    fused = _add(image, change * weight, weight > 0, visible)
    watch.lap("compose")
    reporter.step("fused", 1.0)
    return FusionResult(fused, parameters, watch.total())


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


def _change(run: Runner, visible: Prepared, thermal: Prepared) -> NDArray[np.float32]:
    """Fused minus visible brightness, both in [0, 1]."""
    import torch

    # no edge for the network where the content ends
    seen = fill_invalid(visible.grey, visible.valid)
    answer = run.module(run.tensor(seen), run.tensor(fill_invalid(thermal.grey, thermal.valid)))
    if not isinstance(answer, torch.Tensor) or tuple(answer.shape) != (1, 1, *seen.shape):
        what = list(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise TypeError(f"model: {run.name} returned {what}, need a tensor {[1, 1, *seen.shape]}")
    fused = to_array(answer)
    if not np.isfinite(fused).all():
        raise ArithmeticError(f"model: {run.name} returned values that are not finite")
    return np.clip(fused, 0, 1) - seen


def _add(
    image: NDArray[Any], change: NDArray[np.float32], where: NDArray[np.bool_], visible: Prepared
) -> NDArray[Any]:
    """Add a change of brightness to an image in the image's own range and type."""
    fused = image.copy()
    colours = fused[..., :3] if fused.ndim == 3 else fused
    step = change[where] * (visible.high - visible.low)
    values = colours[where].astype(np.float64)
    values += step[:, None] if fused.ndim == 3 else step
    if fused.dtype.kind == "f" and (visible.low, visible.high) == (0.0, 1.0):
        values = np.clip(values, 0, 1)
    colours[where] = cast(values, fused.dtype)
    return fused
