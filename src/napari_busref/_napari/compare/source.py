"""What "Compare" compares: which layers, and what is known of them.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari.layers import Image

from napari_busref._napari.compare.pixels import Look, Side
from napari_busref._napari.layers.grids import Rescaled
from napari_busref._napari.layers.pair import METADATA_KEY, guess_pair, world_transform
from napari_busref._napari.layers.planes import Plane, shown_plane
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["Sides", "find_sides", "guess_sides", "offered"]


@dataclass(frozen=True, eq=False)
class Sides:
    """The reference, what is under test, and what is known about how it should be.

    Parameters
    ----------
    reference, after : Side
    before : Side or None
        The moving layer where the registration started.
    no_before : str
        Why there is none.
    estimate : Rescaled or None
        What brings moving pixels onto the reference in `after`.
    start : Rescaled or None
        The same in `before`.
    truth : Side or None
        What `after` should look like.
    true : Rescaled or None
        What `estimate` should be.
    no_error : str
        Why there is none, though there is a truth.
    """

    reference: Side
    after: Side
    before: Side | None = None
    no_before: str = ""
    estimate: Rescaled | None = None
    start: Rescaled | None = None
    truth: Side | None = None
    true: Rescaled | None = None
    no_error: str = ""


def offered(layers: Iterable[Layer]) -> list[Image]:
    """The image layers that can be compared: all but the comparison itself."""
    return [
        layer
        for layer in layers
        if isinstance(layer, Image) and _knowledge(layer).get("role") != "comparison"
    ]


def guess_sides(layers: Iterable[Layer]) -> tuple[Image | None, Image | None]:
    """Guess what is to be compared.

    Parameters
    ----------
    layers : iterable of Layer
        ``viewer.layers``.

    Returns
    -------
    reference, tested : Image or None
        The topmost warped layer and its fixed one; without any, what would be registered.
    """
    listed = list(layers)
    images = offered(listed)
    for layer in reversed(images):
        known = _knowledge(layer)
        if known.get("role") != "warped":
            continue
        for other in images:
            if other.name == known.get("fixed"):
                return other, layer
    moving, fixed = guess_pair(listed)
    return fixed, moving


def find_sides(
    viewer: ViewerModel, reference: Image, tested: Image, truth: Layer | None = None
) -> Sides:
    """Find out where the layers lie, and where the tested one comes from.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    reference, tested : Image
    truth : Layer, optional
        An image that `tested` should look like, or any layer that carries a transform which
        should have been found. Left out, the moving layer may know its truth (samples do).

    Returns
    -------
    Sides
        Nothing of the data is read.

    Raises
    ------
    ValueError
        When both are the same layer, one is not seen in the viewer, or they do not overlap.
    """
    if reference == tested:
        raise ValueError(
            f"{reference.name!r} is chosen as the reference and as the layer under test; choose "
            "two different layers"
        )
    plane = shown_plane(reference, viewer)
    own = Rescaled.of(Transform.identity(plane.shape))
    after = _side(plane, tested, viewer)
    sides = Sides(Side(plane, Look.of(reference), own), after)
    known = _knowledge(tested)
    if "transform" not in known:
        sides = replace(
            sides, estimate=after.placed, no_before="it was not made by Register and fuse"
        )
        return _with_truth(sides, viewer, tested, truth)
    estimate = _estimate(known, after.plane)
    if estimate is None or estimate.fixed_shape != plane.shape:
        sides = replace(sides, no_before="it was registered to another layer or plane")
        return _with_truth(sides, viewer, None, truth)
    sides = replace(sides, after=replace(after, content=estimate), estimate=estimate)
    moving = _named(viewer.layers, known.get("moving"))
    sides = _with_start(sides, viewer, moving, known)
    return _with_truth(sides, viewer, moving, truth)


def _side(reference: Plane, layer: Image, viewer: ViewerModel) -> Side:
    plane = shown_plane(layer, viewer)
    placed = world_transform(reference, plane)
    if placed is None:
        placed = Transform.equal_field_of_view(reference.shape, plane.shape)
    return Side(plane, Look.of(layer), Rescaled.of(placed))


def _estimate(known: Mapping[str, Any], plane: Plane) -> Rescaled | None:
    """The transform that a layer carries for one of its planes."""
    if known.get("mode") == "each":
        found = known["planes"].get(plane.position)
        return None if found is None else found.transform
    if isinstance(rescaled := known.get("rescaled"), Rescaled):
        return rescaled
    transform = known.get("transform")
    return Rescaled.of(transform) if isinstance(transform, Transform) else None


def _with_start(
    sides: Sides, viewer: ViewerModel, moving: Image | None, known: Mapping[str, Any]
) -> Sides:
    """Add where the registration started."""
    if moving is None:
        return replace(sides, no_before=f"layer {known.get('moving')!r} is not there any more")
    plane = shown_plane(moving, viewer)
    estimate = sides.estimate
    if estimate is None or plane.shape != estimate.moving_shape:
        return replace(sides, no_before=f"layer {moving.name!r} has another size by now")
    start = known.get("initial")
    shapes = estimate.fixed_shape, estimate.moving_shape
    if not isinstance(start, Transform) or (start.fixed_shape, start.moving_shape) != shapes:
        start = Transform.equal_field_of_view(*shapes)
    begun = Rescaled.of(start)
    return replace(sides, before=Side(plane, Look.of(moving), begun), start=begun)


def _with_truth(
    sides: Sides, viewer: ViewerModel, moving: Image | None, truth: Layer | None
) -> Sides:
    """Add what should have come out."""
    reference = sides.reference.plane
    own = None if moving is None else _knowledge(moving).get("truth")
    true = Rescaled.of(own) if isinstance(own, Transform) else None
    image = None
    if truth is not None:
        carried = _estimate(_knowledge(truth), sides.after.plane)
        if isinstance(truth, Image) and truth != moving:
            image = _side(reference, truth, viewer)
        elif carried is not None:
            true = carried
        else:
            raise ValueError(
                f"truth: layer {truth.name!r} is no image and carries no transform for this plane"
            )
    sides = replace(sides, no_error=_no_error(sides.estimate, true))
    if true is not None and not sides.no_error:
        sides = replace(sides, true=true)
        if image is None and moving is not None:
            plane = shown_plane(moving, viewer)
            if plane.shape == true.moving_shape:
                image = Side(plane, Look.of(moving), true)
    elif truth is None:
        sides = replace(sides, no_error="")  # nobody has asked for it
    return replace(sides, truth=image)


def _no_error(estimate: Rescaled | None, true: Rescaled | None) -> str:
    """Why the end-point error cannot be told; empty if it can."""
    if true is None:
        return "the truth is an image and carries no transform"
    if estimate is None:
        return "the layer under test was registered to another layer or plane"
    shapes = [(one.fixed_shape, one.moving_shape) for one in (true, estimate)]
    if shapes[0] != shapes[1]:
        (fixed, moving), (reference, tested) = shapes
        return (
            f"the true transform is from {_pixels(fixed)} to {_pixels(moving)}, "
            f"and the images have {_pixels(reference)} and {_pixels(tested)}"
        )
    return ""


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def _named(layers: Iterable[Layer], name: Any) -> Image | None:
    return next((one for one in layers if one.name == name and isinstance(one, Image)), None)


def _knowledge(layer: Layer) -> Mapping[str, Any]:
    known = layer.metadata.get(METADATA_KEY)
    return known if isinstance(known, Mapping) else {}
