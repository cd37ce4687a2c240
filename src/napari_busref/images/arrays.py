"""Convert what people hand over to an array: lists, PIL pictures, tensors, stacks of bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.dtypes import native
from napari_busref.images.nodata import NoData, find_nodata, mark_nodata, match_nodata

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "bands_last",
    "one_plane",
    "picture_array",
    "taken",
    "to_array",
    "to_numbers",
    "with_nodata",
]

_ROWS = ("y", "lat", "latitude", "row", "rows", "northing")
_COLUMNS = ("x", "lon", "longitude", "col", "cols", "column", "columns", "easting")
_FILL_NAMES = ("_FillValue", "nodata", "missing_value")
_MAX_BANDS_LAST = 32  # (H, W, N) has at most this many; a longer last axis holds columns


def to_numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Convert positions, a matrix or a field of any library to float64.

    Raises
    ------
    TypeError
        When it is not an array of real numbers.
    """
    array, _ = to_array(values, name, "an array of numbers")
    return np.asarray(np.ma.getdata(array), np.float64)


def to_array(
    image: Any, name: str, need: str = "an array (H, W) or (H, W, 3|4)"
) -> tuple[NDArray[Any], list[float]]:
    """Convert an image of any library to a numpy array.

    Parameters
    ----------
    image : array_like
        numpy arrays (masked ones stay masked), lists, PIL pictures (upright, palettes as colour),
        torch tensors of any device, type and gradient, dask, zarr and xarray arrays. xarray's
        dimensions ``y`` and ``x`` become rows and columns.
    name : str
        The argument in error messages.
    need : str
        What is accepted, in error messages.

    Returns
    -------
    array : ndarray
    nodata : list of float
        Values that the attributes of an xarray name for missing pixels.

    Raises
    ------
    TypeError
        When it is not an array of real numbers.
    """
    missing: list[float] = []
    kind = f"{type(image).__module__}.{type(image).__name__}"
    if image is None or isinstance(image, str | bytes | dict | set | int | float | complex):
        raise TypeError(f"{name}: got {type(image).__name__}, need {need}")
    if kind.startswith("PIL."):
        image = picture_array(image)
    elif hasattr(image, "detach") and hasattr(image, "cpu"):
        image = _from_tensor(image)
    elif hasattr(image, "dims") and hasattr(image, "attrs") and hasattr(image, "transpose"):
        image, missing = _from_xarray(image)
    elif hasattr(image, "shape") and hasattr(image, "dtype") and hasattr(image, "__getitem__"):
        # zarr, h5py and others without __array__
        image = image if hasattr(image, "__array__") else image[...]
    elif not isinstance(image, list | tuple) and not hasattr(image, "__array__"):
        raise TypeError(f"{name}: got {type(image).__name__}, need {need}")
    try:
        array = np.asanyarray(image)
        if not isinstance(array, np.ma.MaskedArray):
            array = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split(". ")[0][:120]
        raise TypeError(f"{name}: is no array ({reason}), need {need}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: got dtype {array.dtype}, need bool, integers or floats")
    return array, missing


def one_plane(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Choose the plane of an array that stands for the image, (H, W) or (H, W, 3 or 4).

    Axes of length one are dropped at the front and at the end. (H, W, 3 or 4) and (3, H, W) are
    colour. Of other three-dimensional arrays the first band is taken: along a short last axis,
    else along the first.

    Raises
    ------
    ValueError
        For other shapes.
    """
    if array.size == 0:
        raise ValueError(f"{name}: got an empty array of shape {array.shape}")
    sizes = _sizes(array.shape)
    if len(sizes) not in (2, 3):
        more = ""
        if len(sizes) > 3:
            first = ", ".join("0" * (array.ndim - (3 if sizes[-1] in (3, 4) else 2)))
            more = f"; of a stack give one plane, such as {name}[{first}]"
        raise ValueError(
            f"{name}: got {array.ndim}-D, shape {array.shape}, need (H, W), (H, W, 3|4) or bands "
            f"(N, H, W){more}"
        )
    array = array.reshape(sizes)
    if array.ndim == 2 or sizes[-1] in (3, 4):
        return array
    if sizes[0] == 3:
        return np.moveaxis(array, 0, -1)
    return array[..., 0] if bands_last(sizes) else array[0]


def taken(image: Any) -> str:
    """What `one_plane` takes of an image, such as ``"band 1 of 5"``; empty without a choice."""
    shape = getattr(image, "shape", None)
    sizes = _sizes(np.shape(image) if shape is None else tuple(shape))
    if len(sizes) != 3 or sizes[-1] in (3, 4) or sizes[0] == 3:
        return ""
    return f"band 1 of {sizes[-1] if bands_last(sizes) else sizes[0]}"


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The lengths of the axes, without ones at the front and at the end of more than two."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def bands_last(shape: tuple[int, ...]) -> bool:
    """Whether a three-dimensional shape has its bands last."""
    return shape[-1] <= _MAX_BANDS_LAST and shape[-1] < min(shape[:2])


def picture_array(picture: Image) -> NDArray[Any]:
    """Convert a PIL picture: upright, palettes and CMYK as RGB, grey + alpha as RGBA."""
    from PIL import ImageOps

    upright: Image = ImageOps.exif_transpose(picture)
    if upright.mode in ("P", "PA"):
        alpha = upright.mode == "PA" or "transparency" in upright.info
        upright = upright.convert("RGBA" if alpha else "RGB")
    elif upright.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        upright = upright.convert("RGB")
    elif upright.mode in ("LA", "La", "RGBa"):
        upright = upright.convert("RGBA")
    return native(np.array(upright))


def with_nodata(array: NDArray[Any], values: list[float], nodata: NoData) -> NDArray[Any]:
    """Mark the missing pixels of one plane, see `mark_nodata`.

    Parameters
    ----------
    array : ndarray, shape (H, W) or (H, W, 3 or 4)
        A masked array keeps its mask.
    values : list of float
        Values known to be missing.
    nodata : float, "auto" or None
        ``"auto"`` adds what `find_nodata` recognises, a number itself. None marks only NaN and
        the pixels that are masked already.
    """
    plain = native(np.ma.getdata(array))
    missing = np.zeros(plain.shape[:2], bool)
    fill = 0.0
    if isinstance(array, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(array)
        missing = np.array(masked[..., :3].any(-1) if array.ndim == 3 else masked, bool)
        if getattr(array, "_fill_value", None) is not None:  # else a default of numpy
            fill = float(array.fill_value)
    if nodata is None:
        values = []
    elif nodata == "auto":
        values = values + find_nodata(plain, ~missing if missing.any() else None)
    else:
        values = [*values, nodata]
    for value in values:
        missing |= match_nodata(plain, value)
        fill = value
    return mark_nodata(plain, missing, fill)


def _from_tensor(image: Any) -> NDArray[Any]:
    tensor = image.detach().cpu()
    if getattr(tensor, "layout", None) is not None and "strided" not in str(tensor.layout):
        tensor = tensor.to_dense()
    for resolve in ("resolve_conj", "resolve_neg"):
        tensor = getattr(tensor, resolve)() if hasattr(tensor, resolve) else tensor
    if "bfloat16" in str(tensor.dtype) or "float8" in str(tensor.dtype):
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def _from_xarray(image: Any) -> tuple[NDArray[Any], list[float]]:
    names = [str(dim).lower() for dim in image.dims]
    rows = [dim for dim, name in zip(image.dims, names, strict=True) if name in _ROWS]
    columns = [dim for dim, name in zip(image.dims, names, strict=True) if name in _COLUMNS]
    if len(rows) == 1 and len(columns) == 1:
        others = [dim for dim in image.dims if dim not in (rows[0], columns[0])]
        channels = [dim for dim in others if image.sizes[dim] in (3, 4)]
        colour = len(others) == 1 and channels and image.dims[-1] == others[0]
        order = (rows[0], columns[0], others[0]) if colour else (*others, rows[0], columns[0])
        image = image.transpose(*order)
    missing = []
    for source in (image.attrs, getattr(image, "encoding", {})):
        for name in _FILL_NAMES:
            value = source.get(name)
            if isinstance(value, int | float | np.number):
                missing.append(float(value))
    return np.asarray(image), missing
