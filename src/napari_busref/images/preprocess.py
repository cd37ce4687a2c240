"""Prepare any image for the models: grey values in [0, 1] and a mask of valid pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.images.arrays import one_plane, taken, to_array, with_nodata
from napari_busref.images.blocks import row_blocks
from napari_busref.images.dtypes import float_origin, minus
from napari_busref.images.nodata import NoData, check_nodata

__all__ = [
    "Prepared",
    "as_image",
    "as_mask",
    "empty_border",
    "empty_pixels",
    "fill_invalid",
    "filled",
    "fit_scale",
    "in_unit_range",
    "luma",
    "prepare",
    "specks",
    "usable",
    "what_was_read",
]

LUMA = (0.299, 0.587, 0.114)  # Y of YCbCr, ITU-R BT.601
MIN_SIZE = 16
_PERCENTILES = (0.1, 99.9)
MAX_SAMPLES = 1 << 20  # pixels for the percentiles, at most
_BULK = (10, 90)  # percentiles of the bulk: up to a tenth of the pixels may lie outside, each side
_FENCE = 1.0  # outliers are this many widths of the bulk away from it
_ISOLATION = 4  # and this many times as many as the pixels in the farther half of that distance
_RARE = 2e-4  # share of the pixels; fewer outliers hardly move the percentiles
_SHOULDER = 2 / 255  # grey range of the outliers of each side
_DIM = 1 / 3  # floats in [0, 1] of a smaller range are stretched, such as 14 of 16 bits (0.25)
_SPECKS = 64  # the shorter side over the thickness of a region that is no speck
_MAX_FLOAT64 = 1e300  # differences of larger float64 values overflow


@dataclass(frozen=True)
class Prepared:
    """One image as the input of a model.

    Attributes
    ----------
    grey : ndarray of float32, shape (H, W)
        In [0, 1]; 0 where invalid.
    valid : ndarray of bool, shape (H, W)
        Pixels that hold content.
    scale : Scale
        The mapping from image values to `grey`.
    """

    grey: NDArray[np.float32]
    valid: NDArray[np.bool_]
    scale: Scale

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.grey.shape[0], self.grey.shape[1]


def as_image(
    image: Any, name: str, *, min_size: int = MIN_SIZE, nodata: NoData = "auto"
) -> NDArray[Any]:
    """Check one grey or colour image and return it as a native-endian array.

    Parameters
    ----------
    image : array_like, shape (H, W) or (H, W, 3 or 4)
        bool, integers or floats of any size and byte order, in any container that
        `napari_busref.images.arrays.to_array` converts. Of bands or pages the first, see
        `napari_busref.images.arrays.one_plane`. Not changed.
    name : str
        The argument in error messages.
    min_size : int
        Smallest accepted side in pixels.
    nodata : float, "auto" or None
        Value of missing pixels; ``"auto"`` recognises it
        (`napari_busref.images.nodata.find_nodata`), None takes every number as content.

    Returns
    -------
    ndarray
        Shares memory with `image` where it can. Missing pixels are NaN in floats, and masked in
        a `numpy.ma.MaskedArray` of integers.

    Raises
    ------
    TypeError
        When it is not an array of real numbers.
    ValueError
        When it is empty, has the wrong number of dimensions, is too small or has no finite pixel.
    """
    array, known = to_array(image, name)
    array = one_plane(array, name)
    if min(array.shape[:2]) < min_size:
        raise ValueError(
            f"{name}: got {array.shape[0]} x {array.shape[1]} px, need at least "
            f"{min_size} x {min_size}"
        )
    array = with_nodata(array, known, check_nodata(nodata))
    if not usable(array).any():
        raise ValueError(f"{name}: all pixels are NaN, infinite, transparent or no-data")
    return array


def what_was_read(
    fixed: Any, moving: Any, nodata: NoData, checked: NDArray[Any] | None = None
) -> dict[str, Any]:
    """Entries of a result's ``parameters``: `nodata`, and which bands or pages were taken.

    With integers that have missing pixels, ``missing_value`` is what stands there.

    Parameters
    ----------
    fixed, moving : array_like
        As given to `as_image`.
    nodata : float, "auto" or None
    checked : ndarray, optional
        The moving image as `as_image` returned it.
    """
    images = {"fixed": fixed, "moving": moving}
    words = {name: text for name, image in images.items() if (text := taken(image))}
    value = nodata if nodata is None or isinstance(nodata, str) else float(nodata)
    found: dict[str, Any] = {"nodata": value}
    if words:
        found["taken"] = words
    if isinstance(checked, np.ma.MaskedArray):
        found["missing_value"] = float(checked.fill_value)
    return found


def as_mask(mask: Any, name: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Check a mask of a given shape; every nonzero pixel is True.

    Parameters
    ----------
    mask : array_like
        bool or numbers (NaN is False). Not changed.
    name : str
        The argument in error messages.
    shape : tuple of int
        The required shape.
    """
    array, _ = to_array(mask, name)
    if array.size and array.ndim > 2:
        array = one_plane(array, name)
    if isinstance(array, np.ma.MaskedArray):
        array = array.filled(0)
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape}, need {shape} as its image")
    return np.nan_to_num(array) != 0 if array.dtype.kind == "f" else array != 0


def prepare(
    image: Any,
    name: str,
    *,
    min_size: int = MIN_SIZE,
    mask: NDArray[np.bool_] | None = None,
    find_border: bool = False,
    nodata: NoData = "auto",
) -> Prepared:
    """Check an image and convert it to grey values in [0, 1].

    bool and uint8 images keep their scale (0..255 becomes 0..1). So do floats that all lie in
    [0, 1], unless their percentiles span less than a third of it. Other values are stretched
    from their 0.1 to their 99.9 percentile, over all colour channels together, and clipped; if
    they are constant they become 0. Outliers, such as a hot object, stuck pixels or a sentinel
    value, do not take part in the percentiles. They share a soft shoulder of 2 grey levels of
    255 at their end of the range, in their order (see `Scale`).
    Colour becomes luma (ITU-R BT.601).

    Parameters
    ----------
    image : array_like, shape (H, W) or (H, W, 3 or 4)
        See `as_image`. NaN, infinite, missing and fully transparent pixels are invalid.
    name : str
        The argument in error messages.
    min_size : int
        Smallest accepted side in pixels.
    mask : ndarray of bool, shape (H, W), optional
        Pixels that may be valid; see `as_mask`.
    find_border : bool
        An `empty_border` is invalid too, unless nothing else is left.
    nodata : float, "auto" or None
        See `as_image`; None for an image that `as_image` returned.

    Returns
    -------
    Prepared

    Raises
    ------
    TypeError, ValueError
        As `as_image`, and when `mask` leaves no valid pixel.
    """
    array = as_image(image, name, min_size=min_size, nodata=nodata)
    valid = usable(array)
    array = np.ma.getdata(array)
    if mask is not None:
        valid &= mask
        if not valid.any():
            raise ValueError(f"{name}: its mask leaves no valid pixel")
    if find_border:
        inside = valid & ~_empty_border(array)
        valid = inside if inside.any() else valid
    scale = _scale(array[..., :3] if array.ndim == 3 else array, valid)
    return Prepared(scale.grey(array, valid), valid, scale)


@dataclass(frozen=True)
class Scale:
    """Monotone mapping of image values to grey values.

    Without outliers it is linear from ``low`` to ``high``. With outliers above, ``low`` to
    ``high`` takes 2 grey levels of 255 less. ``high`` to ``top`` takes these, by a curve
    ``2 t / (1 + t)`` for t from 0 to 1. Outliers below do the same at the other end.

    Attributes
    ----------
    low, high : float
        Ends of the linear part. Equal when the image is constant.
    bottom, top : float or None
        Values that map to 0 and 1 where there are outliers.
    origin : int or None
        Subtracted from 64-bit integers that float64 would round. The other attributes are
        relative to it.
    """

    low: float
    high: float
    bottom: float | None = None
    top: float | None = None
    origin: int | None = None

    def grey(self, image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Grey values of an image of any type, in [0, 1]; 0 where not valid.

        Parameters
        ----------
        image : ndarray, shape (H, W) or (H, W, 3 or 4)
            Colour becomes luma.
        valid : ndarray of bool, shape (H, W)
        """
        grey = np.empty(valid.shape, np.float32)
        for rows in row_blocks(valid.shape):
            values = self(self._floats(image[rows], valid[rows]))
            grey[rows] = np.clip(luma(values) if image.ndim == 3 else values, 0, 1)
        grey[~valid] = 0
        return grey

    def colours(self, image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The colours of an image (H, W, 3 or 4), in [0, 1]; 0 where not valid."""
        colours = np.clip(self(self._floats(image, valid)), 0, 1).astype(np.float32)
        colours[~valid] = 0
        return colours

    def _floats(self, image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
        """The values relative to the origin, without alpha; 0 where not valid."""
        colours = minus(image[..., :3] if image.ndim == 3 else image, self.origin)
        work = np.dtype(np.float32 if image.dtype.itemsize <= 2 else np.float64)
        return np.where(valid if image.ndim == 2 else valid[..., None], colours, 0).astype(work)

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Map float values, without clipping; the result has their number type."""
        kind = values.dtype.type
        linear = (values - kind(self.low)) / kind(self.high - self.low or 1)
        if self.bottom is None and self.top is None:
            return linear
        start = 0.0 if self.bottom is None else _SHOULDER
        end = 1.0 if self.top is None else 1 - _SHOULDER
        mapped = kind(start) + kind(end - start) * (
            linear if self.top is None else linear.clip(max=1)
        )
        if self.bottom is not None:
            mapped = np.maximum(mapped, kind(start)) - _shoulder(
                self.low - values, self.low - self.bottom
            )
        if self.top is not None:
            mapped = mapped + _shoulder(values - self.high, self.top - self.high)
        result: NDArray[Any] = mapped.astype(values.dtype)
        return result


def _shoulder(beyond: NDArray[Any], width: float) -> NDArray[Any]:
    """Grey range that values take that lie ``beyond`` an end of the linear part."""
    t = (beyond / beyond.dtype.type(width)).clip(0, 1)
    result: NDArray[Any] = beyond.dtype.type(_SHOULDER) * (2 * t / (1 + t))
    return result


def luma(colours: NDArray[Any]) -> NDArray[Any]:
    """Compute Y of YCbCr (ITU-R BT.601) of floats (H, W, 3): 0.299 R + 0.587 G + 0.114 B."""
    return colours @ np.asarray(LUMA, colours.dtype)


def empty_border(image: Any, name: str) -> NDArray[np.bool_]:
    """Find the empty border that rotating or shifting a picture leaves behind.

    Its pixels are exactly 0 (in all colours) or NaN and connected to the image edge. Each region
    is at least 3 px thick somewhere. Together they cover more than 1 % of the image and surround
    the rest. Black areas of a night scene, which the rest surrounds, stay valid.

    Parameters
    ----------
    image : array_like, shape (H, W) or (H, W, 3 or 4)
        See `as_image`.
    name : str
        The argument in error messages.

    Returns
    -------
    ndarray of bool, shape (H, W)
        True where the image is empty.
    """
    return _empty_border(np.ma.getdata(as_image(image, name, min_size=1)))


def _empty_border(array: NDArray[Any]) -> NDArray[np.bool_]:
    nothing = np.zeros(array.shape[:2], bool)
    if array.dtype.kind == "b":
        return nothing  # 0 is content in a binary image
    empty = empty_pixels(array)
    regions, count = ndimage.label(empty)
    kept = np.zeros(count + 1, bool)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        kept[edge] = True
    thick = np.zeros(count + 1, bool)
    thick[regions[ndimage.binary_erosion(empty, np.ones((3, 3), bool))]] = True
    kept &= thick
    kept[0] = False
    empty = kept[regions]
    if empty.mean() <= 0.01 or empty.all():
        return nothing
    from skimage.morphology import convex_hull_image  # half a CPU second, for few images

    step = -(-max(empty.shape) // 256)
    small = empty[::step, ::step]
    if small.all() or (convex_hull_image(~small) & small).sum() > 0.5 * small.sum():
        return nothing
    return empty


def empty_pixels(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Find pixels, shape (H, W), that are exactly 0 in all colours, or NaN."""
    empty = array[..., :3] == 0 if array.ndim == 3 else array == 0
    if array.dtype.kind == "f":
        empty |= np.isnan(array[..., :3] if array.ndim == 3 else array)
    return np.asarray(empty.all(-1) if array.ndim == 3 else empty)


def fill_invalid(grey: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fill every invalid pixel with the value of the nearest valid one.

    The end of the content then makes no edge for a network.

    Parameters
    ----------
    grey : ndarray of float32, shape (..., H, W)
        One image or several. Not changed.
    valid : ndarray of bool, shape (H, W)
        If all are False, `grey` is returned unchanged.
    """
    if valid.all() or not valid.any():
        return grey
    lost = ~valid
    nearest = ndimage.distance_transform_edt(lost, return_distances=False, return_indices=True)
    filled = grey.copy()
    filled[..., lost] = grey[(..., *nearest[:, lost])]
    return filled


def specks(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find invalid pixels that the content surrounds closely, such as dead pixels and lines.

    Their regions are everywhere thinner than 1/64 of the shorter side. The limit is 3 px in small
    images and for regions at the edge.

    Parameters
    ----------
    valid : ndarray of bool, shape (H, W)
    """
    lost = ~valid
    if not lost.any():
        return lost
    regions, count = ndimage.label(lost)
    at_edge = np.zeros(count + 1, bool)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        at_edge[edge] = True
    small = np.ones(count + 1, bool)
    small[0] = False
    for which, limit in ((at_edge, 3), (~at_edge, max(3, min(valid.shape) // _SPECKS))):
        thick = ndimage.minimum_filter(lost, limit, mode="nearest")
        small[regions[thick & which[regions]]] = False
    return small[regions]


def filled(image: Prepared, holes: NDArray[np.bool_]) -> Prepared:
    """Fill holes with the nearest values, which are then valid."""
    if not holes.any():
        return image
    grey = np.where(holes, fill_invalid(image.grey, image.valid), image.grey)
    return Prepared(grey, image.valid | holes, image.scale)


def usable(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Find pixels whose colours are all usable numbers and that are not fully transparent."""
    valid = np.ones(array.shape[:2], bool)
    if isinstance(array, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(array)
        valid = ~np.array(masked[..., :3].any(-1) if array.ndim == 3 else masked, bool)
        array = np.ma.getdata(array)
    colours = array[..., :3] if array.ndim == 3 else array
    if array.dtype.kind == "f":
        # this also excludes NaN, for which every comparison is False
        usable = np.abs(colours) < np.asarray(_usable_limit(array.dtype), array.dtype)
        valid &= usable.all(-1) if array.ndim == 3 else usable
    if array.ndim == 3 and array.shape[-1] == 4:
        valid &= array[..., 3] > 0
    return valid


def _usable_limit(dtype: np.dtype[Any]) -> float:
    return _MAX_FLOAT64 if dtype.itemsize >= 8 else float("inf")


def _scale(colours: NDArray[Any], valid: NDArray[np.bool_]) -> Scale:
    """Find the mapping of an image's values."""
    if colours.dtype.kind == "b":
        return Scale(0.0, 1.0)
    if colours.dtype == np.uint8:
        return Scale(0.0, 255.0)
    values = colours[valid]
    origin = float_origin(values)
    values = minus(values, origin)
    step = -(-values.size // MAX_SAMPLES)
    ends = float(values.min()), float(values.max())
    return fit_scale(values.reshape(-1)[::step], values[::step], ends, origin)


def fit_scale(
    sample: NDArray[Any], pixels: NDArray[Any], ends: tuple[float, float], origin: int | None
) -> Scale:
    """Find the mapping of values from a sample of them.

    Parameters
    ----------
    sample : ndarray, shape (N,)
        Values at equal steps, relative to `origin`.
    pixels : ndarray, shape (M,) or (M, 3)
        Pixels at equal steps.
    ends : tuple of float
        The smallest and the largest of all values.
    origin : int or None
        See `Scale`.
    """
    smallest, largest = ends
    unit = sample.dtype.kind == "f" and smallest >= 0 and largest <= 1
    sample = sample.astype(np.float64)
    low, high = np.percentile(sample, _PERCENTILES)
    if unit and (high - low >= _DIM or _is_flat(pixels)):
        return Scale(0.0, 1.0)
    if not high > low:
        return Scale(smallest, largest, origin=origin)  # nearly all pixels are equal
    below, above = _outliers(sample)
    if not (below.any() or above.any()):
        return Scale(float(low), float(high), origin=origin)
    low, high = np.percentile(sample[~(below | above)], _PERCENTILES)
    return Scale(
        float(low),
        float(high),
        smallest if below.any() else None,
        largest if above.any() else None,
        origin,
    )


def _is_flat(values: NDArray[Any]) -> bool:
    """Whether nearly all pixels, (N,) or (N, 3), have one value or colour."""
    low, high = np.percentile(values, _PERCENTILES, axis=0)
    return bool(np.all(low == high))


def in_unit_range(values: NDArray[Any]) -> bool:
    """Whether values are floats that all lie in [0, 1]."""
    return values.dtype.kind == "f" and bool(values.min() >= 0 and values.max() <= 1)


def _outliers(sample: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find values far below and far above the bulk, with hardly any value between.

    A long tail is no outlier: at any distance it has as many values before as beyond.
    """
    first, last = np.percentile(sample, _BULK)
    fence = _FENCE * (last - first)
    found = []
    for distance in (first - sample, sample - last):
        limit = np.inf
        tail = np.sort(distance[distance > fence / 2])
        if fence > 0 and tail.size and tail[-1] > fence:
            steps = np.ceil(2 * np.log2(tail[-1] / fence))
            limits = fence * 2 ** (np.arange(steps) / 2)
            before, until = np.searchsorted(tail, [limits / 2, limits], side="right")
            outside = tail.size - until
            isolated = (outside > _ISOLATION * (until - before)) & (outside >= _RARE * sample.size)
            if isolated.any():
                limit = limits[np.argmax(isolated)]
        found.append(distance > limit)
    return found[0], found[1]
