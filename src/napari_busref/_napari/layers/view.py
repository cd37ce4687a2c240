"""The part of a layer that a viewer shows. Needs no Qt."""

from __future__ import annotations

import numpy as np
from napari.layers import Image

from napari_busref._napari.layers.planes import Plane

__all__ = ["view_window"]

_VIEW_MARGIN = 1 / 8  # of the view, read around it


def view_window(layer: Image, plane: Plane) -> tuple[slice, slice] | None:
    """Return the part of a plane that napari last drew, with a margin.

    Parameters
    ----------
    layer : Image
        The layer of `plane`; it may be hidden.
    plane : Plane

    Returns
    -------
    tuple of slice or None
        Rows and columns at full resolution; None when nothing was drawn yet.
    """
    corners = np.asarray(layer.corner_pixels, dtype=float)[:, list(plane.axes)]
    factors = np.ones(2)
    if layer.multiscale:
        factors = np.asarray(layer.downsample_factors, float)[layer.data_level][list(plane.axes)]
    first, last = corners[0] * factors, (corners[1] + 1) * factors
    if (last - first < 2).any():
        return None
    margin = (last - first) * _VIEW_MARGIN
    shape = np.array(plane.shape)
    first = np.clip(np.floor(first - margin), 0, shape - 1).astype(int)
    last = np.clip(np.ceil(last + margin), first + 1, shape).astype(int)
    return slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))
