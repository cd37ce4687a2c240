"""Where a registration starts: at a transform that the user made, or at the layers' places.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_busref._napari.layers.pair import Plane, world_affine, world_transform
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["INITIAL_KEY", "keep_initial_transform", "start_source", "initial_transform"]

#: Where a start is kept: ``moving_layer.metadata[INITIAL_KEY]``.
INITIAL_KEY = "napari-busref-start"


def keep_initial_transform(
    layer: Layer, fixed: Plane, moving: Plane, transform: Transform
) -> None:
    """Let the next registration of these two layers start from a transform.

    Parameters
    ----------
    layer : Layer
        The moving layer, which keeps the start until one of the two layers is moved.
    fixed, moving : Plane
        The planes that the transform is for.
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
    """Return where a registration of two layers starts.

    Parameters
    ----------
    layer : Layer
        The moving layer.
    fixed, moving : Plane
        Of the fixed and of the moving layer.

    Returns
    -------
    Transform or None
        What `keep_initial_transform` was given for these two layers, if neither has been moved since; else
        what their places in the world say, see `world_transform`.

    Raises
    ------
    ValueError
        As `world_transform`.
    """
    kept = _kept(layer, fixed, moving)
    return world_transform(fixed, moving) if kept is None else kept


def start_source(layer: Layer, fixed: Plane, moving: Plane) -> Literal["landmarks", "layers"]:
    """Say which of the two `initial_transform` returns."""
    return "layers" if _kept(layer, fixed, moving) is None else "landmarks"


def _kept(layer: Layer, fixed: Plane, moving: Plane) -> Transform | None:
    kept: dict[str, Any] = layer.metadata.get(INITIAL_KEY, {})
    transform = kept.get("transform")
    if (
        isinstance(transform, Transform)
        and kept["fixed"] == fixed.name
        and (transform.fixed_shape, transform.moving_shape) == (fixed.shape, moving.shape)
        and np.allclose(kept["world"], world_affine(fixed, moving), rtol=1e-9, atol=1e-6)
    ):
        return transform
    return None


def _check(transform: Transform, fixed: Plane, moving: Plane) -> None:
    shapes = fixed.shape, moving.shape
    if (transform.fixed_shape, transform.moving_shape) != shapes:
        raise ValueError(
            f"transform: from {transform.fixed_shape} to {transform.moving_shape} pixels, need "
            f"from {shapes[0]} to {shapes[1]}, the sizes of {fixed.name!r} and {moving.name!r}"
        )
