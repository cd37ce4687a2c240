"""`write_warped`: resample images of any size block by block."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.images.dtypes import checked_fill, default_fill
from napari_busref.images.large import open_image
from napari_busref.images.preprocess import empty_border, empty_pixels, usable
from napari_busref.images.pyramid import Window, input_key, write_blocks
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.transforms.transform import Transform

__all__ = [
    "Content",
    "as_large",
    "mask_window",
    "transform_key",
    "warp_window",
    "write_mask",
    "write_warped",
]

_BORDER_SIDE = 2048  # px of the reduced image in which an empty border is found
_BAND = 512  # of its rows are read at a time


def as_large(image: Any, name: str) -> Any:
    """Return an image that is read by windows: an array as it is, the image at a path opened."""
    if isinstance(image, str | os.PathLike):
        return open_image(image)
    if len(getattr(image, "shape", ())) not in (2, 3) or not hasattr(image, "dtype"):
        raise TypeError(
            f"{name}: got {type(image).__name__}, need a path, a LargeImage or an array (H, W) or "
            "(H, W, 3 or 4)"
        )
    return image


def write_warped(
    path: str | os.PathLike[str],
    moving: Any,
    transform: Transform,
    *,
    order: int = 1,
    fill_value: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    cloud: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Resample a moving image of any size onto the fixed grid, into a file.

    Blocks of 2048 x 2048 px are read, warped and written one by one. The pixels are those of
    `Transform.apply`.

    Parameters
    ----------
    path : path-like
        ``.ome.zarr`` writes OME-Zarr 0.5: shards of 2048 px, chunks of 512 px, levels of means.
        ``.tif`` writes a BigTIFF in tiles with these levels.
    moving : path-like, LargeImage or array_like
        Of the transform's `moving_shape`. Windows of it are read.
    transform : Transform
    order : int
        As for `Transform.apply`; 0 for labels, whose levels then hold the nearest pixel.
    fill_value : float, optional
        Outside the moving image. By default NaN for floats; for integers the value of missing
        pixels of `moving`, or 0.
    metadata : mapping, optional
        Pixel size and geotags of the fixed image, as of `LargeImage`.
    cloud : bool
        Write a TIFF as a COG. Needs rasterio (``napari-busref[geo]``).
    resume : bool
        Continue what a stopped call with the same arguments has begun, in ``NAME.part``.
    overwrite : bool
        Replace an existing file.
    progress : Progress, optional
    cancel : threading.Event, optional
        Set it to stop before the next block.

    Returns
    -------
    pathlib.Path
        The file, which appears once it is complete.

    Raises
    ------
    TypeError, ValueError
        For an invalid argument; the message names it.
    FileExistsError
        When `path` exists.
    BlockingIOError
        When another run writes it.
    Cancelled
        When `cancel` was set.
    OSError
        When the disk is full.
    ModuleNotFoundError
        Without zarr (``napari-busref[large]``).
    """
    source = as_large(moving, "moving")
    _check_shape(source, transform)
    fill = _fill(source, fill_value)
    tags = {name: value for name, value in (metadata or {}).items() if name != "nodata"}
    if fill_value is None and (fill is not None or np.dtype(source.dtype).kind == "f"):
        tags["nodata"] = np.nan if fill is None else fill
    key = {"function": "write_warped", "moving": input_key(source), "order": order}
    key |= {"fill_value": fill_value, "transform": transform_key(transform)}

    def compute(window: Window) -> NDArray[Any]:
        return warp_window(source, transform, window, order=order, fill=fill)

    return write_blocks(
        Path(path),
        (*transform.fixed_shape, *source.shape[2:]),
        source.dtype,
        compute,
        key=key,
        metadata=tags,
        words="warping",
        nearest=order == 0,
        cloud=cloud,
        resume=resume,
        overwrite=overwrite,
        reporter=Reporter(progress, cancel),
    )


def write_mask(
    path: str | os.PathLike[str],
    moving: Any,
    transform: Transform,
    *,
    metadata: Mapping[str, Any] | None = None,
    cloud: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Write the reconstructible mask of any size: 255 where the moving image has content, else 0.

    Missing pixels of `moving`, and its empty border, have none. The border is found on at most
    2048 x 2048 px. Parameters, result and errors as of `write_warped`.
    """
    source = as_large(moving, "moving")
    _check_shape(source, transform)
    content = Content.of(source)
    tags = {name: value for name, value in (metadata or {}).items() if name != "nodata"}
    key = {"function": "write_mask", "moving": input_key(source)}
    key["transform"] = transform_key(transform)

    def compute(window: Window) -> NDArray[Any]:
        return mask_window(content, transform, window).astype(np.uint8) * 255

    return write_blocks(
        Path(path),
        transform.fixed_shape,
        np.uint8,
        compute,
        key=key,
        metadata=tags,
        words="mask",
        nearest=True,
        cloud=cloud,
        resume=resume,
        overwrite=overwrite,
        reporter=Reporter(progress, cancel),
    )


def warp_window(
    source: Any,
    transform: Transform,
    window: Window,
    *,
    order: int = 1,
    fill: float | None = None,
) -> Any:
    """A window of the warped image; masked where integers are missing."""
    if not _may_miss(source):
        return transform.apply(source, order, fill, window)
    outside = default_fill(np.dtype(source.dtype)) if fill is None else fill
    plain: Any = _Derived(source, source.dtype, _plain)
    values = transform.apply(plain, order, outside, window)
    lost = np.isnan(transform.apply(_gaps_of(source), min(order, 1), np.nan, window))
    lost = lost.reshape(lost.shape + (1,) * (values.ndim - 2)) & np.ones(values.shape, bool)
    values[lost] = outside
    return np.ma.MaskedArray(values, mask=lost, fill_value=outside)


def mask_window(source: Any, transform: Transform, window: Window) -> NDArray[np.bool_]:
    """A window of the reconstructible mask."""
    inside = transform.mask(window=window)
    if not _may_miss(source) and np.dtype(source.dtype).kind != "f":
        return inside
    return np.asarray(inside & ~np.isnan(transform.apply(_gaps_of(source), 1, 0.0, window)))


class Content:
    """An image without its empty border, which is masked in what is read.

    Parameters
    ----------
    image : array_like
    border : ndarray of bool or None
        The empty border at every ``step``-th pixel.
    step : int
    """

    may_miss = True

    def __init__(self, image: Any, border: NDArray[np.bool_] | None, step: int) -> None:
        self.image, self.border, self.step = image, border, step
        self.shape, self.dtype = image.shape, image.dtype

    @classmethod
    def of(cls, image: Any) -> Content:
        """Find the empty border in every ``step``-th pixel."""
        step = -(-max(image.shape[:2]) // _BORDER_SIDE)
        rows = []
        for start in range(0, image.shape[0], _BAND * step):
            band = np.asanyarray(image[start : min(start + _BAND * step, image.shape[0]), :])
            rows.append(np.ma.getdata(band)[::step, ::step])
        small = np.concatenate(rows)
        if not usable(small).any():
            return cls(image, None, step)
        border = empty_border(small, "moving")
        if not border.any() or border.all():
            return cls(image, None, step)
        return cls(image, border, step)

    def empty(self, read: Any, window: Window) -> NDArray[np.bool_]:
        """The pixels of a window that belong to the empty border.

        Empty pixels up to two steps beside it belong to it, where they are connected to it.
        """
        if self.border is None:
            return np.zeros(read.shape[:2], bool)
        places = np.ix_(*(np.arange(part.start, part.stop) // self.step for part in window))
        known = self.border[places]
        if self.step == 1 or not known.any():
            return known
        near = ndimage.binary_dilation(known, iterations=2 * self.step)
        regions, count = ndimage.label(near & empty_pixels(np.ma.getdata(read)))
        kept = np.zeros(count + 1, bool)
        kept[regions[known]] = True
        kept[0] = False
        return np.asarray(kept[regions])

    def __getitem__(self, window: Window) -> Any:
        """Read a window; its empty border is masked."""
        read = np.ma.asanyarray(self.image[window])
        lost = self.empty(read, window).reshape(read.shape[:2] + (1,) * (read.ndim - 2))
        return np.ma.MaskedArray(read, np.ma.getmaskarray(read) | lost)


def transform_key(transform: Transform) -> str:
    """Identify a transform by its content."""
    digest = hashlib.sha256(
        repr((transform.fixed_shape, transform.moving_shape, transform.spacing)).encode()
    )
    digest.update(transform.affine.tobytes())
    if transform.displacement is not None:
        digest.update(transform.displacement.tobytes())
    return digest.hexdigest()


class _Derived:
    """Values that are computed from what is read of an image, (H, W) or (H, W, C)."""

    def __init__(self, source: Any, dtype: Any, compute: Callable[[Any], NDArray[Any]]) -> None:
        self.source, self.dtype, self.compute = source, np.dtype(dtype), compute
        self.shape = source.shape if compute is _plain else source.shape[:2]

    def __getitem__(self, window: Any) -> NDArray[Any]:
        return self.compute(self.source[window])


def _plain(read: Any) -> NDArray[Any]:
    """Missing pixels get the nearest values, which are then masked."""
    missing = _missing(read)
    plain = np.ma.getdata(read)
    if not missing.any() or missing.all():
        return plain
    rows, cols = ndimage.distance_transform_edt(
        missing, return_distances=False, return_indices=True
    )
    return np.asarray(plain[rows, cols])


def _gaps_of(source: Any) -> Any:
    return _Derived(source, np.float32, _gaps)


def _gaps(read: Any) -> NDArray[np.float32]:
    """NaN where pixels are missing, which interpolation spreads to all that touch them."""
    return np.where(_missing(read), np.nan, 0).astype(np.float32)


def _missing(read: Any) -> NDArray[np.bool_]:
    missing = np.ma.getmaskarray(read).copy()
    plain = np.ma.getdata(read)
    if plain.dtype.kind == "f":
        missing |= ~np.isfinite(plain)
    return missing if missing.ndim == 2 else np.array(missing.any(-1))


def _may_miss(source: Any) -> bool:
    """Whether integers may be masked; NaN of floats spread by themselves."""
    whole = np.dtype(source.dtype).kind != "f"
    return whole and (np.ma.isMaskedArray(source) or getattr(source, "may_miss", False))


def _fill(source: Any, given: float | None) -> float | None:
    dtype = np.dtype(source.dtype)
    nodata = getattr(source, "nodata", None)
    if given is None and nodata is not None and dtype.kind != "f":
        try:
            return checked_fill(float(nodata), dtype, "nodata")
        except ValueError:  # the type cannot hold it
            return None
    return None if given is None else checked_fill(given, dtype, "fill_value")


def _check_shape(source: Any, transform: Transform) -> None:
    if not isinstance(transform, Transform):
        raise TypeError(f"transform: got {type(transform).__name__}, need a Transform")
    if tuple(source.shape[:2]) != transform.moving_shape:
        raise ValueError(
            f"moving: got shape {tuple(source.shape[:2])}, need {transform.moving_shape}: the "
            "transform was made for a moving image of this size"
        )
