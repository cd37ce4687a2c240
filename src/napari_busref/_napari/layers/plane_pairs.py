"""The planes that a run is about, in pairs, and the layer on which its results lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_busref._napari.layers.grids import Grid
from napari_busref._napari.layers.planes import Plane

__all__ = ["PlanePairs", "single_pair", "stack_pairs"]

Position = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PlanePairs:
    """Where results lie and which planes they come from.

    Parameters
    ----------
    sizes : tuple of int
        Length along every dimension, of a result at full resolution.
    axes : tuple of int
        Which of them are rows and columns.
    spatial : dict
        Keyword arguments that put a layer there.
    shown : tuple of int
        Position, along the other dimensions, of the planes that were shown.
    by_position : mapping
        From a position to the fixed and the moving plane there. Positions at which one of the
        layers has no plane are left out.
    """

    sizes: tuple[int, ...]
    axes: tuple[int, int]
    spatial: Mapping[str, Any]
    shown: Position
    by_position: Mapping[Position, tuple[Plane, Plane]]

    @property
    def hidden(self) -> tuple[int, ...]:
        """The dimensions that are neither rows nor columns."""
        return tuple(axis for axis in range(len(self.sizes)) if axis not in self.axes)

    def sizes_on(self, grid: Grid) -> tuple[int, ...]:
        """Length along every dimension, of a result on a grid over the fixed picture."""
        sizes = list(self.sizes)
        for axis, size in zip(self.axes, grid.shape, strict=True):
            sizes[axis] = size
        return tuple(sizes)

    def spatial_on(self, grid: Grid) -> dict[str, Any]:
        """Keyword arguments that put a layer of pixels of a grid there."""
        spatial = dict(self.spatial)
        if grid.full:
            return spatial
        linear = Affine(
            scale=spatial["scale"], rotate=spatial["rotate"], shear=spatial["shear"]
        ).linear_matrix
        first, step = np.zeros(len(self.sizes)), np.ones(len(self.sizes))
        first[list(self.axes)] = grid.matrix[:2, 2]
        step[list(self.axes)] = grid.step
        spatial["translate"] = spatial["translate"] + linear @ first
        spatial["scale"] = spatial["scale"] * step
        return spatial

    def outward(self) -> Iterator[tuple[Position, list[Position]]]:
        """Positions from the shown one outward, each with those beside it that came before."""

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
    """Return the frame of one pair: the fixed plane itself."""
    sizes = tuple(size if axis in fixed.axes else 1 for axis, size in enumerate(fixed.sizes))
    shown = (0,) * len(fixed.hidden)
    return PlanePairs(sizes, fixed.axes, fixed.spatial, shown, {shown: (fixed, moving)})


def stack_pairs(fixed: Plane, moving: Plane) -> PlanePairs:
    """Return the frame of two layers of which at least one is a stack.

    Planes belong together that lie at the same place in the world. Along a dimension in which one
    layer has but one plane, or which it has not, that plane belongs to all of the other's.

    Parameters
    ----------
    fixed, moving : Plane
        As shown.

    Returns
    -------
    PlanePairs
        On the fixed layer exactly; where only the moving layer is a stack, that dimension is the
        moving layer's.

    Raises
    ------
    ValueError
        When neither is a stack, or a dimension that comes from the moving layer is turned or
        sheared into another one.
    """
    ndim = max(fixed.ndim, moving.ndim)
    lead = ndim - fixed.ndim, ndim - moving.ndim
    axes = (fixed.axes[0] + lead[0], fixed.axes[1] + lead[0])
    sizes = [0] * ndim
    borrowed = []  # dimensions that are the moving layer's
    for axis in range(ndim):
        own = fixed.sizes[axis - lead[0]] if axis >= lead[0] else 0
        other = moving.sizes[axis - lead[1]] if axis >= lead[1] else 0
        if axis not in axes and (own == 0 or (own == 1 and other > 1)):
            borrowed.append(axis)
            sizes[axis] = other
        else:
            sizes[axis] = own
    hidden = [axis for axis in range(ndim) if axis not in axes]
    if math.prod(sizes[axis] for axis in hidden) == 1:
        raise ValueError(
            f"mode: neither {fixed.name!r} nor {moving.name!r} is a stack; register this plane "
            "only"
        )
    spatial = _merged(fixed, moving, borrowed, ndim) if borrowed else dict(fixed.layer_spatial)
    shown = tuple(
        int(moving.start[axis - lead[1]] if axis in borrowed else fixed.start[axis - lead[0]])
        for axis in hidden
    )
    pairs = {}
    for position in product(*(range(sizes[axis]) for axis in hidden)):
        number = dict(zip(hidden, position, strict=True))
        own_plane = fixed.at(
            [0 if axis + lead[0] in borrowed else number[axis + lead[0]] for axis in fixed.hidden]
        )
        point = np.full(ndim, np.nan)
        point[lead[0] :] = own_plane.centre()
        units = [*moving.world_units[: lead[0]], *fixed.world_units]
        for axis in borrowed:
            row = moving.world[axis - lead[1]]
            point[axis] = row[axis - lead[1]] * number[axis] + row[-1]
            units[axis] = moving.world_units[axis - lead[1]]
        partner = moving.nearest(point, units)
        if partner is not None:
            pairs[position] = (own_plane, partner)
    pairs[shown] = (fixed, moving)
    return PlanePairs(tuple(sizes), axes, spatial, shown, pairs)


def _merged(fixed: Plane, moving: Plane, borrowed: list[int], ndim: int) -> dict[str, Any]:
    """Where a layer lies that is the fixed one but for some dimensions of the moving one."""
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
            if number >= 0 and not _apart(plane.world, number):
                raise ValueError(
                    f"mode: layer {plane.name!r} is turned or sheared along "
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
    """The matrix of napari's vector of what lies above the diagonal."""
    if shear.ndim == 2:
        return shear
    matrix = np.eye(ndim)
    matrix[np.triu_indices(ndim, 1)] = shear
    return matrix


def _apart(world: NDArray[np.float64], axis: int) -> bool:
    """Whether a dimension of a layer has nothing to do with its others."""
    others = [number for number in range(len(world)) if number != axis]
    mixed = np.abs([*world[axis, others], *world[others, axis]])
    return bool(mixed.max(initial=0.0) <= 1e-9 * np.abs(world[:, :-1]).max())
