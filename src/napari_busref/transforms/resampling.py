"""Interpolation of one channel at any positions, where some pixels are not finite."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.images.preprocess import fill_invalid

EDGE = 1e-4
"""A source this far outside an image still counts as inside, and a bilinear weight this small as
none: displacements are float32, so 1000 px are known to no better than 6e-5 px."""
_INTERPOLATED = {2: np.float32, 4: np.float32}  # bytes of a float: type scipy can interpolate


class Plane:
    """One channel, made ready to be interpolated block by block."""

    def __init__(self, image: NDArray[Any], order: int) -> None:
        self.order = order
        self.lost: NDArray[np.uint8] | None = None
        if image.dtype.kind == "b":
            image = image.astype(np.uint8)
        elif image.dtype.kind == "f":
            image = image.astype(_INTERPOLATED.get(image.dtype.itemsize, np.float64))
            finite = np.isfinite(image)
            if not finite.all():
                self.lost = (~finite).astype(np.uint8)
                # so that splines do not ring
                image = fill_invalid(image, finite) if finite.any() else np.zeros_like(image)
        if order > 1:
            image = ndimage.spline_filter(np.asarray(image, np.float64), order, mode="mirror")
        self.image = image

    def sample(self, source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at (2, rows, W) positions; NaN where a pixel that is not finite is needed."""
        values = ndimage.map_coordinates(
            self.image,
            source,
            np.float64,
            order=self.order,
            mode="nearest" if self.order == 1 else "mirror",
            prefilter=False,
        )
        if self.lost is not None:
            values[touches(self.lost, source)] = np.nan
        return cast(NDArray[np.float64], values)


def touches(lost: NDArray[np.uint8], source: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where bilinear interpolation at `source` would use a lost pixel."""
    weight = ndimage.map_coordinates(lost, source, np.float32, order=1, mode="nearest")
    return cast(NDArray[np.bool_], weight > EDGE)
