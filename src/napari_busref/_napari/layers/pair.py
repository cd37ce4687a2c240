"""Two layers to register: which one is fixed, and the transform of their positions.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray

from napari_busref._napari.layers.planes import Plane, comparable, shown_plane, unit_factor
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = [
    "METADATA_KEY",
    "Plane",
    "expand",
    "guess_pair",
    "shown_plane",
    "world_affine",
    "world_transform",
]

#: Key of this plugin's entry in ``layer.metadata``.
METADATA_KEY = "napari-busref"

_INFRARED = {"ir", "infrared", "thermal", "nir", "swir", "mwir", "lwir", "flir", "moving"}
_VISIBLE = {"vis", "visible", "rgb", "color", "colour", "optical", "eo", "fixed", "reference"}


def world_transform(fixed: Plane, moving: Plane) -> Transform | None:
    """Return the transform that two layers' positions in the world define.

    Parameters
    ----------
    fixed, moving : Plane
        Shown by the same viewer.

    Returns
    -------
    Transform or None
        Fixed pixel → world → moving pixel at full resolution, an affine. None where positions
        are no evidence: both are napari's default and the sizes differ, or one is and the units
        cannot be compared. `register` then assumes an equal field of view.

    Raises
    ------
    ValueError
        When the layers do not overlap, or have physical units that cannot be converted into each
        other.

    Notes
    -----
    Compatible units are converted. Where one layer has physical units and the other has pixels,
    napari draws the plain numbers. Two positioned layers are then compared by plain numbers, too.
    """
    same_kind = all(map(comparable, fixed.units, moving.units))
    if not same_kind:
        _check_units(fixed, moving)
    if not (fixed.positioned and moving.positioned) and not same_kind:
        return None
    if not (fixed.positioned or moving.positioned) and fixed.shape != moving.shape:
        return None
    affine = world_affine(fixed, moving)
    if not _overlap(affine, fixed.shape, moving.shape):
        raise ValueError(
            f"layers {moving.name!r} and {fixed.name!r} do not overlap in the viewer; move one of "
            "them, or correct its scale and translate"
        )
    return Transform(affine, fixed_shape=fixed.shape, moving_shape=moving.shape)


def world_affine(one: Plane, other: Plane) -> NDArray[np.float64]:
    """Return the affine from pixels of one plane through the world to pixels of another.

    Parameters
    ----------
    one, other : Plane
        Shown by the same viewer.

    Returns
    -------
    ndarray of float64, shape (3, 3)
        Maps ``(row, col, 1)``, in pixels at full resolution. Compatible units are converted.
    """
    to_other_units = np.diag(
        [unit_factor(unit, target) for unit, target in zip(one.units, other.units, strict=True)]
    )
    start = to_other_units @ one.matrix
    affine = np.eye(3)
    affine[:2, :2] = np.linalg.solve(other.matrix[:, :2], start[:, :2])
    affine[:2, 2] = np.linalg.solve(other.matrix[:, :2], start[:, 2] - other.matrix[:, 2])
    return np.eye(3) if np.allclose(affine, np.eye(3), rtol=0, atol=1e-9) else affine


def expand(data: NDArray[Any], plane: Plane) -> NDArray[Any]:
    """Give the pixels of a plane all dimensions of its layer, with length 1 for hidden ones.

    Parameters
    ----------
    data : ndarray, shape (H, W) or (H, W, C)

    Returns
    -------
    ndarray
        A view. ``plane.spatial`` positions it on the plane.
    """
    return np.expand_dims(data, plane.hidden)


def guess_pair(layers: Sequence[Layer]) -> tuple[Image | None, Image | None]:
    """Guess which layers are the infrared and the visible image.

    Parameters
    ----------
    layers : sequence of Layer
        ``viewer.layers``. Layers that this plugin computed are skipped.

    Returns
    -------
    moving, fixed : Image or None
        Two different layers, ranked by words in their names and by colour. Of equals the lower
        layer is fixed. None where images are missing.
    """
    images = [
        layer
        for layer in layers
        if isinstance(layer, Image) and "role" not in layer.metadata.get(METADATA_KEY, {})
    ]
    if not images:
        return None, None
    fixed = max(images, key=_visibility)  # the first of equals
    others = [layer for layer in images if layer != fixed]
    return (min(others, key=_visibility) if others else None), fixed


def _visibility(layer: Image) -> int:
    words = set(re.split(r"[^a-z]+", layer.name.lower()))
    return 2 * bool(words & _VISIBLE) - 2 * bool(words & _INFRARED) + bool(layer.rgb)


def _check_units(fixed: Plane, moving: Plane) -> None:
    """Refuse two units of different kinds, unless one is pixels."""
    for one, other in zip(fixed.units, moving.units, strict=True):
        if not comparable(one, other) and "pixel" not in (str(one), str(other)):
            raise ValueError(
                f"units: layer {fixed.name!r} is measured in {one} and layer {moving.name!r} in "
                f"{other}, which cannot be converted; give both the same kind of unit"
            )


def _overlap(affine: NDArray[np.float64], fixed: tuple[int, int], moving: tuple[int, int]) -> bool:
    """Whether the fixed image, a parallelogram in moving pixels, overlaps the moving image.

    Separating axis test: disjoint convex shapes are disjoint along the normal of some edge.
    """

    def corners(shape: tuple[int, int]) -> NDArray[np.float64]:
        unit = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
        return unit * shape - 0.5

    first = corners(fixed) @ affine[:2, :2].T + affine[:2, 2]
    second = corners(moving)
    edges = np.vstack([np.eye(2), affine[:2, :2].T])
    for normal in edges[:, ::-1] * (1, -1):
        one, other = first @ normal, second @ normal
        slack = 1e-9 * max(np.ptp(one), np.ptp(other))
        if one.max() <= other.min() + slack or other.max() <= one.min() + slack:
            return False
    return True
