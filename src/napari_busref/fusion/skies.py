"""Structure before a bright sky comes from the visible image alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.fusion.cells import cell_means, enlarge

__all__ = ["Sky", "find_sky", "settle_skies", "sky_side"]

Grey = NDArray[np.float32]

_CELLS = 256  # along the shorter side of the coarse grid
_BRIGHT, _DARKER = 0.6, 0.25  # a sky: the visible image above, the infrared one darker by
_WINDOW = 0.02  # of the shorter side: sigma of the window, about the parallax of two cameras
_CONFLICT = (0.25, 0.1)  # correlation of edges: no conflict above the first, full below the second
_STRUCTURE = 0.04  # gradient of the visible image that counts as structure, for each cell
_FLAT = 1e-3  # variance of the visible image below which it explains nothing


def settle_skies(visible: Grey, infrared: Grey) -> Grey:
    """Let the visible image decide on structure before a bright sky.

    A branch that both images show a few pixels apart would become two lines, one dark and one
    bright. Before a sky, bright in the visible image and cold in the infrared one, the infrared
    image is replaced where its edges lie beside those of the visible image. What replaces it is
    its guided filter (He et al. 2013), guided by the visible image: it has the brightness of the
    one and the edges of the other.

    Parameters
    ----------
    visible, infrared : ndarray of float32, shape (H, W)
        In [0, 1].

    Returns
    -------
    ndarray of float32, shape (H, W)
        `infrared` itself where there is no such sky.
    """
    shape = visible.shape[0], visible.shape[1]
    side = sky_side(shape)
    sky = find_sky(cell_means(visible, side), cell_means(infrared, side), side, shape)
    return infrared if sky is None else sky.settle(visible, infrared)


def sky_side(shape: tuple[int, int]) -> int:
    """Side in pixels of the cells in which a sky is found."""
    return max(min(shape) // _CELLS, 1)


@dataclass(frozen=True, eq=False)
class Sky:
    """What replaces the infrared image before a sky: ``slope visible + level + rest infrared``.

    Attributes
    ----------
    slope, level, rest : ndarray of float32, shape (h, w)
        Of each cell.
    side : int
    shape : tuple of int
        (H, W) of the images.
    """

    slope: Grey
    level: Grey
    rest: Grey
    side: int
    shape: tuple[int, int]

    def settle(
        self, visible: Grey, infrared: Grey, window: tuple[slice, slice] | None = None
    ) -> Grey:
        """Replace the infrared image, or a window of both."""
        settled = enlarge(self.slope, self.side, self.shape, window) * visible
        settled += enlarge(self.level, self.side, self.shape, window)
        settled += enlarge(self.rest, self.side, self.shape, window) * infrared
        return settled.clip(0, 1)


def find_sky(v: Grey, r: Grey, side: int, shape: tuple[int, int]) -> Sky | None:
    """Find a sky from the means of the cells of the visible and the infrared image.

    Parameters
    ----------
    v, r : ndarray of float32, shape (h, w)
        Of cells of `side` px.
    side : int
    shape : tuple of int
        (H, W) of the images.
    """
    sigma = max(_WINDOW * min(v.shape), 3.0)

    def blur(image: Grey, width: float = sigma) -> Grey:
        found: Grey = ndimage.gaussian_filter(image, width, mode="nearest", truncate=3)
        return found

    sky = blur(((v > _BRIGHT) & (v - r > _DARKER)).astype(np.float32)) > 0.5
    if not sky.any():
        return None
    near = ndimage.distance_transform_edt(~sky) <= 2 * sigma
    share = blur(near.astype(np.float32), sigma / 2) * blur(_conflict(v, r, blur), sigma / 2)
    mean_v, mean_r = blur(v), blur(r)
    slope = (blur(v * r) - mean_v * mean_r) / (blur(v * v) - mean_v**2 + _FLAT)
    level = blur(mean_r - slope * mean_v)
    return Sky(share * blur(slope), share * level, 1 - share, side, shape)


def _conflict(visible: Grey, infrared: Grey, blur: Callable[[Grey], Grey]) -> Grey:
    """In [0, 1]: 1 where both images have edges in a window, at different places."""
    first, second = (np.hypot(*np.gradient(image)) for image in (visible, infrared))
    mean = blur(first), blur(second)
    power = blur(first**2), blur(second**2)
    spread = (power[0] - mean[0] ** 2) * (power[1] - mean[1] ** 2)
    correlation = (blur(first * second) - mean[0] * mean[1]) / np.sqrt(spread.clip(1e-12))
    none, full = _CONFLICT
    structured = power[0] / (power[0] + _STRUCTURE**2)
    found: Grey = ((none - correlation) / (none - full)).clip(0, 1) * structured
    return found
