"""`LargeImage`: an image of any size on disk or at a URL, read window by window."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.declared import check_array
from napari_busref.images.dtypes import native
from napari_busref.images.nodata import NoData, check_nodata, mark_missing
from napari_busref.images.selection import Choice, NoSuchPlane, Stored, choose
from napari_busref.images.stored_levels import StoredLevels, check_levels
from napari_busref.images.tiff import coarser_tags, open_tiff
from napari_busref.images.uri import is_ome_zarr, local_path, to_uri
from napari_busref.runtime.file_safety import Refused, check_file, memory_limited

if TYPE_CHECKING:
    from napari_busref.images.map_position import MapPosition

__all__ = ["LARGE", "LEVELLED", "LargeImage", "Level", "large_image", "open_image"]

#: Extensions of files with windows and levels; OME-Zarr is a folder.
LEVELLED = (".ome.zarr", ".zarr", ".tif", ".tiff", ".btf")
#: Pixels above which the command line reads and writes by windows.
LARGE = 4096 * 4096
_OPEN_FILES = 8  # at most, in a process

Window = tuple[slice, slice]


@dataclass(frozen=True)
class LargeImage:
    """One grey or colour image with its levels, unread.

    It is small and can be pickled. The process that reads opens the file.
    ``image[rows, columns]`` reads a window of the full resolution.

    Attributes
    ----------
    uri : str
        Local path or URL.
    sides : tuple of (int, int)
        (H, W) of each level; level 0 is the full resolution.
    channels : tuple of int
        ``()`` for grey, ``(3,)`` or ``(4,)`` for colour, where the fourth is alpha.
    dtype : numpy.dtype
        Of the pixels.
    blocks : tuple of (int, int)
        Rows and columns that are stored together, of each level.
    metadata : dict
        As of `ImageFile`: pixel size, geotags, value of missing pixels.
    taken : str
        Which plane of several it is, such as ``"channel 1 of 3"``.
    may_miss : bool
        Whether pixels may be missing, by a value or by alpha beside grey.
    """

    uri: str
    sides: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: tuple[tuple[int, int], ...]
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    taken: str = ""
    may_miss: bool = False
    _plane: tuple[int, ...] = field(default=(), repr=False)
    _choice: Choice = field(default_factory=Choice, repr=False)
    _stamp: tuple[int, ...] = field(default=(), repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C) of the full resolution."""
        return (*self.sides[0], *self.channels)

    @property
    def ndim(self) -> int:
        """2 for grey, 3 for colour."""
        return len(self.shape)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels as arrays that read what is indexed, finest first."""
        return tuple(Level(self, number) for number in range(len(self.sides)))

    @property
    def nodata(self) -> float | None:
        """Value of missing pixels."""
        value = self.metadata.get("nodata")
        return None if value is None else float(value)

    @property
    def map_position(self) -> MapPosition | None:
        """Where the pixels lie on the Earth, as of `ImageFile`."""
        from napari_busref.images.map_position import MapPosition

        return MapPosition.from_metadata(self.metadata)

    @property
    def stored(self) -> tuple[str, tuple[int, ...]]:
        """Axes and shape of all that the file holds, as letters of `Stored`."""
        opened = _opened(self.uri, self._stamp, os.getpid())
        return opened.axes, tuple(int(size) for size in opened.arrays[0].shape)

    def plane(self, axis: int, number: int) -> LargeImage:
        """Another plane: the one with a number along an axis of `stored`, unread."""
        at = sum(letter not in "YXS" for letter in self.stored[0][:axis])
        return replace(self, _plane=(*self._plane[:at], number, *self._plane[at + 1 :]))

    def metadata_of(self, level: int) -> dict[str, Any]:
        """The metadata for the pixels of a level: their size, and where they lie."""
        found = dict(self.metadata)
        steps = [full / size for full, size in zip(self.sides[0], self.sides[level], strict=True)]
        if level == 0:
            return found
        found.pop("resolution", None)
        if "spacing" in found:
            found["spacing"] = tuple(
                one * step for one, step in zip(found["spacing"], steps, strict=True)
            )
        if geo := coarser_tags(found.pop("geotiff", {}), (steps[0], steps[1])):
            found["geotiff"] = geo
        return found

    def read(self, window: Window | None = None, level: int = 0) -> NDArray[Any]:
        """Read a window of a level.

        Parameters
        ----------
        window : tuple of slice, optional
            Rows and columns of that level, without a step. All by default.
        level : int
            0 is the full resolution.

        Returns
        -------
        ndarray, shape (rows, cols) or (rows, cols, C)
            Missing pixels are NaN in floats, and masked in a `numpy.ma.MaskedArray` of integers.

        Raises
        ------
        ValueError
            When there is no such level, the window has a step, or the file is damaged.
        Refused
            When the window exceeds the limit of memory.
        """
        if level not in range(len(self.sides)):
            raise ValueError(
                f"level: got {level!r}, need 0 to {len(self.sides) - 1}: {self.uri} has "
                f"{len(self.sides)}"
            )
        spans = [
            part.indices(size)
            for part, size in zip(
                window or (slice(None), slice(None)), self.sides[level], strict=True
            )
        ]
        if any(step != 1 for *_, step in spans):
            raise ValueError(f"window: got {window}, need rows and columns without a step")
        lengths = [max(stop - start, 0) for start, stop, _ in spans]
        check_array((*lengths, *self.channels), self.dtype, self.uri)
        if 0 in lengths:
            return np.empty((*lengths, *self.channels), self.dtype)
        block = _block(
            _opened(self.uri, self._stamp, os.getpid()),
            level,
            self._plane,
            (slice(*spans[0][:2]), slice(*spans[1][:2])),
            self.uri,
        )
        data, axes, _ = choose(block, self._choice, single=True)
        return mark_missing(native(data), axes, self.nodata, block.valid)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a window of the full resolution."""
        return self.levels[0][index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read the full resolution, within the limit of memory."""
        return np.asarray(self.read(), dtype)


@dataclass(frozen=True)
class Level:
    """One level of a `LargeImage`, as an array that reads what is indexed.

    Attributes
    ----------
    image : LargeImage
    number : int
    """

    image: LargeImage
    number: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C)."""
        return (*self.image.sides[self.number], *self.image.channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return self.image.dtype

    @property
    def ndim(self) -> int:
        """2 for grey, 3 for colour."""
        return len(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """What is stored together."""
        return (*self.image.blocks[self.number], *self.image.channels)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a window; steps, numbers and channels index what was read."""
        full = index if isinstance(index, tuple) else (index,)
        if Ellipsis in full:
            at = full.index(Ellipsis)
            fill = (slice(None),) * (self.ndim - len(full) + 1)
            full = (*full[:at], *fill, *full[at + 1 :])
        full = (*full, *(slice(None),) * (self.ndim - len(full)))
        window, rest = [], []
        for part, size in zip(full, self.shape, strict=False):
            if isinstance(part, slice):
                start, stop, step = part.indices(size)
                if step < 1:
                    raise IndexError(f"index: got {part}, need a positive step")
                window.append(slice(start, max(start, stop)))
                rest.append(slice(None, None, step))
            else:
                number = range(size)[part]
                window.append(slice(number, number + 1))
                rest.append(0)  # type: ignore[arg-type]
        read = self.image.read((window[0], window[1]), self.number)
        if self.image.channels:
            rest[2] = full[2]
        return np.asanyarray(read[tuple(rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read the level, within the limit of memory."""
        return np.asarray(self[:], dtype)


def open_image(
    path: str | os.PathLike[str],
    *,
    band: int | None = None,
    page: int | None = None,
    channel: int | None = None,
    nodata: NoData = "auto",
    memory_limit: float | None = None,
) -> LargeImage:
    """Describe a large image without its pixels.

    Parameters
    ----------
    path : path-like
        OME-Zarr 0.4 or 0.5 (a folder that ends in ``.zarr``) or TIFF: tiled, pyramidal, BigTIFF,
        COG. A local path, or a URL that fsspec opens (``file://``, ``memory://``, ``s3://``…).
    band, page, channel : int, optional
        Which plane of several, as for `napari_busref.read_image`; else the first.
    nodata : float, "auto" or None
        Value of missing pixels. ``"auto"`` takes the one that the file names.
    memory_limit : float, optional
        As for `napari_busref.read_image`; it holds for each tile.

    Returns
    -------
    LargeImage

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is no such image, has levels that do not belong together, or lies outside itself.
    ModuleNotFoundError
        Without zarr (``napari-busref[large]``), or the package of fsspec for such a URL.

    Examples
    --------
    >>> from napari_busref import open_image
    >>> slide = open_image("slide.ome.zarr", channel=2)  # doctest: +SKIP
    >>> slide.read((slice(0, 512), slice(0, 512)), level=1).shape  # doctest: +SKIP
    (512, 512)
    """
    place, choice = local_path(path), Choice(band, channel, page)
    uri = to_uri(path) if place is None else str(place.absolute())
    choice.check()
    value = check_nodata(nodata)
    if not uri.rstrip("/").lower().endswith(LEVELLED):
        raise ValueError(f"path: {uri} is no large image, need one of {', '.join(LEVELLED)}")
    with memory_limited(memory_limit):
        stamp = _stamp_of(uri)
        stored = _opened(uri, stamp, os.getpid())
        dtypes = [np.dtype(array.dtype) for array in stored.arrays]
        check_levels(stored.sides, dtypes, uri)
        if dtypes[0].kind not in "biuf":
            raise ValueError(f"path: {uri} holds {dtypes[0]}, need real numbers or bool")
        plane, rest, words = _plane_of(stored, choice, uri)
        block = _block(stored, 0, plane, (slice(0, 1), slice(0, 1)), uri)
    try:
        pixel, _, more = choose(block, rest, single=True)
    except NoSuchPlane as error:
        raise ValueError(f"{error}: {uri}") from None
    metadata = dict(block.metadata)
    if value != "auto":
        metadata.pop("nodata", None)
        metadata |= {} if value is None else {"nodata": value}
    return LargeImage(
        uri,
        stored.sides,
        tuple(pixel.shape[2:]),
        native(pixel).dtype,
        stored.blocks,
        metadata,
        ", ".join(filter(None, [words, more])),
        metadata.get("nodata") is not None or block.valid is not None,
        plane,
        rest,
        stamp,
    )


def large_image(path: str | os.PathLike[str], **choice: Any) -> LargeImage | None:
    """Describe an image of more than `LARGE` pixels; None for a smaller or another one.

    Parameters
    ----------
    path : path-like
    **choice
        As for `open_image`.

    Returns
    -------
    LargeImage or None
        None also for files that only `napari_busref.read_image` reads, and without zarr.
    """
    place = local_path(path)
    if not to_uri(path).rstrip("/").lower().endswith(LEVELLED):
        return None
    if place is not None and place.is_file() and place.stat().st_size < LARGE // 64:
        return None  # no usual compression reaches this
    try:
        image = open_image(path, **choice)
    except (ValueError, ModuleNotFoundError):
        return None
    return image if math.prod(image.sides[0]) > LARGE else None


def _plane_of(
    stored: StoredLevels, choice: Choice, uri: str
) -> tuple[tuple[int, ...], Choice, str]:
    """Numbers along the axes without rows, columns and samples; what is left to choose; words."""
    axes = zip(stored.axes, stored.arrays[0].shape, strict=True)
    sizes = [(letter, int(size)) for letter, size in axes if letter not in "YXS"]
    letters = "".join(letter for letter, size in sizes if size > 1)
    samples = "S" in stored.axes
    if not letters and samples:
        return (0,) * len(sizes), choice, ""
    # each plane is its number
    shape = [size for _, size in sizes]
    numbers = np.arange(int(np.prod(shape))).reshape([n for n in shape if n > 1] + [1, 1])
    picked = Choice(page=choice.page) if samples else choice
    try:
        found, _, words = choose(Stored(numbers, f"{letters}YX"), picked, single=True)
    except NoSuchPlane as error:
        raise ValueError(f"{error}: {uri}") from None
    plane = tuple(int(n) for n in np.unravel_index(int(found.ravel()[0]), shape)) if shape else ()
    return plane, Choice(choice.band, choice.channel) if samples else Choice(), words


def _block(
    stored: StoredLevels, level: int, plane: tuple[int, ...], window: Window, uri: str
) -> Stored:
    """Read a window of one plane, with all samples, and what it means."""
    array, numbers = stored.arrays[level], iter(plane)
    index: list[int | slice] = []
    for axis, letter in enumerate(stored.axes):
        if letter in "YX":
            index.append(window["YX".index(letter)])
        elif letter == "S":
            index.append(slice(None))
        else:  # a coarser level may have fewer planes
            size, full = int(array.shape[axis]), int(stored.arrays[0].shape[axis])
            index.append(min(int((next(numbers) + 0.5) * size / full), size - 1))
    try:
        pixels = np.asarray(array[tuple(index)])
    except (Refused, OSError):
        raise
    except Exception as error:  # codecs raise anything
        raise ValueError(
            f"{uri}: level {level} cannot be read ({type(error).__name__}: {error})"
        ) from error
    return stored.meant(pixels, "".join(one for one in stored.axes if one in "YXS"))


def _stamp_of(uri: str) -> tuple[int, ...]:
    """What changes with a local file, for which an open one then is not used again."""
    path = local_path(uri)
    if path is None:
        return ()
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not is_ome_zarr(uri):
        with memory_limited(float(2**30)):  # its size does not count, because windows are read
            check_file(path)
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=_OPEN_FILES)
def _opened(uri: str, stamp: tuple[int, ...], process: int) -> StoredLevels:
    """Open a file, once in a process: children must not share its handle."""
    if is_ome_zarr(uri):
        from napari_busref.images.ome_zarr import open_ome_zarr

        return open_ome_zarr(uri)
    return open_tiff(uri)
