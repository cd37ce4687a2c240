"""`register`: find the transform from a visible to an infrared image, and apply it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref._inference import Runner, Stopwatch, runner, versions
from napari_busref.device import describe
from napari_busref.preprocess import Prepared, as_image, as_mask, fill_invalid, prepare
from napari_busref.progress import Progress, Reporter
from napari_busref.quality import Quality, assess, unregistered
from napari_busref.transform import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["RegistrationResult", "register"]

_NO_TEXTURE = 1e-3  # standard deviation of grey values in [0, 1]


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """What `register` returns.

    Attributes
    ----------
    warped : ndarray, shape (H, W) or (H, W, C)
        The moving image on the grid of the fixed one, interpolated once from the original, with
        its own type and channels. Outside the moving image it is 0, or NaN when the moving image
        itself contains NaN or infinite pixels.
    mask : ndarray of bool, shape (H, W)
        The reconstructible area: fixed pixels whose content is in the moving image and on its
        valid pixels (no NaN, not transparent, not in its empty border, in `moving_mask`).
    flow : ndarray of float32, shape (2, H, W)
        ``(Δrow, Δcol)`` in pixels, finite everywhere: ``warped[r, c] = moving[r + flow[0, r, c],
        c + flow[1, r, c]]``.
    transform : Transform
        The same as an object: apply it to other channels, labels or points, invert, save it.
    quality : Quality
        How far the result can be trusted, with reasons.
    timings : dict
        Seconds of each stage and in total.
    parameters : dict
        What was asked for and what it ran on: model, device, versions, shapes. JSON can hold it.
    """

    warped: NDArray[Any]
    mask: NDArray[np.bool_]
    flow: NDArray[np.float32]
    transform: Transform
    quality: Quality
    timings: dict[str, float]
    parameters: dict[str, Any]

    def metadata(self) -> dict[str, Any]:
        """What to store beside the transform: parameters, quality and timings, as JSON holds it.

        Examples
        --------
        ``result.transform.save("pair.busref.h5", metadata=result.metadata())``
        """
        return {
            "parameters": self.parameters,
            "quality": self.quality.as_dict(),
            "timings": self.timings,
        }


def register(
    fixed: ArrayLike,
    moving: ArrayLike,
    *,
    model: str | os.PathLike[str] | nn.Module = "busref",
    device: str | torch.device = "auto",
    initial: Transform | None = None,
    fixed_mask: ArrayLike | None = None,
    moving_mask: ArrayLike | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> RegistrationResult:
    """Register an infrared image to a visible one.

    Parameters
    ----------
    fixed : array_like, shape (H, W) or (H, W, 3 or 4)
        The visible image, the reference. Any real number type, range and byte order; at least
        16 x 16 px. Not changed.
    moving : array_like, shape (h, w) or (h, w, 3 or 4)
        The infrared image, of any other size. Not changed.
    model : str, path or torch.nn.Module
        A name of ``list_models("registration")``, a ``.safetensors`` file with its card, or a
        module that returns a `napari_busref.models.geometry.Estimate`.
    device : str or torch.device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. A module stays where it is with
        ``"auto"`` and is moved otherwise.
    initial : Transform, optional
        Where to start, from the fixed to the moving image. By default the identity, or
        `Transform.equal_field_of_view` when the sizes differ.
    fixed_mask, moving_mask : array_like of bool, optional
        Pixels that hold content, of the shape of their image. NaN, infinite and transparent
        pixels and empty borders of the moving image are left out anyway.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop at the next stage.

    Returns
    -------
    RegistrationResult
        When there is nothing to go by (an image without texture) or the model finds nothing
        usable, the result is the starting position, `Quality.reliable` is False and the reason is
        given.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what is accepted.
    Cancelled
        When `cancel` was set.
    MemoryError
        When the device has too little memory.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).random((32, 32))
    >>> result = register(image, image, model="identity", device="cpu")
    >>> bool((result.warped == image).all())
    True
    """
    reporter = Reporter(progress, cancel)
    reporter.step("checking the images", 0.0)
    watch = Stopwatch()
    moving_array = as_image(moving, "moving")
    ready_fixed = _prepare(fixed, "fixed", fixed_mask)
    ready_moving = _prepare(moving_array, "moving", moving_mask)
    fixed_shape, moving_shape = _shape(ready_fixed), _shape(ready_moving)
    start, kind = _start(initial, fixed_shape, moving_shape)
    before, before_mask = _resample(ready_moving, start)
    if not before_mask.any():
        raise ValueError(
            "initial: the moving image covers no pixel of the fixed image there; give a starting "
            "position where they overlap"
        )
    watch.lap("prepare")

    reporter.step("loading the model", 0.05)
    with runner(model, "registration", device) as run:
        watch.lap("load")
        estimate: Transform | str | None = _without_texture(ready_fixed, before, before_mask)
        if estimate is None:
            reporter.step("registering", 0.15)
            estimate = _estimate(run, ready_fixed, before, before_mask, reporter.part(0.15, 0.7))
        parameters = {
            "function": "register",
            "model": run.name,
            "device": describe(run.device),
            "initial": kind,
            "masks": [
                n for n, m in (("fixed", fixed_mask), ("moving", moving_mask)) if m is not None
            ],
            "fixed_shape": list(fixed_shape),
            "moving_shape": list(moving_shape),
            "moving_dtype": str(moving_array.dtype),
            "working_shape": _working_shape(run, fixed_shape),
            "versions": versions(),
        }
    watch.lap("model")

    reporter.step("resampling", 0.7)
    if isinstance(estimate, Transform):
        transform = estimate.compose(start)
        mask = transform.mask(ready_moving.valid)
        if not mask.any():
            estimate = "the model moved the images apart; this is the starting position"
    if isinstance(estimate, str):
        transform, mask = start, before_mask
    lost = moving_array.dtype.kind == "f" and not np.isfinite(moving_array).all()
    warped = transform.apply(moving_array, cval=np.nan if lost else 0.0)
    flow = transform.flow()
    watch.lap("resample")

    reporter.step("judging the result", 0.85)
    if isinstance(estimate, str):
        quality = unregistered(mask, estimate)
    else:
        quality = assess(
            ready_fixed.grey,
            transform.apply(ready_moving.grey),
            mask,
            estimate,
            before=before,
            before_mask=before_mask,
            fixed_valid=ready_fixed.valid,
        )
    watch.lap("quality")
    reporter.step("registered", 1.0)
    return RegistrationResult(warped, mask, flow, transform, quality, watch.total(), parameters)


def _prepare(image: Any, name: str, mask: ArrayLike | None) -> Prepared:
    array = as_image(image, name)
    checked = None if mask is None else as_mask(mask, f"{name}_mask", array.shape[:2])
    return prepare(array, name, mask=checked, find_border=True)


def _shape(ready: Prepared) -> tuple[int, int]:
    return ready.grey.shape[0], ready.grey.shape[1]


def _start(
    initial: Transform | None, fixed: tuple[int, int], moving: tuple[int, int]
) -> tuple[Transform, str]:
    """The starting position and what to call it."""
    if initial is None:
        kind = "identity" if fixed == moving else "equal field of view"
        return Transform.equal_field_of_view(fixed, moving), kind
    if not isinstance(initial, Transform):
        raise TypeError(f"initial: got {type(initial).__name__}, need a Transform")
    if (initial.fixed_shape, initial.moving_shape) != (fixed, moving):
        raise ValueError(
            f"initial: made for images of shape {initial.fixed_shape} and {initial.moving_shape}, "
            f"but fixed and moving are of shape {fixed} and {moving}"
        )
    return initial, "given"


def _resample(moving: Prepared, start: Transform) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Grey values and mask of the moving image on the fixed grid, as the model sees them."""
    grey = fill_invalid(moving.grey, moving.valid)
    # One step on the fixed grid spans this many rows and columns of the moving one. Blur what the
    # coarser grid cannot hold; the sigma is that of skimage.transform.resize.
    finer = np.linalg.norm(start.affine[:2, :2], axis=1)
    sigma = np.maximum(finer - 1, 0) / 2
    if sigma.max() > 0.1:
        grey = ndimage.gaussian_filter(grey, sigma, mode="nearest")
    mask = start.mask(moving.valid)
    resampled = start.apply(grey)
    resampled[~mask] = 0
    return resampled, mask


def _without_texture(
    fixed: Prepared, before: NDArray[np.float32], before_mask: NDArray[np.bool_]
) -> str | None:
    for name, values in (("fixed", fixed.grey[fixed.valid]), ("moving", before[before_mask])):
        if values.std(dtype=np.float64) < _NO_TEXTURE:
            return f"the {name} image has no texture to register; this is the starting position"
    return None


def _estimate(
    run: Runner,
    fixed: Prepared,
    before: NDArray[np.float32],
    before_mask: NDArray[np.bool_],
    reporter: Reporter,
) -> Transform | str:
    """What the model finds, from the fixed grid to the resampled moving image, or why not."""
    from napari_busref.models.geometry import Estimate, estimate_to_pixels

    valid = None if before_mask.all() else run.tensor(before_mask)
    answer = run.module(
        run.tensor(fill_invalid(fixed.grey, fixed.valid)),
        run.tensor(before),
        valid,
        reporter=reporter,
    )
    if not isinstance(answer, Estimate):
        raise TypeError(
            f"model: {run.name} returned {type(answer).__name__}, a registration model returns "
            "napari_busref.models.geometry.Estimate"
        )
    shape = _shape(fixed)
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        affine, displacement = estimate_to_pixels(answer, shape)[0]
    affine[2] = (0.0, 0.0, 1.0)
    nothing = "the model found no usable transform ({}); this is the starting position"
    if not np.isfinite(affine).all() or not (
        displacement is None or np.isfinite(displacement).all()
    ):
        return nothing.format("values that are not finite")
    try:
        return Transform(affine, displacement, fixed_shape=shape, moving_shape=shape)
    except ValueError as error:
        return nothing.format(error)


def _working_shape(run: Runner, shape: tuple[int, int]) -> list[int] | None:
    """Size at which the model looks at the images, where it says so."""
    ask = getattr(run.module, "working_shape", None)
    return [int(side) for side in ask(*shape)] if callable(ask) else None
