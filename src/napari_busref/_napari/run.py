"""What the panel "Register and fuse" does in its worker thread. Needs neither Qt nor a viewer."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_busref import fusion, registration
from napari_busref._napari.layers import METADATA_KEY, Plane
from napari_busref._napari.results import result_layers
from napari_busref._napari.settings import Settings
from napari_busref.fusion import FusionResult
from napari_busref.pipeline import RegistrationAndFusionResult
from napari_busref.progress import Cancelled, Progress, Reporter
from napari_busref.transform import Transform

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_busref.registration import RegistrationResult

__all__ = ["Outcome", "Request", "largest_displacement", "run"]


@dataclass(frozen=True, eq=False)
class Request:
    """All that a run needs, fixed when the button was pressed.

    Parameters
    ----------
    fixed, moving : Plane
        The visible and the infrared plane, not read yet.
    initial : Transform or None
        Where to start.
    settings : Settings
        All else.
    """

    fixed: Plane
    moving: Plane
    initial: Transform | None
    settings: Settings


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came out.

    Attributes
    ----------
    registration : RegistrationResult
    fusion : FusionResult or None
        None when no fused layer was wanted, or the run was cancelled before.
    layers : list of Layer
        The wanted ones, in no viewer yet.
    largest_px : float
        See `largest_displacement`.
    cancelled : bool
        This is the best that there was when the run was cancelled.
    """

    registration: RegistrationResult
    fusion: FusionResult | None
    layers: list[Layer]
    largest_px: float
    cancelled: bool


def run(request: Request, *, progress: Progress, cancel: threading.Event) -> Outcome:
    """Read, register, fuse and build the layers.

    Parameters
    ----------
    request : Request
    progress : Progress
        Called with the stage and the fraction done.
    cancel : threading.Event
        Set it to stop: with ``settings.on_cancel == "best"`` what there is by then is returned,
        if there is anything.

    Raises
    ------
    Cancelled
        When `cancel` was set.
    TypeError, ValueError, ArithmeticError, MemoryError
        As `napari_busref.register` and `napari_busref.fuse`.
    """
    reporter = Reporter(progress, cancel)
    settings = request.settings
    reporter.step("reading the layers", 0.0)
    fixed, moving = request.fixed.read(), request.moving.read()
    registered = registration.register(
        fixed,
        moving,
        initial=request.initial,
        progress=reporter.part(0.0, 0.7 if settings.fused else 0.97).step,
        cancel=cancel,
        **settings.registration(),
    )
    fused = None
    if settings.fused and not cancel.is_set():
        try:
            fused = fusion.fuse(
                fixed,
                registered.warped,
                model=settings.fusion_model,
                device=settings.device,
                mask=registered.mask,
                progress=reporter.part(0.7, 0.97).step,
                cancel=cancel,
            )
        except Cancelled:
            if settings.on_cancel != "best":
                raise
    cancelled = cancel.is_set()
    if not cancelled:
        reporter.step("making the layers", 0.97)
    layers = result_layers(
        # without a fusion there is a fused layer too many, which is left out below
        RegistrationAndFusionResult(registered, fused or FusionResult(fixed, {}, {})),
        request.fixed,
        request.moving,
        request.initial,
    )
    wanted = settings.roles if fused is not None else settings.roles - {"fused"}
    return Outcome(
        registered,
        fused,
        [layer for layer in layers if layer.metadata[METADATA_KEY]["role"] in wanted],
        largest_displacement(registered.transform, request.initial, registered.mask),
        cancelled,
    )


def largest_displacement(
    transform: Transform, initial: Transform | None, mask: NDArray[np.bool_] | None = None
) -> float:
    """How far the farthest pixel moved from the start, in pixels of the fixed image.

    Parameters
    ----------
    transform : Transform
        Fixed -> moving.
    initial : Transform or None
        The start; None for the equal field of view.
    mask : ndarray of bool, shape (H, W), optional
        Only here (everywhere, if it is False everywhere).
    """
    if initial is None:
        initial = Transform.equal_field_of_view(transform.fixed_shape, transform.moving_shape)
    back = np.linalg.inv(initial.affine[:2, :2]).astype(np.float32)
    moved = transform.flow() - initial.flow()  # in moving pixels
    moved = moved[:, mask] if mask is not None and mask.any() else moved.reshape(2, -1)
    return float(np.hypot(*(back @ moved)).max())
