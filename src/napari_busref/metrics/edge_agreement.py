"""Correlation of the edge directions of two images, independent of the sign of contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.images.preprocess import fill_invalid

__all__ = ["EdgeAgreement", "edge_agreement", "edge_correlation"]

_MAX_SIDE = 512  # of the compared images, in pixels
_MIN_SIDE = 64  # strips longer than 8 : 1 stay larger, else their borders would be all there is
_MAX_PIXELS = 4 * _MAX_SIDE**2  # of strips
_BLUR = 1.5  # px, at that size
_MIN_PIXELS = 200  # of a comparison
_SHIFTS = tuple((row / 5, col / 5) for row in range(5) for col in range(5) if (row, col) != (0, 0))


@dataclass(frozen=True)
class EdgeAgreement:
    """Correlation of edge directions, and its distribution by chance.

    Attributes
    ----------
    value : float
        In [-1, 1]; 1 for equal images, also when one is inverted.
    chance, spread : float
        Mean and standard deviation over copies shifted by large amounts.
    """

    value: float
    chance: float
    spread: float

    @property
    def excess(self) -> float:
        """Standard deviations above chance."""
        return (self.value - self.chance) / max(self.spread, 0.01)


def edge_agreement(
    fixed: NDArray[np.float32], warped: NDArray[np.float32], mask: NDArray[np.bool_]
) -> EdgeAgreement | None:
    """Correlate the edge directions of two images, independent of the sign of contrast.

    Gradients g of the blurred images are doubled in angle and flattened,
    ``v = (gr² - gc², 2 gr gc) / (|g|² + median |g|²)``. Doubling the angle makes both signs of
    contrast equal; flattening keeps strong edges from outweighing the rest. The value is the
    normalised correlation of v over the mask. Copies of the warped image, rolled by multiples of
    a fifth of the image, give the distribution by chance.

    Parameters
    ----------
    fixed, warped : ndarray of float32, shape (H, W)
        Grey values on one grid.
    mask : ndarray of bool, shape (H, W)
        Where both are valid.

    Returns
    -------
    EdgeAgreement or None
        None with too few pixels or without edges.
    """
    edges = _edges(fixed, warped, mask)
    value = None if edges is None else _correlation(*edges)
    if edges is None or value is None:
        return None
    first, second = edges
    by_chance = []
    for row, col in _SHIFTS:
        shift = (round(row * first.mask.shape[0]), round(col * first.mask.shape[1]))
        found = _correlation(first, second.roll(shift))
        if found is not None:
            by_chance.append(found)
    if len(by_chance) < 4:
        return EdgeAgreement(value, 0.0, 0.05)
    return EdgeAgreement(value, float(np.mean(by_chance)), float(np.std(by_chance)))


def edge_correlation(
    fixed: NDArray[np.float32], warped: NDArray[np.float32], mask: NDArray[np.bool_]
) -> float | None:
    """Return `EdgeAgreement.value` alone; parameters as in `edge_agreement`."""
    edges = _edges(fixed, warped, mask)
    return None if edges is None else _correlation(*edges)


@dataclass(frozen=True, eq=False)
class _Edges:
    """Edge directions of one image, (2, H, W), and their power; 0 outside the mask."""

    directions: NDArray[np.float32]
    power: NDArray[np.float32]
    mask: NDArray[np.float32]

    def roll(self, shift: tuple[int, int]) -> _Edges:
        parts = (self.directions, self.power, self.mask)
        return _Edges(*(np.roll(part, shift, (-2, -1)) for part in parts))


def _edges(
    fixed: NDArray[np.float32], warped: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[_Edges, _Edges] | None:
    if not mask.any():
        return None
    # crop to the mask: a small overlap and its shifted copies would not overlap in the whole image
    part = ndimage.find_objects(mask.astype(np.uint8))[0]
    fixed, warped, mask = fixed[part], warped[part], mask[part]
    height, width = mask.shape
    room = (_MAX_PIXELS / (height * width)) ** 0.5
    strip = min(_MIN_SIDE / min(height, width), room)
    shrink = min(1.0, max(_MAX_SIDE / max(height, width), strip))
    size = (max(round(height * shrink), 1), max(round(width * shrink), 1))
    small = _resize(mask.astype(np.float32), size) > 0.99
    # near the border of the mask the gradient includes filled pixels
    kept = ndimage.binary_erosion(small, iterations=4).astype(np.float32)
    both = []
    for image in fill_invalid(np.stack([_resize(i, size) for i in (fixed, warped)]), small):
        directions = _directions(image) * kept
        both.append(_Edges(directions, (directions**2).sum(0), kept))
    return both[0], both[1]


def _resize(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if size == image.shape:
        return image
    from skimage.transform import resize  # here: a panel of napari opens without it

    smaller: NDArray[np.float32] = resize(image, size, order=1, anti_aliasing=True)
    return smaller


def _directions(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradients doubled in angle and flattened, (2, H, W)."""
    row, col = (ndimage.gaussian_filter(image, _BLUR, order) for order in ((1, 0), (0, 1)))
    power = row**2 + col**2
    # 1e-6: a step of a thousandth of the grey range per pixel does not count as an edge
    doubled: NDArray[np.float32] = np.stack([row**2 - col**2, 2 * row * col])
    return doubled / (power + max(float(np.median(power)), 1e-6))


def _correlation(first: _Edges, second: _Edges) -> float | None:
    """Normalised correlation over the pixels of both masks."""
    if np.vdot(first.mask, second.mask) < _MIN_PIXELS:
        return None
    norm = np.sqrt(np.vdot(first.power, second.mask) * np.vdot(first.mask, second.power))
    return float(np.vdot(first.directions, second.directions) / norm) if norm > 1e-3 else None
