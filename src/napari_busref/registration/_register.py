"""`register`: find the transform from a visible to an infrared image, and apply it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_busref.images.dtypes import checked_fill
from napari_busref.images.nodata import NoData
from napari_busref.images.preprocess import what_was_read
from napari_busref.models.inference import (
    InferenceSession,
    inference_session,
    long_call,
    versions,
)
from napari_busref.registration.estimate import (
    Estimated,
    Method,
    NotRegistered,
    assess_estimate,
    estimate_transform,
)
from napari_busref.registration.large import is_large, register_large
from napari_busref.registration.prepare import Pair, prepare_pair
from napari_busref.registration.quality import (
    INITIAL_RETURNED,
    Quality,
    rejects,
    unregistered,
    unverified,
)
from napari_busref.registration.result import Preview, RegistrationResult
from napari_busref.registration.stages import registration_stages
from napari_busref.runtime.device import describe
from napari_busref.runtime.options import check_choice
from napari_busref.runtime.progress import Plan, Progress, Reporter
from napari_busref.runtime.stopwatch import Stopwatch
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["RegistrationResult", "register"]


@long_call
def register(
    fixed: ArrayLike,
    moving: ArrayLike,
    *,
    model: str | os.PathLike[str] | nn.Module = "auto",
    search: Literal["auto", "near", "wide", "none"] | None = None,
    mirrored: bool = False,
    refine: Literal["dense", "affine", "none"] | None = None,
    transform: Literal["affine", "homography"] = "affine",
    device: str | torch.device = "auto",
    initial: Transform | tuple[ArrayLike, ArrayLike] | None = None,
    fixed_mask: ArrayLike | None = None,
    moving_mask: ArrayLike | None = None,
    nodata: NoData = "auto",
    fill_value: float | None = None,
    finest: Literal["full", "half", "quarter", "none"] | None = None,
    on_cancel: Literal["raise", "best"] = "raise",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> RegistrationResult:
    """Register an infrared image to a visible one.

    Parameters
    ----------
    fixed : array_like, shape (H, W) or (H, W, 3 or 4)
        The visible image. Any real number type, range and byte order; at least 16 x 16 px. Not
        changed.
    moving : array_like, shape (h, w) or (h, w, 3 or 4)
        The infrared image, of any other size. Not changed.
    model : str, path or torch.nn.Module
        A name of ``list_models("registration")``, a ``.safetensors`` file with its card, or a
        module that returns a `napari_busref.geometry.Estimate`. ``"auto"`` refines the best of
        the initial transform, BusReF's proposal and the search.
    search : str, optional
        Search for the pose before refining. ``"near"``: within 15°, scales from 0.8 to 1.25,
        shifts to 30 % of the image. ``"wide"``: any rotation, scales from 0.4 to 2.5 of equal
        fields of view, overlaps down to 30 %. ``"auto"``: near, then wide where the blocks do not
        confirm the near result. ``"none"``. By default ``"auto"`` with the model ``"auto"`` and
        ``"none"`` with another.
    mirrored : bool
        Whether the wide search also compares the mirrored moving image.
    refine : str, optional
        ``"dense"`` (affine, then a smooth displacement field), ``"affine"`` or ``"none"``. By
        default ``"dense"`` with the model ``"auto"`` and ``"none"`` with another.
    transform : str
        What the refinement fits before the displacement field: ``"affine"``, or ``"homography"``
        for a flat scene seen from two places. The displacement field holds what a homography
        adds to its affine.
    device : str or torch.device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. With ``"auto"`` a module stays
        on its device; otherwise it is moved.
    initial : Transform or (fixed points, moving points), optional
        The initial transform from the fixed to the moving image, or two arrays (N, 2) of three or
        more corresponding (row, col) positions. By default the identity, or
        `Transform.equal_field_of_view` when the sizes differ.
    fixed_mask, moving_mask : array_like of bool, optional
        Valid pixels, in the shape of their image. NaN, infinite and transparent pixels and empty
        borders are always invalid, and so are the masked pixels of numpy masked arrays.
    nodata : float, "auto" or None
        Value of missing pixels in both images. ``"auto"`` recognises values such as −9999 and
        3.4e38 (`napari_busref.images.nodata.find_nodata`); None takes them as content.
    fill_value : float, optional
        Value of `RegistrationResult.warped` outside the moving image, ``cval`` of
        `Transform.apply`. By default NaN for floats, because any number would be content that
        nobody measured. For integers and bool 0, or the no-data value of the image.
    finest : str, optional
        Finest level of a large pair, beyond 4096 x 4096 fixed pixels: the full resolution, half
        or a quarter of it. The pair is registered as a whole on a level of at most 2048 x 2048
        pixels, and from there level by level in tiles. ``"none"`` leaves out the tiles. By
        default ``"half"`` for large pairs.
    on_cancel : str
        ``"raise"`` raises `Cancelled`. ``"best"`` returns the best estimate so far once the
        refinement has begun; the work then runs in a thread.
    progress : Progress, optional
        Called with the stage and the fraction done, in the thread that does the work.
    cancel : threading.Event, optional
        Set it to stop at the next stage.

    Returns
    -------
    RegistrationResult
        If registration fails (no texture, nothing valid, nothing that fits), the transform is the
        initial one. Then `Quality.status` is ``"not registered"`` and `Quality.reasons` says why.
        Of a large pair a `LargeRegistrationResult`; its images are read window by window.

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
    options: dict[str, Any] = {"search": search, "refine": refine, "transform": transform}
    options["on_cancel"] = on_cancel
    for name, value in (options | {"finest": finest}).items():
        check_choice(name, value)
    if is_large(fixed, moving, finest):
        return register_large(
            fixed,
            moving,
            finest,
            whole=register,
            model=model,
            mirrored=mirrored,
            device=device,
            initial=initial,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            nodata=nodata,
            fill_value=fill_value,
            progress=progress,
            cancel=cancel,
            **options,
        )
    stages = registration_stages(fixed, model, search, refine, device)
    plan, watch = Plan(Reporter(progress, cancel), stages), Stopwatch()
    plan.begin("read")
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    pair = prepare_pair(fixed, moving, **masks, initial=initial, nodata=nodata)
    checked_fill(fill_value, pair.moving_array.dtype, "fill_value")
    watch.lap("prepare")
    plan.begin("load")
    keep_best = on_cancel == "best"
    try:
        with inference_session(model, "registration", device) as session:
            method = Method.of(session, search, refine, transform, mirrored=mirrored)
            parameters = _parameters(session, method, pair, masks)
            parameters |= what_was_read(fixed, moving, nodata, pair.moving_array)
            watch.lap("load")
            found = estimate_transform(pair, method, plan, watch, keep_best=keep_best)
        cancelled = cancel is not None and cancel.is_set()
        if keep_best:  # there is an estimate to return now
            plan = plan.regardless()
        plan.begin("assess")
        mask = found.transform.mask(pair.moving_valid)
        quality = _assess(pair, method, found, mask, cancelled)
        estimate, inverse = found.transform, found.inverse
    except NotRegistered as failure:
        plan = plan.regardless() if keep_best else plan
        estimate, mask, inverse = pair.initial, pair.initial.mask(pair.moving_valid), None
        quality = unregistered(mask, f"{failure}{INITIAL_RETURNED}")
    watch.lap("quality")

    plan.begin("resample")
    warped = np.ma.getdata(estimate.apply(pair.moving_array, cval=fill_value))
    watch.lap("resample")
    plan.end("registered")
    return RegistrationResult(
        warped, mask, estimate, quality, watch.total(), parameters, Preview.of(pair), inverse
    )


def _assess(
    pair: Pair, method: Method, found: Estimated, mask: NDArray[np.bool_], cancelled: bool
) -> Quality:
    """The quality of an estimate.

    Raises
    ------
    NotRegistered
        When the estimate covers nothing, or is rejected.
    """
    if not mask.any():
        raise NotRegistered("the images came out apart")
    mirrored = method.options.mirrored
    if cancelled:
        working = pair.on_working_grid(found.transform)
        return unverified(
            working.mask(pair.moving.valid),
            found.transform,
            initial=pair.initial,
            wide=found.wide,
            mirrored=mirrored,
            working=working,
        )
    quality = assess_estimate(pair, found, mirrored=mirrored)
    if method.matches and rejects(quality):
        reason = "; ".join(quality.reasons) or "no estimate fits"
        near = method.options.search == "near"
        reason += f"; {'a wide search, or ' if near else ''}an initial transform may help"
        raise NotRegistered(reason)
    return quality


def _parameters(
    session: InferenceSession, method: Method, pair: Pair, masks: dict[str, ArrayLike | None]
) -> dict[str, Any]:
    """`RegistrationResult.parameters`."""
    size = getattr(session.module, "working_shape", None)
    return {
        "function": "register",
        "model": session.name,
        "search": method.options.search,
        "mirrored": method.options.mirrored,
        "refine": method.options.refine,
        "transform": method.options.transform,
        "device": describe(session.device),
        "initial": pair.initial_kind,
        "masks": [name.removesuffix("_mask") for name, mask in masks.items() if mask is not None],
        "fixed_shape": list(pair.shape),
        "moving_shape": list(pair.moving.shape),
        "moving_dtype": str(pair.moving_array.dtype),
        "working_shape": [int(n) for n in size(*pair.shape)] if callable(size) else None,
        "versions": versions(),
    }
