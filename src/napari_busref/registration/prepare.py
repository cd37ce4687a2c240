"""Check and prepare the two images of a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref.images.nodata import NoData
from napari_busref.images.preprocess import (
    Prepared,
    as_image,
    as_mask,
    fill_invalid,
    filled,
    prepare,
    specks,
)
from napari_busref.transforms.transform import Transform

__all__ = ["Pair", "initial_transform", "prepare_pair"]

_MIN_WORKING_SIDE = 512  # px; smaller fixed images keep their grid
_MAX_SUBPIXELS = 4  # 2, 4 and 8 leave 0.64, 0.43 and 0.46 thermal px (benchmarks/large_field.py)
_MIN_DEVIATION = 1e-3  # of grey values in [0, 1]; below, an image has no texture


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair that is ready to be registered.

    Attributes
    ----------
    fixed : Prepared
        The fixed image on the working grid: its own, or a coarser one (`_working_shape`).
    shape : tuple of int
        (H, W) of the fixed image as given.
    moving : Prepared
        The nearest values fill the `specks` of both images, which are valid here.
    initial : Transform
        Fixed -> moving, from the fixed image as given.
    initial_kind : str
        ``"identity"``, ``"equal field of view"``, ``"points"`` or ``"given"``.
    moving_array : ndarray
        The moving image as given; missing pixels as `as_image` marks them.
    moving_valid : ndarray of bool, shape of `moving_array`
        Its valid pixels, without specks.
    warped : ndarray of float32, shape of `fixed`
        Grey values of the moving image by the initial transform, 0 outside `warped_mask`.
    warped_mask : ndarray of bool, shape of `fixed`
        The reconstructible mask of the initial transform.
    problem : str or None
        Why the pair cannot be registered.
    """

    fixed: Prepared
    shape: tuple[int, int]
    moving: Prepared
    initial: Transform
    initial_kind: str
    moving_array: NDArray[Any]
    moving_valid: NDArray[np.bool_]
    warped: NDArray[np.float32]
    warped_mask: NDArray[np.bool_]
    problem: str | None

    def on_working_grid(self, transform: Transform) -> Transform:
        """A transform of the fixed image as given, for its working grid."""
        return _on_grid(transform, self.fixed.shape)


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
    ready_fixed, _, empty_fixed = _prepare(fixed_array, "fixed", fixed_mask)
    ready_moving, moving_valid, empty_moving = _prepare(moving_array, "moving", moving_mask)
    shape = ready_fixed.shape
    transform, kind = initial_transform(initial, shape, ready_moving.shape)
    problem = empty_fixed or empty_moving or _without_texture(ready_fixed, ready_moving)
    ready_fixed = _shrink(ready_fixed, _working_shape(shape, transform))
    return Pair(
        ready_fixed,
        shape,
        ready_moving,
        transform,
        kind,
        moving_array,
        moving_valid,
        *_warp(ready_moving, _on_grid(transform, ready_fixed.shape)),
        problem,
    )


def _prepare(
    array: NDArray[Any], name: str, mask: ArrayLike | None
) -> tuple[Prepared, NDArray[np.bool_], str | None]:
    """The prepared image without specks, its valid pixels with them, and the problem.

    A coarse pyramid level takes a pixel with an invalid part as invalid: 2 % of dead pixels would
    leave a quarter of it. What a mask excludes is no speck.
    """
    ready, problem = prepare(array, name, find_border=True, nodata=None), None
    holes = specks(ready.valid)
    if mask is not None:
        checked = as_mask(mask, f"{name}_mask", array.shape[:2])
        if (checked & ready.valid).any():
            ready = prepare(array, name, mask=checked, find_border=True, nodata=None)
            holes &= checked
        else:
            problem = f"{name}_mask leaves nothing of the {name} image"
    return filled(ready, holes), ready.valid, problem


def initial_transform(
    initial: Transform | tuple[ArrayLike, ArrayLike] | None,
    fixed: tuple[int, int],
    moving: tuple[int, int],
) -> tuple[Transform, str]:
    """Check an initial transform; return it and its kind, see `Pair`."""
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


def _working_shape(shape: tuple[int, int], initial: Transform) -> tuple[int, int]:
    """The size at which a fixed image is registered and assessed.

    That of a square of `MAX_SIDE` at most. Where one moving pixel spans many fixed pixels, as in
    a drone's thermal camera, each is divided into `_MAX_SUBPIXELS` on each side at most.
    """
    from napari_busref.registration.pyramid import MAX_SIDE, working_size

    full = (shape[0] * shape[1]) ** 0.5
    moving_pixels = full * float(np.linalg.norm(initial.affine[:2, :2], axis=0).max())
    side = min(max(moving_pixels * _MAX_SUBPIXELS, _MIN_WORKING_SIDE), MAX_SIDE)
    return shape if full <= side else working_size(shape, side)


def _shrink(image: Prepared, shape: tuple[int, int]) -> Prepared:
    """An image on a coarser grid. A pixel with an invalid part is invalid."""
    if shape == image.shape:
        return image
    import torch

    from napari_busref.registration.pyramid import MaskedImage

    grey, valid = (
        torch.from_numpy(values)[None, None]
        for values in (fill_invalid(image.grey, image.valid), image.valid.astype(np.float32))
    )
    small = MaskedImage(grey, valid).resize(shape)
    kept = small.valid.numpy()[0, 0] > 0
    return Prepared(np.where(kept, small.image.numpy()[0, 0], 0), kept, image.scale)


def _on_grid(transform: Transform, shape: tuple[int, int]) -> Transform:
    """The same transform for the fixed image resized to a shape: equal at the pixels there."""
    if shape == transform.fixed_shape:
        return transform.with_spacing(1)
    step = np.array(transform.fixed_shape) / shape
    onto = np.diag([*step, 1.0])  # from the new pixels to those of the fixed image
    onto[:2, 2] = (step - 1) / 2
    affine, displacement = transform.affine @ onto, None
    if transform.displacement is not None:
        grid = np.moveaxis(np.indices(shape, float), 0, -1)
        there = transform.points(grid @ onto[:2, :2] + onto[:2, 2]) - affine[:2, 2]
        displacement = np.moveaxis(there @ np.linalg.inv(affine[:2, :2]).T - grid, -1, 0)
    return Transform(affine, displacement, fixed_shape=shape, moving_shape=transform.moving_shape)


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
