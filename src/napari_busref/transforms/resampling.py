"""Interpolate one channel at any positions; some of its pixels may not be finite.

Interpolation computes in float64, for 64-bit integers after subtraction of the smallest value.
Positions at whole pixels take the pixel itself where float64 would round it.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.images.dtypes import cast as cast_dtype
from napari_busref.images.dtypes import float_origin, minus, plus
from napari_busref.images.preprocess import fill_invalid

EDGE = 1e-4
"""Tolerance in pixels: a source this far outside an image is still inside, and a bilinear weight
this small is 0. Displacements are float32, which rounds 1000 px by up to 6e-5 px."""
_WHOLE = 1e-6  # px; a source this near to a pixel centre is that pixel
_WORKING_TYPES = {2: np.float32, 4: np.float32}  # by item size; scipy interpolates no float16


class Plane:
    """One channel, prepared for interpolation block by block."""

    def __init__(self, image: NDArray[Any], order: int) -> None:
        self.order = order
        self.lost: NDArray[np.uint8] | None = None
        self.dtype, self.origin = image.dtype, float_origin(image)
        self.exact = image if self.origin is not None or image.dtype.itemsize > 8 else None
        if image.dtype.kind == "b":
            image = image.astype(np.uint8)
        elif self.origin is not None:
            image = minus(image, self.origin)
        elif image.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):  # beyond float64; signalling NaN
                image = image.astype(_WORKING_TYPES.get(image.dtype.itemsize, np.float64))
            finite = np.isfinite(image)
            if not finite.all():
                self.lost = (~finite).astype(np.uint8)
                # filled, because splines would ring at a step
                image = fill_invalid(image, finite) if finite.any() else np.zeros_like(image)
        if order > 1:
            image = ndimage.spline_filter(np.asarray(image, np.float64), order, mode="mirror")
        self.image = image

    def sample(self, source: NDArray[np.float64]) -> NDArray[Any]:
        """Interpolate at (2, rows, W) positions; NaN where a neighbour is not finite.

        The result has the type of the image, and is rounded and clipped.
        """
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
        if self.origin is None:
            result = cast_dtype(values, self.dtype)
        else:
            result = plus(np.full(values.shape, self.origin, self.dtype), values)
        if self.exact is None:
            return result
        nearest = np.rint(source)
        whole = (np.abs(source - nearest) < _WHOLE).all(0)
        rows, cols = (
            np.clip(index[whole], 0, size - 1).astype(np.intp)
            for index, size in zip(nearest, self.exact.shape, strict=True)
        )
        result[whole] = self.exact[rows, cols]
        return result


def touches(lost: NDArray[np.uint8], source: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find where bilinear interpolation at `source` uses a lost pixel."""
    weight = ndimage.map_coordinates(lost, source, np.float32, order=1, mode="nearest")
    return cast(NDArray[np.bool_], weight > EDGE)
