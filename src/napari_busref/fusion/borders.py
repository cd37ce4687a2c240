"""Join the fused area with the visible image around it, without a step in brightness."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.fusion.cells import cell_means, enlarge
from napari_busref.fusion.tiling import cut

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["border_side", "border_steps", "continued", "fade"]

Grey = NDArray[np.float32]

_WEIGHT_SIDE = 512  # px, of tiles for the distances to the border of the mask
_CELLS = 160  # along the longer side of the grid on which the step is solved
_SMALLEST_CELL = 4  # px; single dead pixels then make no border
_REACH = 1 / 3  # of the mask's side: how far the brightness of the surroundings is carried
_EDGE = 0.1  # steps of brightness above this, of a range of 1, hold it back
_FIT = 10.0  # weight of the step at the border


def fade(mask: NDArray[np.bool_], feather: float) -> Grey:
    """Weight of the fused image: 1 well inside the mask, 0 outside, a smooth step between.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Where the fused image is valid.
    feather : float
        Width of the step in pixels, inside the mask.
    """
    if feather == 0 or mask.all() or not mask.any():
        return mask.astype(np.float32)
    weight = np.zeros(mask.shape, np.float32)
    for tile in cut(mask.shape, _WEIGHT_SIDE, math.ceil(feather) + 1):
        part = mask[tile.padded]  # holds whatever is near enough to count
        if part.all():
            weight[tile.core] = 1
        elif part.any():
            distance = ndimage.distance_transform_edt(part)[tile.inner]
            ramp = np.minimum(distance / (feather + 1), 1).astype(np.float32)
            weight[tile.core] = ramp * ramp * (3 - 2 * ramp)
    return weight


def continued(change: Grey, visible: Grey, mask: NDArray[np.bool_]) -> Grey:
    """Carry the brightness of the visible image across the border of the mask.

    Subtracts from the change a smooth image that equals it at the border of the mask, and fades
    out inside. The fused image then starts with the brightness that it meets. The smooth image h
    minimises a screened Poisson energy (Bhat et al., ECCV 2008)::

        sum over neighbours of w (h_i - h_j)²  +  sum of (h / reach)²
        + 10 times the sum over the border of (h - change)²

    ``w = 1 / (1 + (step / 0.1)²)`` falls with the step of both images between two neighbours. A
    sky at the border therefore lifts the whole sky, and not the building before it. The grid has
    160 cells along the longer side. The edge of the image is no border.

    Parameters
    ----------
    change : ndarray of float32, shape (H, W)
        Fused minus visible brightness.
    visible : ndarray of float32, shape (H, W)
        In [0, 1].
    mask : ndarray of bool, shape (H, W)
        Where the infrared image has content.

    Returns
    -------
    ndarray of float32, shape (H, W)
        `change` itself where the mask has no border.
    """
    shape = mask.shape[0], mask.shape[1]
    side = border_side(shape)
    step, before = (cell_means(image, side, mask) for image in (change, visible))
    found = border_steps(cell_means(mask, side), step, before, side, int(mask.sum()))
    return change if found is None else change - enlarge(found, side, shape)


def border_side(shape: tuple[int, int]) -> int:
    """Side in pixels of the cells in which the step at the border is solved."""
    return max(-(-max(shape) // _CELLS), _SMALLEST_CELL)


def border_steps(coverage: Grey, step: Grey, before: Grey, side: int, covered: int) -> Grey | None:
    """Solve the smooth image of `continued` on cells.

    Parameters
    ----------
    coverage : ndarray of float32, shape (h, w)
        Share of the pixels of each cell inside the mask.
    step, before : ndarray of float32, shape (h, w)
        Means over these pixels: of the change, and of the visible image.
    side : int
        Of a cell, in pixels.
    covered : int
        Pixels inside the mask.

    Returns
    -------
    ndarray of float32, shape (h, w), or None
        None where the mask has no border.
    """
    from scipy import sparse  # here: a panel of napari opens without it
    from scipy.sparse.linalg import spsolve

    inside = coverage > 0.5
    border = inside & ~ndimage.binary_erosion(inside, border_value=1)
    if not border.any():
        return None
    step, before = step[inside], before[inside]
    reach = max(_REACH * np.sqrt(covered) / side, 1.0)
    stiffness = sparse.diags(np.where(border[inside], _FIT, 0))
    matrix = _smoothness(inside, before, before + step) + stiffness
    matrix += sparse.identity(len(step)) / reach**2
    found = np.zeros(inside.shape)
    found[inside] = spsolve(matrix.tocsc(), stiffness @ step)
    # cells outside continue the nearest one, for the interpolation at the border
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    result: Grey = found[tuple(nearest)].astype(np.float32)
    return result


def _smoothness(inside: NDArray[np.bool_], *images: NDArray[np.float32]) -> csr_array:
    """Matrix of the weighted Laplacian between the cells of an area.

    Parameters
    ----------
    inside : ndarray of bool, shape (h, w)
        The area, of n cells.
    *images : ndarray, shape (n,)
        A step of any of them lowers the weight between two cells.
    """
    from scipy import sparse

    number = np.zeros(inside.shape, int)
    number[inside] = np.arange(inside.sum())
    pairs = []
    for numbers, area in ((number, inside), (number.T, inside.T)):
        both = area[:-1] & area[1:]
        pairs.append((numbers[:-1][both], numbers[1:][both]))
    one, other = np.concatenate(pairs, 1)
    steps = sum((image[one] - image[other]) ** 2 for image in images)
    weights = 1 / (1 + steps / _EDGE**2)
    ends = np.concatenate([one, other]), np.concatenate([other, one])
    twice = np.concatenate([weights, weights])
    n = int(inside.sum())
    links = sparse.csr_array((twice, ends), shape=(n, n))
    return sparse.diags(np.bincount(ends[0], twice, n)) - links
