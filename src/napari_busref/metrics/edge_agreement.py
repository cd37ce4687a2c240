"""Agreement of the edge directions of two images, whatever the sign of their contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

from napari_busref.images.preprocess import fill_invalid

__all__ = ["EdgeAgreement", "edge_agreement", "edge_correlation"]


_SIDE = 512  # edges are compared on images whose longer side is at most this


_BLUR = 1.5  # px, at that size


_FEWEST = 200  # pixels that a comparison needs


_SHIFTS = tuple((row / 5, col / 5) for row in range(5) for col in range(5) if (row, col) != (0, 0))


@dataclass(frozen=True)
class EdgeAgreement:
    """How well the edges of two images agree, and how well they do by chance.

    Attributes
    ----------
    value : float
        In [-1, 1]; 1 for equal images, also when one is inverted.
    chance, spread : float
        Mean and standard deviation for copies shifted by large amounts.
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
    """Compare the directions of the edges of two images, whatever the sign of their contrast.

    Gradients g of the blurred images are doubled in angle and flattened,
    ``v = (gr² - gc², 2 gr gc) / (|g|² + median |g|²)``, so that a bright and a dark side count
    the same and strong edges do not outweigh the rest. The result is the normalised correlation
    of v over the mask. Chance is measured on copies of the warped image that are rolled by
    multiples of a fifth of the image.

    Parameters
    ----------
    fixed, warped : ndarray of float32, shape (H, W)
        Grey values on one grid.
    mask : ndarray of bool, shape (H, W)
        Where both hold content.

    Returns
    -------
    EdgeAgreement or None
        None when there are too few pixels to compare, or no edges.
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
    """`EdgeAgreement.value` alone; parameters as of `edge_agreement`."""
    edges = _edges(fixed, warped, mask)
    return None if edges is None else _correlation(*edges)


@dataclass(frozen=True, eq=False)
class _Edges:
    """Directions of the edges of one image, (2, H, W), and their power; 0 outside the mask."""

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
    # only where the mask is: copies of a small overlap, shifted by much, share nothing with it
    part = ndimage.find_objects(mask.astype(np.uint8))[0]
    fixed, warped, mask = fixed[part], warped[part], mask[part]
    height, width = mask.shape
    shrink = min(1.0, _SIDE / max(height, width))
    size = (max(round(height * shrink), 1), max(round(width * shrink), 1))
    small = _resize(mask.astype(np.float32), size) > 0.99
    # away from the mask's border, where the gradient sees what was filled in
    kept = ndimage.binary_erosion(small, iterations=4).astype(np.float32)
    both = []
    for image in fill_invalid(np.stack([_resize(i, size) for i in (fixed, warped)]), small):
        directions = _directions(image) * kept
        both.append(_Edges(directions, (directions**2).sum(0), kept))
    return both[0], both[1]


def _resize(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if size == image.shape:
        return image
    smaller: NDArray[np.float32] = resize(image, size, order=1, anti_aliasing=True)
    return smaller


def _directions(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradients doubled in angle and flattened, (2, H, W)."""
    row, col = (ndimage.gaussian_filter(image, _BLUR, order) for order in ((1, 0), (0, 1)))
    power = row**2 + col**2
    # 1e-6: a thousandth of the grey range for one pixel is no edge
    doubled: NDArray[np.float32] = np.stack([row**2 - col**2, 2 * row * col])
    return doubled / (power + max(float(np.median(power)), 1e-6))


def _correlation(first: _Edges, second: _Edges) -> float | None:
    """Normalised correlation over the pixels that are in both masks."""
    if np.vdot(first.mask, second.mask) < _FEWEST:
        return None
    norm = np.sqrt(np.vdot(first.power, second.mask) * np.vdot(first.mask, second.power))
    return float(np.vdot(first.directions, second.directions) / norm) if norm > 1e-3 else None
