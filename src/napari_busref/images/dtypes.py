"""Number types of arrays: byte order, conversion, read-only copies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def native(image: NDArray[Any]) -> NDArray[Any]:
    """Return an array in this machine's byte order, without a copy where possible."""
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert real values to `dtype`: integers rounded and clipped, bool at one half."""
    dtype = dtype.newbyteorder("=")
    if dtype.kind == "b":
        return values >= 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = float(info.min), float(info.max)
        if high > info.max:  # 64-bit limits round up to a float that no longer fits
            high = float(np.nextafter(high, 0.0))
        return np.clip(np.rint(values), low, high).astype(dtype)
    return values.astype(dtype, copy=False)


def frozen(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return a read-only, contiguous array of `dtype`; a copy unless it already is one."""
    if (
        not array.flags.writeable
        and array.base is None
        and array.flags.c_contiguous
        and array.dtype == np.dtype(dtype)
    ):
        return array
    copy = np.array(array, dtype=dtype, order="C", copy=True)
    copy.flags.writeable = False
    return copy
