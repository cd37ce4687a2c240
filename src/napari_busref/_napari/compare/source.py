"""Which layers "Compare" compares, and which transforms belong to them.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari.layers import Image

from napari_busref._napari.compare.pixels import ComparedPlane, DisplayColormap
from napari_busref._napari.layers.pair import METADATA_KEY, guess_pair, world_transform
from napari_busref._napari.layers.planes import Plane, shown_plane
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["Comparison", "comparable_images", "find_comparison", "guess_layers"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The planes to compare, and the transforms between them.

    Parameters
    ----------
    fixed, after : ComparedPlane
        `after` is the moving image as registered: usually a warped layer.
    before : ComparedPlane or None
        The moving layer under the initial transform.
    no_before : str
        Why `before` is None.
    estimate : Transform or None
        The transform of `after`.
    initial : Transform or None
        The transform of `before`.
    truth : ComparedPlane or None
        The image that `after` should equal.
    true_transform : Transform or None
        The transform that `estimate` should equal.
    no_epe : str
        Why `true_transform` is None although a truth was given.
    """

    fixed: ComparedPlane
    after: ComparedPlane
    before: ComparedPlane | None = None
    no_before: str = ""
    estimate: Transform | None = None
    initial: Transform | None = None
    truth: ComparedPlane | None = None
    true_transform: Transform | None = None
    no_epe: str = ""


def comparable_images(layers: Iterable[Layer]) -> list[Image]:
    """List the image layers, without the comparison layer."""
    return [
        layer
        for layer in layers
        if isinstance(layer, Image) and _metadata(layer).get("role") != "comparison"
    ]


def guess_layers(layers: Iterable[Layer]) -> tuple[Image | None, Image | None]:
    """Guess which two layers to compare.

    Parameters
    ----------
    layers : iterable of Layer
        ``viewer.layers``.

    Returns
    -------
    fixed, moving : Image or None
        The topmost warped layer and its fixed one. Without a warped layer, the pair that
        Register and fuse would choose.
    """
    listed = list(layers)
    images = comparable_images(listed)
    for layer in reversed(images):
        metadata = _metadata(layer)
        if metadata.get("role") != "warped":
            continue
        for other in images:
            if other.name == metadata.get("fixed"):
                return other, layer
    moving, fixed = guess_pair(listed)
    return fixed, moving


def find_comparison(
    viewer: ViewerModel, fixed: Image, moving: Image, truth: Layer | None = None
) -> Comparison:
    """Find the planes and transforms to compare. Reads no pixels.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    fixed : Image
    moving : Image
        A warped layer, or a moving one where it lies.
    truth : Layer, optional
        The image that `moving` should equal, or a layer that carries the true transform. By
        default, the truth in the metadata of the moving layer, if any (samples have one).

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        When both are the same layer, one is not shown in the viewer, or they do not overlap.
    """
    if fixed == moving:
        raise ValueError(
            f"{fixed.name!r} is chosen as the fixed and as the moving layer; choose "
            "two different layers"
        )
    plane = shown_plane(fixed, viewer)
    identity = Transform.identity(plane.shape)
    after = _compared(plane, moving, viewer)
    comparison = Comparison(ComparedPlane(plane, DisplayColormap.of(fixed), identity), after)
    metadata = _metadata(moving)
    if "transform" not in metadata:
        comparison = replace(
            comparison, estimate=after.placed, no_before="it was not made by Register and fuse"
        )
        return _with_truth(comparison, viewer, moving, truth)
    estimate = _carried_transform(metadata, after.plane)
    if estimate is None or estimate.fixed_shape != plane.shape:
        comparison = replace(comparison, no_before="it was registered to another layer or plane")
        return _with_truth(comparison, viewer, None, truth)
    comparison = replace(comparison, after=replace(after, warp=estimate), estimate=estimate)
    name = metadata.get("moving")
    unwarped = next(
        (one for one in viewer.layers if one.name == name and isinstance(one, Image)), None
    )
    comparison = _with_before(comparison, viewer, unwarped, metadata)
    return _with_truth(comparison, viewer, unwarped, truth)


def _compared(fixed: Plane, layer: Image, viewer: ViewerModel) -> ComparedPlane:
    plane = shown_plane(layer, viewer)
    placed = world_transform(fixed, plane)
    if placed is None:
        placed = Transform.equal_field_of_view(fixed.shape, plane.shape)
    return ComparedPlane(plane, DisplayColormap.of(layer), placed)


def _carried_transform(metadata: Mapping[str, Any], plane: Plane) -> Transform | None:
    """The transform that a layer carries for one of its planes."""
    if metadata.get("mode") == "each":
        found = metadata["planes"].get(plane.position)
        return None if found is None else found.transform
    transform = metadata.get("transform")
    return transform if isinstance(transform, Transform) else None


def _with_before(
    comparison: Comparison,
    viewer: ViewerModel,
    unwarped: Image | None,
    metadata: Mapping[str, Any],
) -> Comparison:
    """Add the moving layer under the initial transform of the registration."""
    if unwarped is None:
        return replace(
            comparison, no_before=f"layer {metadata.get('moving')!r} is not there any more"
        )
    plane = shown_plane(unwarped, viewer)
    estimate = comparison.estimate
    if estimate is None or plane.shape != estimate.moving_shape:
        return replace(comparison, no_before=f"layer {unwarped.name!r} has changed its size")
    start = metadata.get("initial")
    shapes = estimate.fixed_shape, estimate.moving_shape
    if not isinstance(start, Transform) or (start.fixed_shape, start.moving_shape) != shapes:
        start = Transform.equal_field_of_view(*shapes)
    initial = start
    before = ComparedPlane(plane, DisplayColormap.of(unwarped), initial)
    return replace(comparison, before=before, initial=initial)


def _with_truth(
    comparison: Comparison, viewer: ViewerModel, unwarped: Image | None, truth: Layer | None
) -> Comparison:
    """Add the true image and the true transform, as far as there are any."""
    given = None if unwarped is None else _metadata(unwarped).get("truth")
    true = given if isinstance(given, Transform) else None
    image = None
    if truth is not None:
        carried = _carried_transform(_metadata(truth), comparison.after.plane)
        if isinstance(truth, Image) and truth != unwarped:
            image = _compared(comparison.fixed.plane, truth, viewer)
        elif carried is not None:
            true = carried
        else:
            raise ValueError(
                f"truth: layer {truth.name!r} is no image and carries no transform for this plane"
            )
    no_epe = _no_epe(comparison.estimate, true)
    if true is not None and not no_epe:
        comparison = replace(comparison, true_transform=true)
        if image is None and unwarped is not None:
            plane = shown_plane(unwarped, viewer)
            if plane.shape == true.moving_shape:
                image = ComparedPlane(plane, DisplayColormap.of(unwarped), true)
    elif truth is None:
        no_epe = ""
    return replace(comparison, truth=image, no_epe=no_epe)


def _no_epe(estimate: Transform | None, true: Transform | None) -> str:
    """Why the end-point error cannot be computed; empty if it can."""
    if true is None:
        return "the truth is an image and carries no transform"
    if estimate is None:
        return "the moving layer was registered to another layer or plane"
    shapes = true.fixed_shape, true.moving_shape
    needed = estimate.fixed_shape, estimate.moving_shape
    if shapes != needed:
        return (
            f"the true transform is from {_pixels(shapes[0])} to {_pixels(shapes[1])}, "
            f"and the images have {_pixels(needed[0])} and {_pixels(needed[1])}"
        )
    return ""


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def _metadata(layer: Layer) -> Mapping[str, Any]:
    metadata = layer.metadata.get(METADATA_KEY)
    return metadata if isinstance(metadata, Mapping) else {}
