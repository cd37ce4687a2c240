"""Number types of arrays: byte order, conversion, read-only copies."""

from __future__ import annotations

from numbers import Real
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


def default_fill(dtype: Any) -> float:
    """Return the value of pixels without content: NaN for floats, else 0."""
    return np.nan if np.dtype(dtype).kind == "f" else 0.0


def checked_fill(value: Any, dtype: np.dtype[Any], name: str) -> float:
    """Check the value of pixels without content.

    Parameters
    ----------
    value : float or None
        None is `default_fill`.
    dtype : numpy.dtype
        Of the image that holds it. Integers are rounded.
    name : str
        The argument in error messages.

    Raises
    ------
    ValueError
        When it is no number, or `dtype` cannot hold it.
    """
    if value is None:
        return default_fill(dtype)
    if not isinstance(value, Real | np.number) or isinstance(value, bool | np.complexfloating):
        raise ValueError(f"{name}: got {value!r}, need a number")
    number = float(value)
    if dtype.kind == "f":
        if np.isfinite(number) and abs(number) > float(np.finfo(dtype).max):
            raise ValueError(f"{name}: got {value!r}, which {dtype} cannot hold")
        return number
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not low <= number <= high:
        raise ValueError(f"{name}: got {value!r}, which {dtype} cannot hold, need {low} to {high}")
    return number


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
