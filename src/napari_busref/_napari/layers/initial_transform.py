"""The initial transform of two layers: the one kept for them, or that of their positions.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_busref._napari.layers.pair import Plane, world_affine, world_transform
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["INITIAL_KEY", "initial_transform", "keep_initial_transform"]

#: The kept transform is in ``moving_layer.metadata[INITIAL_KEY]``.
INITIAL_KEY = "napari-busref-start"


def keep_initial_transform(
    layer: Layer, fixed: Plane, moving: Plane, transform: Transform
) -> None:
    """Keep a transform from which the next registration of two layers starts.

    Parameters
    ----------
    layer : Layer
        The moving layer. The transform is void once one of the two layers moves.
    fixed, moving : Plane
        Planes of the two layers.
    transform : Transform
        From fixed to moving pixels.
    """
    _check(transform, fixed, moving)
    layer.metadata[INITIAL_KEY] = {
        "transform": transform,
        "fixed": fixed.name,
        "world": world_affine(fixed, moving),
    }


def initial_transform(layer: Layer, fixed: Plane, moving: Plane) -> Transform | None:
    """Return the initial transform for a registration of two layers.

    Parameters
    ----------
    layer : Layer
        The moving layer.
    fixed, moving : Plane
        Planes of the two layers.

    Returns
    -------
    Transform or None
        The one from `keep_initial_transform`, unless a layer has moved since; else
        `world_transform`.

    Raises
    ------
    ValueError
        As `world_transform`.
    """
    kept: dict[str, Any] = layer.metadata.get(INITIAL_KEY, {})
    transform = kept.get("transform")
    if (
        isinstance(transform, Transform)
        and kept["fixed"] == fixed.name
        and (transform.fixed_shape, transform.moving_shape) == (fixed.shape, moving.shape)
        and np.allclose(kept["world"], world_affine(fixed, moving), rtol=1e-9, atol=1e-6)
    ):
        return transform
    return world_transform(fixed, moving)


def _check(transform: Transform, fixed: Plane, moving: Plane) -> None:
    shapes = fixed.shape, moving.shape
    if (transform.fixed_shape, transform.moving_shape) != shapes:
        raise ValueError(
            f"transform: from {transform.fixed_shape} to {transform.moving_shape} pixels, need "
            f"from {shapes[0]} to {shapes[1]}, the sizes of {fixed.name!r} and {moving.name!r}"
        )
