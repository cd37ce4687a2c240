"""Number types of arrays: byte order, conversion, read-only copies."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT = 1 << 53  # float64 holds all integers up to it
AUTOMATIC = "automatic"
"""Text that stands for `default_fill`."""


def native(image: NDArray[Any]) -> NDArray[Any]:
    """Return an array in this machine's byte order, without a copy where possible."""
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert real values to `dtype`: rounded and clipped; bool is cut at one half."""
    dtype = dtype.newbyteorder("=")
    if dtype.kind == "b":
        return values >= 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = float(info.min), float(info.max)
        if high > info.max:  # 64-bit limits round up to a float that no longer fits
            high = float(np.nextafter(high, 0.0))
        return np.clip(np.rint(values), low, high).astype(dtype)
    if dtype.itemsize < values.dtype.itemsize:
        limit = np.finfo(dtype).max
        if (np.abs(values) > limit).any():
            values = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    return values.astype(dtype, copy=False)


def float_origin(values: NDArray[Any]) -> int | None:
    """Return the smallest value where float64 would round some of them, else None."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not values.size:
        return None
    low, high = int(values.min()), int(values.max())
    return None if max(-low, high) <= _EXACT else low


def minus(values: NDArray[Any], origin: int | None) -> NDArray[Any]:
    """Subtract an integer from 64-bit integers, then convert to float64.

    Without an origin, `values` are returned as they are.
    """
    if origin is None:
        return values
    start = values.dtype.type(origin)
    unsigned = values.astype(np.uint64), start.astype(np.uint64)
    above, below = (unsigned[0] - unsigned[1]).astype(float), (unsigned[1] - unsigned[0])
    return np.where(values >= start, above, -below.astype(float))


def plus(values: NDArray[Any], change: NDArray[Any]) -> NDArray[Any]:
    """Add floats to values of any type and `cast` the sum; 64-bit integers stay exact."""
    dtype = values.dtype
    if dtype.kind not in "iu" or dtype.itemsize < 8:
        return cast(values.astype(np.float64) + change, dtype)
    bits = values.astype(np.uint64)
    low, high = (np.array(limit, dtype).astype(np.uint64) for limit in _limits(dtype))
    up, down = (
        np.where(step < 2.0**64, cast(step, bits.dtype), room).clip(max=room)
        for step, room in ((change, high - bits), (-change, bits - low))
    )
    return (bits + up - down).astype(dtype)


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def default_fill(dtype: Any) -> float:
    """Return the value of pixels without content: NaN for floats, else 0."""
    return np.nan if np.dtype(dtype).kind == "f" else 0.0


def checked_fill(value: Any, dtype: np.dtype[Any], name: str) -> float | int:
    """Check the value of pixels without content.

    Parameters
    ----------
    value : float or None
        None is `default_fill`.
    dtype : numpy.dtype
        Of the image that holds it.
    name : str
        The argument in error messages.

    Returns
    -------
    float or int
        Rounded for integers, and 0 or 1 for bool.

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
    low, high = (0, 1) if dtype.kind == "b" else _limits(dtype)
    if not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name}: got {value!r}, which {dtype} cannot hold, need {low} to {high}")
    if isinstance(value, Integral):
        return int(value)
    return int(number >= 0.5) if dtype.kind == "b" else min(int(np.rint(number)), high)


def parse_fill(text: str | float | None) -> float | None:
    """Read the value of pixels without content that a user typed.

    Parameters
    ----------
    text : str, float or None
        ``"automatic"``, empty or None is None; ``"nan"`` is a number.

    Raises
    ------
    ValueError
        For any other text.
    """
    if not isinstance(text, str):
        return text
    if text.strip().lower() in ("", AUTOMATIC):
        return None
    try:
        return int(text)  # 64-bit integers stay exact
    except ValueError:
        pass
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"fill value: got {text!r}, need a number, nan or {AUTOMATIC}") from None


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
