"""Place layers on the other image by setting their affine, without resampling.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Layer

from napari_busref._napari.apply_transform.pixel_mapping import (
    PLACED_KEY,
    Array,
    PixelMapping,
    affine_before,
    inverted,
)
from napari_busref._napari.layers.planes import comparable, linear_of, spatial_of, unit_factor
from napari_busref.transforms.transform import Transform

__all__ = ["place_on"]


def place_on(
    layers: Sequence[Layer],
    transform: Transform,
    fixed: Layer,
    moving: Layer | None = None,
    *,
    inverse: bool = False,
    axes: tuple[int, int] = (-2, -1),
) -> float:
    """Place layers on the other image by setting their ``affine``, without resampling.

    Parameters
    ----------
    layers : sequence of Layer
        Of any type. Units that cannot be compared with the target's are set, too. Data, scale,
        translate, rotate and shear stay.
    transform, fixed, moving, inverse, axes
        As for `apply_transform`.

    Returns
    -------
    float
        Largest error of the nearest affine, in fixed pixels; 0 for an affine transform.

    Raises
    ------
    ValueError
        As `apply_transform`; no layer has changed then.
    """
    mapping = PixelMapping.between(transform, fixed, moving, inverse, axes)
    affine, error = _nearest_affine(mapping.transform)
    to_target = affine if inverse else inverted(affine)
    changes = [_affine_and_units(layer, mapping, to_target) for layer in layers]
    for layer, (matrix, units) in zip(layers, changes, strict=True):
        before = affine_before(layer)
        if before is None:
            before = np.array(layer.affine.affine_matrix)
        layer.affine = matrix
        layer.units = units
        layer.metadata[PLACED_KEY] = {
            "affine": np.array(layer.affine.affine_matrix),
            "before": before,
        }
    return error


def _affine_and_units(
    layer: Layer, mapping: PixelMapping, to_target: Array
) -> tuple[Array, tuple[Any, ...]]:
    """Affine and units that place a layer on the target; `to_target` maps source pixels."""
    plane = [axis + layer.ndim for axis in mapping.axes]
    units = list(layer.units)
    target_units = list(zip(plane, mapping.target.units, strict=True))
    if not all(comparable(units[axis], unit) for axis, unit in target_units):
        for axis, unit in target_units:
            units[axis] = unit
    scale = np.diag([*(unit_factor(unit, units[axis]) for axis, unit in target_units), 1.0])
    world = scale @ mapping.target.matrix @ to_target @ mapping.to_source(layer)
    spatial = spatial_of(layer)
    local = np.eye(3)
    local[:2, :2] = linear_of(spatial)[np.ix_(plane, plane)]
    local[:2, 2] = spatial["translate"][plane]
    block = world @ inverted(local)
    matrix = np.array(spatial["affine"])
    matrix[np.ix_(plane, [*plane, -1])] = block[:2]
    return matrix, tuple(units)


def _nearest_affine(transform: Transform) -> tuple[Array, float]:
    """Fit an affine where the images overlap; also return its largest error in pixels."""
    if transform.displacement is None:
        return transform.affine, 0.0
    ticks = [np.linspace(0, size - 1, min(size, 64)) for size in transform.fixed_shape]
    grid = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 2)
    there = transform.points(grid)
    inside = ((there >= -0.5) & (there <= np.array(transform.moving_shape) - 0.5)).all(1)
    shapes = {"fixed_shape": transform.fixed_shape, "moving_shape": transform.moving_shape}
    for chosen in (inside, np.ones(len(grid), bool)):
        try:
            nearest = Transform.from_points(grid[chosen], there[chosen], **shapes)
        except ValueError:  # hardly any overlap
            continue
        error = nearest.points(there[chosen], inverse=True) - grid[chosen]
        return np.array(nearest.affine), float(np.hypot(*error.T).max())
    raise ValueError("transform: the fixed image is too small to fit an affine")
