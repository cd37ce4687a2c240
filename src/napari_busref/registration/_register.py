"""`register`: find the transform from a visible to an infrared image, and apply it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref.images.preprocess import Prepared, as_image, as_mask, fill_invalid, prepare
from napari_busref.models.inference import InferenceSession, inference_session, versions
from napari_busref.registration.estimate import Job, Outcome
from napari_busref.registration.quality import (
    Evidence,
    Quality,
    assess,
    rejects,
    unregistered,
    unverified,
)
from napari_busref.runtime.device import describe
from napari_busref.runtime.options import check_choice
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.runtime.stopwatch import Stopwatch
from napari_busref.transforms.transform import Transform

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
    transform : Transform
        What was found: apply it to other channels, labels or points, invert, save it.
    quality : Quality
        How far the result can be trusted, with reasons.
    timings : dict
        Seconds of each stage and in total.
    parameters : dict
        What was asked for and what it ran on: model, device, versions, shapes. JSON can hold it.
    """

    warped: NDArray[Any]
    mask: NDArray[np.bool_]
    transform: Transform
    quality: Quality
    timings: dict[str, float]
    parameters: dict[str, Any]

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        """The transform as ``(Δrow, Δcol)`` in pixels, shape (2, H, W), finite everywhere.

        ``warped[r, c] = moving[r + flow[0, r, c], c + flow[1, r, c]]``. Made when first asked for.
        """
        return self.transform.flow()

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
    model: str | os.PathLike[str] | nn.Module = "auto",
    search: Literal["near", "wide", "none"] | None = None,
    refine: Literal["dense", "affine", "none"] | None = None,
    transform: Literal["affine", "homography"] = "affine",
    device: str | torch.device = "auto",
    initial: Transform | tuple[ArrayLike, ArrayLike] | None = None,
    fixed_mask: ArrayLike | None = None,
    moving_mask: ArrayLike | None = None,
    on_cancel: Literal["raise", "best"] = "raise",
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
        module that returns a `napari_busref.geometry.Estimate`. ``"auto"`` takes the best
        of the start, the networks and the search, and refines it.
    search : str, optional
        Look for the place before refining: ``"near"`` (within 15°, sizes from 0.8 to 1.25, shifts
        to 30 % of the image), ``"wide"`` (any rotation, sizes from 0.4 to 2.5, overlaps down to
        30 %; takes seconds) or ``"none"``. By default ``"near"`` with the model ``"auto"`` and
        ``"none"`` with another.
    refine : str, optional
        ``"dense"`` (affine, then a smooth displacement field), ``"affine"`` or ``"none"``. By
        default ``"dense"`` with the model ``"auto"`` and ``"none"`` with another.
    transform : str
        What the refinement fits before the displacement field: ``"affine"``, or ``"homography"``
        for a flat scene seen from two places. A homography's departure from its affine is part
        of the displacement field.
    device : str or torch.device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. A module stays where it is with
        ``"auto"`` and is moved otherwise.
    initial : Transform or (fixed points, moving points), optional
        Where to start, from the fixed to the moving image: a transform, or two arrays (N, 2) of
        three or more corresponding (row, col) positions. By default the identity, or
        `Transform.equal_field_of_view` when the sizes differ.
    fixed_mask, moving_mask : array_like of bool, optional
        Pixels that hold content, of the shape of their image. NaN, infinite and transparent
        pixels and empty borders of the moving image are left out anyway.
    on_cancel : str
        ``"raise"`` ends with `Cancelled`; ``"best"`` ends with what the refinement has reached,
        if it has begun, and the work is done in a thread of its own.
    progress : Progress, optional
        Called with the stage and the fraction done, in the thread that does the work.
    cancel : threading.Event, optional
        Set it to stop at the next stage.

    Returns
    -------
    RegistrationResult
        When there is nothing to go by (an image without texture, a mask of nothing) or nothing
        usable is found, the result is the starting position, `Quality.reliable` is False and the
        reason is given.

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
    for name, value in (
        ("search", search),
        ("refine", refine),
        ("transform", transform),
        ("on_cancel", on_cancel),
    ):
        check_choice(name, value)
    reporter = Reporter(progress, cancel)
    reporter.step("checking the images", 0.0)
    watch = Stopwatch()
    moving_array = as_image(moving, "moving")
    ready_fixed, nothing_fixed = _prepare(fixed, "fixed", fixed_mask)
    ready_moving, nothing_moving = _prepare(moving_array, "moving", moving_mask)
    fixed_shape, moving_shape = ready_fixed.shape, ready_moving.shape
    start, kind = _start(initial, fixed_shape, moving_shape)
    before, before_mask = _resample(ready_moving, start)
    watch.lap("prepare")

    reporter.step("loading the model", 0.02)
    with inference_session(model, "registration", device) as run:
        job = Job(run, start, search, refine, transform)
        watch.lap("load")
        problem = (
            nothing_fixed
            or nothing_moving
            or _without_texture(ready_fixed, ready_moving)
            or job.out_of_sight(before_mask)
        )
        outcome = Outcome(start, problem=problem)
        if problem is None:
            part = reporter.part(0.05, 0.8)
            keep_best = on_cancel == "best"
            outcome = job.run(ready_fixed, ready_moving, part, watch, keep_best)
            if keep_best:  # there is something to keep now
                reporter = reporter.regardless()
        parameters = {
            "function": "register",
            "model": run.name,
            "search": job.options.search,
            "refine": job.options.refine,
            "transform": transform,
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

    cut = cancel is not None and cancel.is_set()  # then the best so far is wanted, or this raises
    reporter.step("judging the result", 0.8)
    mask = outcome.transform.mask(ready_moving.valid)
    if outcome.problem is None and not mask.any():
        outcome = Outcome(start, problem="the images came out apart")
    wide = job.options.search == "wide"
    advice = ""
    if outcome.problem is None and cut:
        quality = unverified(mask, outcome.transform, start=start, wide=wide)
    elif outcome.problem is None:
        quality = assess(
            ready_fixed.grey,
            outcome.transform.apply(ready_moving.grey),
            mask,
            outcome.transform,
            outcome.evidence or Evidence(0.0, float("inf")),
            start=start,
            before=before,
            before_mask=before_mask,
            fixed_valid=ready_fixed.valid,
            wide=wide,
        )
        if job.matches and rejects(quality):  # no wild transform
            outcome = Outcome(start, problem="; ".join(quality.reasons) or "nothing fits")
            if job.options.search == "near":
                advice = "; a wide search, or a start of your own, may find more"
    if outcome.problem is not None:
        mask = start.mask(ready_moving.valid)
        quality = unregistered(mask, f"{outcome.problem}; this is the starting position{advice}")
    watch.lap("quality")

    reporter.step("resampling", 0.9)
    lost = moving_array.dtype.kind == "f" and not np.isfinite(moving_array).all()
    warped = outcome.transform.apply(moving_array, cval=np.nan if lost else 0.0)
    watch.lap("resample")
    reporter.step("registered", 1.0)
    return RegistrationResult(warped, mask, outcome.transform, quality, watch.total(), parameters)


def _prepare(image: Any, name: str, mask: ArrayLike | None) -> tuple[Prepared, str | None]:
    """The image as the models see it, and what stands against registering it."""
    array = as_image(image, name)
    if mask is None:
        return prepare(array, name, find_border=True), None
    checked = as_mask(mask, f"{name}_mask", array.shape[:2])
    whole = prepare(array, name, find_border=True)
    if not (checked & whole.valid).any():
        return whole, f"{name}_mask leaves nothing of the {name} image"
    return prepare(array, name, mask=checked, find_border=True), None


def _start(
    initial: Transform | tuple[ArrayLike, ArrayLike] | None,
    fixed: tuple[int, int],
    moving: tuple[int, int],
) -> tuple[Transform, str]:
    """The starting position and what to call it."""
    if initial is None:
        kind = "identity" if fixed == moving else "equal field of view"
        return Transform.equal_field_of_view(fixed, moving), kind
    if isinstance(initial, tuple | list) and len(initial) == 2:
        try:
            points = Transform.from_points(*initial, fixed_shape=fixed, moving_shape=moving)
        except (TypeError, ValueError) as error:
            raise ValueError(f"initial: {error}") from None
        return points, "points"
    if not isinstance(initial, Transform):
        raise TypeError(
            f"initial: got {type(initial).__name__}, need a Transform or (fixed points, moving "
            "points)"
        )
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


def _without_texture(fixed: Prepared, moving: Prepared) -> str | None:
    for name, ready in (("fixed", fixed), ("moving", moving)):
        if ready.grey[ready.valid].std(dtype=np.float64) < _NO_TEXTURE:
            return f"the {name} image has no texture to register"
    return None


def _working_shape(run: InferenceSession, shape: tuple[int, int]) -> list[int] | None:
    """Size at which the model looks at the images, where it says so."""
    ask = getattr(run.module, "working_shape", None)
    return [int(side) for side in ask(*shape)] if callable(ask) else None
