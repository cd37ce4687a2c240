"""Layers as aligned pairs to train on. Needs neither Qt nor a viewer with a window."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from napari_busref._napari.layers.pair import world_affine
from napari_busref._napari.layers.plane_pairs import single_pair, stack_pairs
from napari_busref._napari.layers.planes import Plane, comparable, shown_plane
from napari_busref._napari.layers.reading import choose_reading
from napari_busref._napari.layers.trades import worded
from napari_busref.training.finetuning.pairs import AlignedPair

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

__all__ = ["layer_pairs"]

_TOLERANCE = 0.5  # px between the corners of aligned layers, at most


def layer_pairs(fixed: Image, moving: Image, viewer: ViewerModel) -> list[AlignedPair]:
    """Return the aligned pairs of two layers on one grid.

    Parameters
    ----------
    fixed, moving : Image
        A stack gives a pair for every plane. Reads no pixels.
    viewer : ViewerModel
        Determines which dimensions are rows and columns.

    Returns
    -------
    list of AlignedPair

    Raises
    ------
    ValueError
        When both are the same layer, or differ in size or position.
    """
    if fixed == moving:
        both = worded("both the {fixed_image} and the {moving_image}")
        raise ValueError(f"layer {fixed.name!r} cannot be {both}")
    one, other = shown_plane(fixed, viewer), shown_plane(moving, viewer)
    _check_aligned(one, other)
    stack = any(plane.sizes[axis] > 1 for plane in (one, other) for axis in plane.hidden)
    pairs = (stack_pairs if stack else single_pair)(one, other)
    return [
        AlignedPair(
            f"{fixed.name}{list(position) if stack else ''}", _reader(*pairs.by_position[position])
        )
        for position in sorted(pairs.by_position)
    ]


def _check_aligned(fixed: Plane, moving: Plane) -> None:
    remedy = (
        "; train on aligned pairs, such as a fixed layer and the warped layer that Register "
        "and fuse adds"
    )
    if fixed.shape != moving.shape:
        sizes = [f"{rows} x {cols} px" for rows, cols in (fixed.shape, moving.shape)]
        raise ValueError(
            f"layers {fixed.name!r} and {moving.name!r} have {sizes[0]} and {sizes[1]}{remedy}"
        )
    if not all(map(comparable, fixed.units, moving.units)):
        return
    rows, cols = fixed.shape
    corners = np.array([[0, 0, 1], [0, cols, 1], [rows, 0, 1], [rows, cols, 1]])
    distances = corners @ (world_affine(fixed, moving) - np.eye(3)).T
    if np.abs(distances).max() > _TOLERANCE:
        raise ValueError(
            f"layers {fixed.name!r} and {moving.name!r} do not cover each other in the viewer"
            + remedy
        )


def _reader(fixed: Plane, moving: Plane) -> Callable[[], tuple[NDArray[Any], NDArray[Any]]]:
    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        one, other = choose_reading(fixed).read(), choose_reading(moving).read()
        if one.shape[:2] != other.shape[:2]:  # only one of two large layers is a pyramid
            shape = (*one.shape[:2], *other.shape[2:])
            other = resize(other, shape, order=1, preserve_range=True).astype(other.dtype)
        return one, other

    return read
