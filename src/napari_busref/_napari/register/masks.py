"""Labels layers as masks of the valid pixels of an image."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.pair import world_affine
from napari_busref._napari.layers.planes import Plane
from napari_busref._napari.layers.reading import PIXEL_BUDGET, choose_reading
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import onto_levels
from napari_busref.transforms.transform import Transform

__all__ = ["mask_on"]


def mask_on(
    labels: Plane,
    image: Plane,
    grid: Grid,
    *,
    pixels: int = PIXEL_BUDGET,
    cancel: threading.Event | None = None,
) -> NDArray[np.bool_]:
    """Resample labels to the pixels of an image through the world, by the nearest pixel.

    Parameters
    ----------
    labels : Plane
        Of a Labels layer, on any grid.
    image : Plane
        The image to which the labels belong.
    grid : Grid
        Of the image's pixels that are read.
    pixels : int
        Largest number of labels pixels to read.
    cancel : threading.Event, optional
        Checked between blocks.

    Returns
    -------
    ndarray of bool, shape ``grid.shape``
        True where there is any label.

    Raises
    ------
    ValueError
        When no label lies on the image.
    """
    reading = choose_reading(labels, pixels)
    data = reading.read("nearest", cancel)
    through_world = Transform(
        world_affine(image, labels), fixed_shape=image.shape, moving_shape=labels.shape
    )
    # labels reach half a pixel beyond their centres, where `apply` fills in `cval`
    padded = np.pad(data != 0, 1, mode="edge")
    shift = np.eye(3)
    shift[:2, 2] = 1
    onto = onto_levels(through_world, grid, reading.grid)
    to_padded = Transform(shift @ onto.affine, fixed_shape=grid.shape, moving_shape=padded.shape)
    mask = to_padded.apply(padded, order=0) & _within(onto)
    if not mask.any():
        raise ValueError(
            f"labels layer {labels.name!r} marks nothing of image layer {image.name!r}; paint "
            "over the part to be compared, or choose no mask"
        )
    return mask


def _within(transform: Transform) -> NDArray[np.bool_]:
    """Whether the source of each pixel lies on a labels pixel."""
    rows, cols = (np.arange(size) for size in transform.fixed_shape)
    inside = np.ones(transform.fixed_shape, bool)
    for (a, b, c), size in zip(transform.affine[:2], transform.moving_shape, strict=True):
        source = a * rows[:, None] + b * cols[None, :] + c
        inside &= (source >= -0.5) & (source <= size - 0.5)
    return inside
