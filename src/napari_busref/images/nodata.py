"""Values that stand for missing pixels: given, or recognised in the image."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NoData",
    "check_nodata",
    "find_nodata",
    "mark_missing",
    "mark_nodata",
    "match_nodata",
    "parse_nodata",
]

NoData = float | Literal["auto"] | None
"""A value, ``"auto"`` (recognise it) or None (every number is content)."""

_KNOWN_VALUES = {-32768.0, -32767.0, -2147483648.0, -2147483647.0}
_NINES = re.compile(r"-?9{3,}(\.9+)?$")
_HALF_9999 = float(np.float16(-9999))
_HUGE = 1e10  # 1e20 and ±3.4e38 mark missing pixels; no camera measures as much
_UNKNOWN_GAP = 1000  # ranges of the rest between it and a repeated value that no list names
_MIN_COUNT = 16  # pixels of a value that could also be content
_MIN_BORDER = 0.01  # share of the image that a value at its edge covers
_MIN_REST = 0.1  # share of the pixels that must have other values
_RANGE = (0.1, 99.9)  # percentiles
_MAX_SAMPLES = 1 << 20


def check_nodata(value: Any, argument: str = "nodata") -> NoData:
    """Return a number as float, ``"auto"`` or None.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    if value is None or (isinstance(value, str) and value == "auto"):
        return value  # type: ignore[return-value]
    need = 'need a number, "auto" or None'
    if isinstance(value, str):
        raise ValueError(f"{argument}: got {value!r}, {need}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{argument}: got {type(value).__name__}, {need}") from None


def parse_nodata(text: str) -> float | None:
    """Read the text of GDAL's tag 42113; None when it is no number."""
    try:
        return float(text.strip().strip("\0").strip().replace(",", "."))
    except ValueError:
        return None


def match_nodata(image: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Find the pixels that hold a value, shape (H, W).

    Large floats match to 1e-5, because programs shorten 3.4028235e38. In colour, one channel is
    enough; 0 and the values of 8 bits are also colours, so there all channels must match.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, 3 or 4)
    value : float
    """
    colours = image[..., :3] if image.ndim == 3 else image
    found = _equals(colours, value)
    if image.ndim == 2:
        return found
    everywhere = value == 0 or image.dtype.itemsize == 1
    return np.asarray(found.all(-1) if everywhere else found.any(-1))


def find_nodata(image: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> list[float]:
    """Recognise values that mark missing pixels by their number and their distance.

    A candidate is the smallest or the largest value of the image. The range of the rest lies
    between its 0.1 and 99.9 percentiles. These count, when their distance from the rest is larger
    than that range:

    - −32768, −999, −9999 … and values beyond ±1e10, such as 1e20 and ±3.4e38;
    - 999, 9999 … and 0 in at least 16 pixels, but not in more than 90 % of them;
    - the largest value of an unsigned type, where it fills more than 1 % of the image in regions
      that begin at its edge. Elsewhere it can be an overexposed light.

    Any other value counts when at least 16 pixels hold it, at 1000 times that range. A hot
    object does not reach that. bool and 8-bit images have no such values.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, 3 or 4)
        bool, integers or floats.
    valid : ndarray of bool, shape (H, W), optional
        Pixels that may be valid.

    Returns
    -------
    list of float
        None, one or several values.
    """
    if image.dtype.kind == "b" or image.dtype.itemsize == 1:
        return []
    colours = image[..., :3] if image.ndim == 3 else image
    values = colours if valid is None else colours[valid]
    if image.dtype.kind == "f":
        values = values[np.isfinite(values)]
    found: list[float] = []
    while values.size and len(found) < 4:
        extremes = float(values.min()), float(values.max())
        new = [value for value in extremes if _is_nodata(image, values, value, extremes)]
        if not new or extremes[0] == extremes[1]:
            break
        found += new
        keep = np.ones(values.shape, bool)
        for value in new:
            keep &= ~_equals(values, value)
        values = values[keep]
    return found


def mark_nodata(image: NDArray[Any], missing: NDArray[np.bool_], fill: float = 0.0) -> Any:
    """Mark pixels as missing: NaN in floats, a numpy masked array in integers and bool.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, C)
        Not changed.
    missing : ndarray of bool, shape (H, W)
        Without any, `image` is returned as it is.
    fill : float
        ``fill_value`` of the masked array.
    """
    if not missing.any():
        return image
    if image.dtype.kind == "f":
        marked = image.copy()
        marked[missing] = np.nan
        return marked
    mask = missing if image.ndim == 2 else np.repeat(missing[..., None], image.shape[-1], -1)
    if not _fits(fill, image.dtype):
        fill = 0
    return np.ma.MaskedArray(np.ma.getdata(image), mask=mask, fill_value=image.dtype.type(fill))


def mark_missing(
    data: NDArray[Any], axes: str, value: float | None, valid: NDArray[np.bool_] | None = None
) -> Any:
    """Mark the missing pixels of an image, stack or bands, as `mark_nodata`.

    Parameters
    ----------
    data : ndarray
        Complex numbers stay as they are.
    axes : str
        As of `napari_busref.images.selection.Stored`.
    value : float, optional
        Of missing pixels.
    valid : ndarray of bool, shape (H, W), optional
        False where the file says that there is nothing.
    """
    if data.dtype.kind not in "biuf":
        return data
    colour = axes == "YXS"
    missing = np.zeros(data.shape[:2] if colour else data.shape, bool)
    if value is not None:
        flat = data if data.ndim <= 2 or colour else data.reshape(-1, data.shape[-1])
        missing |= match_nodata(flat, value).reshape(missing.shape)
    placed = axes.replace("S", "").endswith("YX")
    if valid is not None and placed and missing.shape[-2:] == valid.shape:
        missing |= ~valid
    if colour:
        return mark_nodata(data, missing, value or 0)
    if not missing.any():
        return data
    flat = mark_nodata(data.reshape(-1, 1), missing.reshape(-1, 1), value or 0)
    return flat.reshape(data.shape)


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "b":
        return value in (0, 1)
    limits = np.iinfo(dtype)
    return value == int(value) and limits.min <= value <= limits.max


def _equals(values: NDArray[Any], value: float) -> NDArray[np.bool_]:
    if math.isnan(value):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if values.dtype.kind != "f":
        if not math.isfinite(value) or not _fits(value, values.dtype):
            return np.zeros(values.shape, bool)
        return values == values.dtype.type(int(value))
    with np.errstate(over="ignore", invalid="ignore"):  # signalling NaN are invalid
        near = values.dtype.type(value)
        if not np.isfinite(near):  # float64's limit in float32: everything beyond is not finite
            return ~np.isfinite(values) & (np.sign(values) == np.sign(near))
        if abs(value) >= _HUGE:
            return np.abs(values / near - 1) < 1e-5
        return values == near


def _is_nodata(
    image: NDArray[Any], values: NDArray[Any], value: float, extremes: tuple[float, float]
) -> bool:
    """Whether an extreme value marks missing pixels, see `find_nodata`."""
    same = _equals(values, value)
    if image.dtype == np.float16 and value == _HALF_9999:
        value = -9999.0
    count = int(same.sum())
    # the other extreme may mark missing pixels, too
    other = extremes[1] if value == extremes[0] else extremes[0]
    rest = values[~same & ~_equals(values, other)] if _is_listed(other) else values[~same]
    if not rest.size or not count:
        return False
    rest = rest.reshape(-1)[:: -(-rest.size // _MAX_SAMPLES)].astype(np.float64)
    low, high = np.percentile(rest, _RANGE)
    nearest = float(rest.min() if value < rest.min() else rest.max())
    with np.errstate(over="ignore"):
        gap, span = abs(value - nearest), max(high - low, abs(nearest) * 1e-6)
    if gap <= span:
        return False
    if abs(value) >= _HUGE or value in _KNOWN_VALUES or (value < 0 and _is_listed(value)):
        return True
    if count < _MIN_COUNT or high <= low or values.size - count < _MIN_REST * values.size:
        return False
    if value == 0 or _is_listed(value):
        return True
    if value == 65535 or (image.dtype.kind == "u" and value == np.iinfo(image.dtype).max):
        return _share_at_edge(match_nodata(image, value)) > _MIN_BORDER
    return gap > _UNKNOWN_GAP * span


def _is_listed(value: float) -> bool:
    return (
        value == 0
        or abs(value) >= _HUGE
        or value in _KNOWN_VALUES
        or bool(_NINES.match(f"{value:.7g}"))
    )


def _share_at_edge(where: NDArray[np.bool_]) -> float:
    """Share of the image in regions that touch its edge."""
    from scipy import ndimage

    regions, count = ndimage.label(where)
    kept = np.zeros(count + 1, bool)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        kept[edge] = True
    kept[0] = False
    return float(kept[regions].mean())
