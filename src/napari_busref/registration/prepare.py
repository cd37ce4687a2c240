"""Check and prepare the two images of a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref.images.nodata import NoData
from napari_busref.images.preprocess import Prepared, as_image, as_mask, fill_invalid, prepare
from napari_busref.transforms.transform import Transform

__all__ = ["Pair", "prepare_pair"]

_MIN_DEVIATION = 1e-3  # of grey values in [0, 1]; below, an image has no texture


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair that is ready to be registered.

    Attributes
    ----------
    fixed, moving : Prepared
    initial : Transform
        Fixed -> moving.
    initial_kind : str
        ``"identity"``, ``"equal field of view"``, ``"points"`` or ``"given"``.
    moving_array : ndarray
        The moving image as given; missing pixels as `as_image` marks them.
    warped : ndarray of float32, shape (H, W)
        Grey values of the moving image by the initial transform, 0 outside `warped_mask`.
    warped_mask : ndarray of bool, shape (H, W)
        The reconstructible mask of the initial transform.
    problem : str or None
        Why the pair cannot be registered.
    """

    fixed: Prepared
    moving: Prepared
    initial: Transform
    initial_kind: str
    moving_array: NDArray[Any]
    warped: NDArray[np.float32]
    warped_mask: NDArray[np.bool_]
    problem: str | None


def prepare_pair(
    fixed: ArrayLike,
    moving: ArrayLike,
    *,
    fixed_mask: ArrayLike | None = None,
    moving_mask: ArrayLike | None = None,
    initial: Transform | tuple[ArrayLike, ArrayLike] | None = None,
    nodata: NoData = "auto",
) -> Pair:
    """Check and prepare the images of a pair; parameters as of `napari_busref.register`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what is accepted.
    """
    moving_array = as_image(moving, "moving", nodata=nodata)
    fixed_array = as_image(fixed, "fixed", nodata=nodata)
    ready_fixed, empty_fixed = _prepare(fixed_array, "fixed", fixed_mask)
    ready_moving, empty_moving = _prepare(moving_array, "moving", moving_mask)
    transform, kind = _initial_transform(initial, ready_fixed.shape, ready_moving.shape)
    return Pair(
        ready_fixed,
        ready_moving,
        transform,
        kind,
        moving_array,
        *_warp(ready_moving, transform),
        empty_fixed or empty_moving or _without_texture(ready_fixed, ready_moving),
    )


def _prepare(
    array: NDArray[Any], name: str, mask: ArrayLike | None
) -> tuple[Prepared, str | None]:
    """The prepared image, and the problem when its mask leaves no valid pixel."""
    if mask is None:
        return prepare(array, name, find_border=True, nodata=None), None
    checked = as_mask(mask, f"{name}_mask", array.shape[:2])
    unmasked = prepare(array, name, find_border=True, nodata=None)
    if not (checked & unmasked.valid).any():
        return unmasked, f"{name}_mask leaves nothing of the {name} image"
    return prepare(array, name, mask=checked, find_border=True, nodata=None), None


def _initial_transform(
    initial: Transform | tuple[ArrayLike, ArrayLike] | None,
    fixed: tuple[int, int],
    moving: tuple[int, int],
) -> tuple[Transform, str]:
    """The initial transform and its kind, see `Pair`."""
    if initial is None:
        kind = "identity" if fixed == moving else "equal field of view"
        return Transform.equal_field_of_view(fixed, moving), kind
    if isinstance(initial, tuple | list) and len(initial) == 2:
        try:
            points = Transform.from_points(*initial, fixed_shape=fixed, moving_shape=moving)
        except (TypeError, ValueError) as error:
            raise ValueError(f"initial: {error}") from None
        return points, "points"
    if not isinstance(initial, Transform):
        raise TypeError(
            f"initial: got {type(initial).__name__}, need a Transform or (fixed points, moving "
            "points)"
        )
    if (initial.fixed_shape, initial.moving_shape) != (fixed, moving):
        raise ValueError(
            f"initial: made for images of shape {initial.fixed_shape} and {initial.moving_shape}, "
            f"but fixed and moving are of shape {fixed} and {moving}"
        )
    return initial, "given"


def _warp(moving: Prepared, initial: Transform) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Grey values and mask of the moving image on the fixed grid."""
    grey = fill_invalid(moving.grey, moving.valid)
    # Moving pixels that one fixed pixel spans. Blur what the coarser grid cannot hold; the sigma
    # is that of skimage.transform.resize.
    span = np.linalg.norm(initial.affine[:2, :2], axis=1)
    sigma = np.maximum(span - 1, 0) / 2
    if sigma.max() > 0.1:
        grey = ndimage.gaussian_filter(grey, sigma, mode="nearest")
    mask = initial.mask(moving.valid)
    warped = initial.apply(grey)
    warped[~mask] = 0
    return warped, mask


def _without_texture(fixed: Prepared, moving: Prepared) -> str | None:
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.grey[image.valid].std(dtype=np.float64) < _MIN_DEVIATION:
            return f"the {name} image has no texture to register"
    return None
