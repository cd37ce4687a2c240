"""Pair the planes of two layers, and position the layers of results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.planes import Plane, linear_of
from napari_busref.transforms.grids import Grid

__all__ = ["PlanePairs", "single_pair", "stack_pairs"]

#: Indices of a plane along the dimensions that are neither rows nor columns.
Position = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PlanePairs:
    """Pairs of a fixed and a moving plane, and the extent of the results made of them.

    Parameters
    ----------
    sizes : tuple of int
        Length of a result at full resolution along every dimension.
    axes : tuple of int
        The dimensions of rows and columns.
    spatial : dict
        Keyword arguments that position a layer of results.
    shown : tuple of int
        Position of the pair that the viewer shows.
    by_position : mapping
        From a position to the fixed and the moving plane there. Positions at which one of the
        layers has no plane are missing.
    """

    sizes: tuple[int, ...]
    axes: tuple[int, int]
    spatial: Mapping[str, Any]
    shown: Position
    by_position: Mapping[Position, tuple[Plane, Plane]]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Dimensions that are neither rows nor columns."""
        return tuple(axis for axis in range(len(self.sizes)) if axis not in self.axes)

    def sizes_on(self, grid: Grid) -> tuple[int, ...]:
        """Length along every dimension of a result on a grid over the fixed image."""
        sizes = list(self.sizes)
        for axis, size in zip(self.axes, grid.shape, strict=True):
            sizes[axis] = size
        return tuple(sizes)

    def spatial_on(self, grid: Grid) -> dict[str, Any]:
        """Keyword arguments that position a result on a grid over the fixed image."""
        spatial = dict(self.spatial)
        if grid.full:
            return spatial
        first, step = np.zeros(len(self.sizes)), np.ones(len(self.sizes))
        first[list(self.axes)] = grid.matrix[:2, 2]
        step[list(self.axes)] = grid.step
        spatial["translate"] = spatial["translate"] + linear_of(spatial) @ first
        spatial["scale"] = spatial["scale"] * step
        return spatial

    def outward(self) -> Iterator[tuple[Position, list[Position]]]:
        """Positions by distance from the shown one, each with its neighbours that came earlier."""

        def distance(position: Position) -> int:
            return sum(abs(a - b) for a, b in zip(position, self.shown, strict=True))

        for position in sorted(self.by_position, key=lambda where: (distance(where), where)):
            beside = []
            for axis, (number, middle) in enumerate(zip(position, self.shown, strict=True)):
                if number != middle:
                    step = 1 if number < middle else -1
                    closer = (*position[:axis], number + step, *position[axis + 1 :])
                    if closer in self.by_position:
                        beside.append(closer)
            yield position, beside


def single_pair(fixed: Plane, moving: Plane) -> PlanePairs:
    """Return one pair, whose results lie on the fixed plane."""
    sizes = tuple(size if axis in fixed.axes else 1 for axis, size in enumerate(fixed.sizes))
    shown = (0,) * len(fixed.hidden)
    return PlanePairs(sizes, fixed.axes, fixed.spatial, shown, {shown: (fixed, moving)})


def stack_pairs(fixed: Plane, moving: Plane) -> PlanePairs:
    """Pair the planes of two layers, of which at least one is a stack.

    Planes at the same world position form a pair. A layer that has one plane along a dimension,
    or lacks the dimension, pairs that plane with all planes of the other layer.

    Parameters
    ----------
    fixed, moving : Plane
        The shown planes.

    Returns
    -------
    PlanePairs
        Results lie on the fixed layer. A dimension in which only the moving layer is a stack
        comes from the moving layer.

    Raises
    ------
    ValueError
        When neither is a stack, or a dimension that comes from the moving layer is rotated or
        sheared into another one.
    """
    ndim = max(fixed.ndim, moving.ndim)
    lead, moving_lead = ndim - fixed.ndim, ndim - moving.ndim
    axes = (fixed.axes[0] + lead, fixed.axes[1] + lead)
    own, other = (0,) * lead + fixed.sizes, (0,) * moving_lead + moving.sizes
    borrowed = [  # dimensions that come from the moving layer
        axis
        for axis in range(ndim)
        if axis not in axes and (own[axis] == 0 or (own[axis] == 1 and other[axis] > 1))
    ]
    sizes = tuple(other[axis] if axis in borrowed else own[axis] for axis in range(ndim))
    hidden = [axis for axis in range(ndim) if axis not in axes]
    if math.prod(sizes[axis] for axis in hidden) == 1:
        raise ValueError(
            f"mode: neither {fixed.name!r} nor {moving.name!r} is a stack; register this plane "
            "only"
        )
    spatial = _merged(fixed, moving, borrowed, ndim) if borrowed else dict(fixed.layer_spatial)
    shown = tuple(
        int(moving.start[axis - moving_lead] if axis in borrowed else fixed.start[axis - lead])
        for axis in hidden
    )
    units = [*moving.world_units[:lead], *fixed.world_units]
    for axis in borrowed:
        units[axis] = moving.world_units[axis - moving_lead]
    pairs = {}
    for position in product(*(range(sizes[axis]) for axis in hidden)):
        number = dict(zip(hidden, position, strict=True))
        fixed_plane = fixed.at(
            [0 if axis + lead in borrowed else number[axis + lead] for axis in fixed.hidden]
        )
        point = np.full(ndim, np.nan)
        point[lead:] = fixed_plane.centre()
        for axis in borrowed:
            row = moving.world[axis - moving_lead]
            point[axis] = row[axis - moving_lead] * number[axis] + row[-1]
        moving_plane = moving.nearest(point, units)
        if moving_plane is not None:
            pairs[position] = (fixed_plane, moving_plane)
    pairs[shown] = (fixed, moving)
    return PlanePairs(sizes, axes, spatial, shown, pairs)


def _merged(fixed: Plane, moving: Plane, borrowed: list[int], ndim: int) -> dict[str, Any]:
    """Position of the fixed layer, with the `borrowed` dimensions of the moving one."""
    lead, moving_lead = ndim - fixed.ndim, ndim - moving.ndim
    own = fixed.layer_spatial
    scale, translate = np.ones(ndim), np.zeros(ndim)
    scale[lead:], translate[lead:] = own["scale"], own["translate"]
    matrices = {
        "rotate": _embedded(own["rotate"], ndim),
        "shear": _embedded(_shear_matrix(own["shear"], fixed.ndim), ndim),
    }
    affine = np.eye(ndim + 1)
    affine[lead:, lead:] = own["affine"]
    units = [*moving.world_units[:lead], *own["units"]]
    labels = [*moving.layer_spatial["axis_labels"][:lead], *own["axis_labels"]]
    for axis in borrowed:
        for plane, number in ((moving, axis - moving_lead), (fixed, axis - lead)):
            if number >= 0 and not _is_separate(plane.world, number):
                raise ValueError(
                    f"mode: layer {plane.name!r} is rotated or sheared along "
                    f"{plane.layer_spatial['axis_labels'][number]}, the dimension of the stack; "
                    "register this plane only"
                )
        row = moving.world[axis - moving_lead]
        scale[axis], translate[axis] = row[axis - moving_lead], row[-1]
        for matrix in (*matrices.values(), affine):
            matrix[axis, :] = 0
            matrix[:, axis] = 0
            matrix[axis, axis] = 1
        units[axis] = moving.world_units[axis - moving_lead]
        labels[axis] = moving.layer_spatial["axis_labels"][axis - moving_lead]
    return {
        "scale": scale,
        "translate": translate,
        **matrices,
        "affine": affine,
        "units": tuple(units),
        "axis_labels": tuple(labels),
    }


def _embedded(matrix: NDArray[Any], ndim: int) -> NDArray[np.float64]:
    whole = np.eye(ndim)
    whole[ndim - len(matrix) :, ndim - len(matrix) :] = matrix
    return whole


def _shear_matrix(shear: NDArray[Any], ndim: int) -> NDArray[np.float64]:
    """Expand napari's vector of shears, the entries above the diagonal, to a matrix."""
    if shear.ndim == 2:
        return shear
    matrix = np.eye(ndim)
    matrix[np.triu_indices(ndim, 1)] = shear
    return matrix


def _is_separate(world: NDArray[np.float64], axis: int) -> bool:
    """Whether neither rotation nor shear mixes a dimension with the others."""
    others = [number for number in range(len(world)) if number != axis]
    mixed = np.abs([*world[axis, others], *world[others, axis]])
    return bool(mixed.max(initial=0.0) <= 1e-9 * np.abs(world[:, :-1]).max())
