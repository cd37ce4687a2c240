"""Worker side of the panel "Register and fuse". Needs neither Qt nor a viewer."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_busref._napari.layers.field_layers import magnitude
from napari_busref._napari.layers.initial_transform import initial_transform
from napari_busref._napari.layers.plane_pairs import Position
from napari_busref._napari.layers.planes import Plane, shown_plane
from napari_busref._napari.layers.result import LayersResult
from napari_busref._napari.register.loading import load_libraries
from napari_busref._napari.register.result_layers import result_layers
from napari_busref._napari.register.settings import Settings
from napari_busref._napari.register.stacks import expected_seconds, register_stack
from napari_busref._napari.register.visibility import hide
from napari_busref.runtime.durations import Stage, pixels_of, stage
from napari_busref.runtime.progress import Cancelled, Plan, Progress, Reporter
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer

__all__ = [
    "RegisterOutcome",
    "RegisterRequest",
    "field_layers",
    "make_request",
    "outcome_of",
    "run",
]


@dataclass(frozen=True, eq=False)
class RegisterRequest:
    """The input of a run, fixed when the button was pressed.

    Parameters
    ----------
    fixed, moving : Plane
        The visible and the infrared plane, not read yet.
    initial : Transform or None
        The initial transform; None for an equal field of view.
    settings : Settings
    fixed_mask, moving_mask : Plane, optional
        Of Labels layers that mark the valid pixels.
    unit : str, optional
        Of the values of the moving layer, from its file.

    Attributes
    ----------
    best : list of RegisterOutcome
        The best so far, ready for the viewer, if that is to be kept: one at most.
    """

    fixed: Plane
    moving: Plane
    initial: Transform | None
    settings: Settings
    fixed_mask: Plane | None = None
    moving_mask: Plane | None = None
    unit: str | None = None
    best: list[RegisterOutcome] = field(default_factory=list, repr=False)

    def fusion(self) -> dict[str, Any]:
        """Keyword arguments of `napari_busref.fuse`."""
        options = self.settings.fusion()
        return options | ({"unit": self.unit} if options.get("scale_bar") else {})

    @property
    def stack(self) -> bool:
        """Whether one of the layers has several planes."""
        return any(
            plane.sizes[axis] > 1 for plane in (self.fixed, self.moving) for axis in plane.hidden
        )

    @property
    def mode(self) -> str:
        """How to treat the other planes: ``"plane"`` where neither layer is a stack."""
        return self.settings.planes if self.stack else "plane"


@dataclass(frozen=True, eq=False)
class RegisterOutcome:
    """The result of a run, and its layers.

    Attributes
    ----------
    result : LayersResult
    layers : list of Layer
        The chosen layers, in no viewer yet; none where nothing was found.
    largest_px : mapping
        By position, the largest displacement beyond the initial transform, in pixels of the fixed
        image.
    """

    result: LayersResult
    layers: list[Layer]
    largest_px: Mapping[Position, float]

    @property
    def found(self) -> bool:
        """Whether any plane was registered."""
        return _found(self.result)


def make_request(
    viewer: ViewerModel,
    fixed: Image,
    moving: Image,
    settings: Settings,
    fixed_mask: Labels | None = None,
    moving_mask: Labels | None = None,
) -> RegisterRequest:
    """Collect the input of a run on two layers, as the viewer shows them now.

    Raises
    ------
    ValueError
        When no output is chosen, or as `shown_plane` and `initial_transform`.
    """
    if not settings.roles:
        raise ValueError("no output is chosen; tick one of them in the advanced settings")
    planes = shown_plane(fixed, viewer), shown_plane(moving, viewer)
    first, second = (
        None if layer is None else shown_plane(layer, viewer)
        for layer in (fixed_mask, moving_mask)
    )
    unit = moving.metadata.get("image_file", {}).get("value_unit")
    initial = initial_transform(moving, *planes)
    return RegisterRequest(*planes, initial, settings, first, second, unit)


def run(
    request: RegisterRequest, *, progress: Progress, cancel: threading.Event
) -> RegisterOutcome:
    """Read, register, fuse and build the layers.

    Parameters
    ----------
    request : RegisterRequest
    progress : Progress
        Called with the stage and the fraction done.
    cancel : threading.Event
        Set it to stop: with ``settings.on_cancel == "best"`` the best so far is returned, if
        there is any.

    Raises
    ------
    Cancelled, TypeError, ValueError, ArithmeticError, MemoryError
        As `napari_busref._napari.register.stacks.register_stack`.
    """
    settings = request.settings
    plan = Plan(Reporter(progress, cancel), _stages(request))
    plan.begin("libraries")
    load_libraries()
    part = plan.begin("planes")

    def keep(result: LayersResult) -> None:
        if _found(result):
            request.best[:] = [outcome_of(result, request)]
        plan.check()  # a cancelled run ends here

    try:
        result = register_stack(
            request.fixed,
            request.moving,
            mode=request.mode,  # type: ignore[arg-type]  # checked there
            initial=request.initial,
            fixed_mask=request.fixed_mask,
            moving_mask=request.moving_mask,
            fuse=settings.fused,
            fusion=request.fusion(),
            progress=part.regardless(),  # it checks cancel
            on_result=keep if settings.on_cancel == "best" else None,
            cancel=cancel,
            **settings.registration(),
        )
    except Cancelled:
        if not request.best:
            raise
        return request.best[0]
    if not result.cancelled:
        plan.begin("layers")
    outcome = outcome_of(result, request)
    if not result.cancelled:
        plan.end("finished")
    return outcome


def _stages(request: RegisterRequest) -> list[Stage]:
    """The stages of a run."""
    settings, shape = request.settings, request.fixed.shape
    fusion = settings.fusion() if settings.fused else None
    register, again, fuse = expected_seconds(shape, settings.registration(), fusion)
    count = 1 if request.mode == "plane" else math.prod(request.fixed.sizes) / math.prod(shape)
    further = (count - 1) * (fuse + (again if request.mode == "each" else 0.0))
    planes = Stage("planes", "", register + fuse + further)
    loads = 0.0 if "torch" in sys.modules else 1.0
    return [stage("libraries", times=loads), planes, stage("layers", pixels_of(shape))]


def outcome_of(result: LayersResult, request: RegisterRequest) -> RegisterOutcome:
    """Make the layers of a result."""
    settings = request.settings
    layers = []
    if _found(result):
        layers = result_layers(result, request.fixed, request.moving, roles=settings.roles)
    largest = {
        position: float(magnitude(found.transform, result.initial)[0].max())
        for position, found in result.planes.items()
    }
    return RegisterOutcome(result, layers, largest)


def _found(result: LayersResult) -> bool:
    return any(plane.quality.status != "not registered" for plane in result.planes.values())


def field_layers(
    result: LayersResult, request: RegisterRequest, settings: Settings
) -> list[Layer]:
    """Draw the displacement of an earlier run by other settings, hidden; cheap, for any thread."""
    roles = {settings.field_role} if settings.field_role is not None else set()
    layers = result_layers(result, request.fixed, request.moving, roles=roles)
    for layer in layers:
        hide(layer)
    return layers
