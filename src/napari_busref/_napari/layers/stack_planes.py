"""Which plane of a result a viewer shows, how to show another one, and what it is called.

Needs neither Qt nor a viewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_busref._napari.layers.plane_pairs import PlanePairs, Position
from napari_busref._napari.layers.planes import Plane, shown_plane, unit_factor

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_busref._napari.layers.result import LayersResult, PlaneResult

__all__ = ["is_stack", "plane_name", "show_position", "shown_position", "worst_planes"]


def is_stack(pairs: PlanePairs) -> bool:
    """Whether one of the two layers has several planes."""
    return any(
        plane.sizes[axis] > 1 for plane in pairs.by_position[pairs.shown] for axis in plane.hidden
    )


def shown_position(
    pairs: PlanePairs, fixed: Image, moving: Image, viewer: ViewerModel
) -> Position | None:
    """Position of the pair of planes that a viewer shows.

    Parameters
    ----------
    pairs : PlanePairs
    fixed, moving : Image
        The layers of the pairs.
    viewer : napari.Viewer or napari.components.ViewerModel

    Returns
    -------
    tuple of int or None
        None where the viewer shows no plane of the pairs.
    """
    first, second = _plane(fixed, viewer), _plane(moving, viewer)
    if first is None:
        return None
    same = [p for p, (plane, _) in pairs.by_position.items() if plane.index == first.index]
    exact = [p for p in same if second is not None and _moving(pairs, p) == second.index]
    if exact:
        return exact[0]
    # the planes of the moving layer may lie between those of the fixed one
    return same[0] if len(same) == 1 and len(pairs.by_position) > 1 else None


def show_position(pairs: PlanePairs, position: Position, viewer: ViewerModel) -> None:
    """Move the sliders of a viewer to a pair of planes."""
    fixed, moving = pairs.by_position[position]
    dims, units = viewer.dims, viewer.layers.units
    for plane in (moving, fixed):  # the fixed one decides where both have a dimension
        world = plane.centre()
        for axis in plane.hidden:
            at = dims.ndim - plane.ndim + axis
            if plane.sizes[axis] > 1 and at not in dims.order[-2:]:
                own = plane.world_units[axis]
                factor = 1.0 if units is None else unit_factor(own, units[axis - plane.ndim])
                dims.set_point(at, float(world[axis] * factor))


def plane_name(pairs: PlanePairs, position: Position) -> str:
    """What a plane is called, by the numbers that napari's sliders show."""
    fixed, moving = pairs.by_position[position]
    stack = fixed if any(fixed.sizes[axis] > 1 for axis in fixed.hidden) else moving
    labels, numbers = stack.layer_spatial["axis_labels"], []
    for axis, number in zip(stack.hidden, stack.position, strict=True):
        if stack.sizes[axis] > 1:
            label = str(labels[axis])
            named = not label.lstrip("-").isdigit()  # napari numbers what has no name
            numbers.append(f"{label} {number}" if named else str(number))
    text = ", ".join(numbers)
    return text if text[:1].isalpha() else f"plane {text}"


def worst_planes(result: LayersResult, count: int = 3) -> list[tuple[Position, PlaneResult]]:
    """The planes of a result with the lowest scores, the worst first."""
    order = sorted(
        result.planes.items(), key=lambda item: (item[1].quality.reliable, item[1].quality.score)
    )
    return order[:count]


def _plane(layer: Image, viewer: ViewerModel) -> Plane | None:
    try:
        return shown_plane(layer, viewer)
    except ValueError:
        return None


def _moving(pairs: PlanePairs, position: Position) -> tuple[int | slice, ...]:
    return pairs.by_position[position][1].index
