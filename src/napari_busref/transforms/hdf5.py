"""The HDF5 layout of ``.busref.h5`` (docs/reference/formats.md)."""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.file_safety import Refused, check_file, check_size
from napari_busref.runtime.version import package_version
from napari_busref.transforms.grids import Grid, Window, as_spacing, checked_window

__all__ = [
    "EXTENSION",
    "Stored",
    "check_references",
    "check_strings",
    "check_values",
    "open_file",
    "read",
    "read_json",
    "read_planes",
    "save",
]

EXTENSION = ".busref.h5"
_FORMAT = "napari-busref transform"
#: Of one transform, of the planes of a stack, and with a displacement on a coarser grid.
_VERSION_SINGLE, _VERSION_STACK, _VERSION_SPACED = 1, 2, 3
_VERSIONS = (_VERSION_SINGLE, _VERSION_STACK, _VERSION_SPACED)
_MAX_METADATA = 60_000  # bytes; an HDF5 attribute holds at most 64 KiB
_PLANES = "planes"
_COLLECTION = b"GCOL\1\0\0\0"  # compressed values may hold the first four bytes, too
#: Filters that cannot grow beyond the sizes that are checked.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


class Stored(Protocol):
    """The contents of a transform, as `napari_busref.Transform` holds them."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """Shape (3, 3), on (row, col, 1)."""

    @property
    def displacement(self) -> NDArray[np.float32] | None:
        """Shape (2, H, W), or smaller; see `spacing`."""

    @property
    def spacing(self) -> tuple[float, float]:
        """Rows and columns from one value of the displacement to the next."""

    @property
    def fixed_shape(self) -> tuple[int, int]:
        """(H, W)."""

    @property
    def moving_shape(self) -> tuple[int, int]:
        """(h, w)."""


def save(
    path: Path,
    transform: Stored,
    metadata: Mapping[str, Any],
    planes: Mapping[tuple[int, ...], tuple[Stored, Mapping[str, Any]]] | None = None,
) -> None:
    """Write a file, and replace an existing one once the new one is complete.

    Parameters
    ----------
    path : Path
        Must end in `EXTENSION`.
    transform : Stored
    metadata : mapping
        Serialisable as JSON.
    planes : mapping, optional
        From the position in a stack to the transform there and its metadata.

    Raises
    ------
    ValueError
        When the name has another extension or the metadata cannot be written.
    """
    if not path.name.lower().endswith(EXTENSION):
        raise ValueError(f"path: got {str(path)!r}, need a name that ends in {EXTENSION}")
    text, several = _json(metadata), dict(planes or {})
    spaced = any(one.spacing != (1, 1) for one in (transform, *(p for p, _ in several.values())))
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = _FORMAT
        file.attrs["format_version"] = (
            _VERSION_SPACED if spaced else _VERSION_STACK if several else _VERSION_SINGLE
        )
        file.attrs["package_version"] = package_version()
        file.attrs["convention"] = "q = affine(p + displacement(p)); (row, col) pixels"
        _write(file, transform, text)
        for number, (position, (plane, known)) in enumerate(several.items()):
            group = file.create_group(f"{_PLANES}/{number}")
            group.attrs["position"] = position
            _write(group, plane, _json(known))


@contextmanager
def open_file(path: str | os.PathLike[str], *, whole: bool = True) -> Iterator[h5py.File]:
    """Open a transform file, to read all or a part; errors of the body name it as damaged.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is not a complete transform file of this package.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}")
    check_file(path, whole=whole)
    if not h5py.is_hdf5(path):
        raise ValueError(f"path: {str(path)!r} is no HDF5 file, need a transform ({EXTENSION})")
    check_strings(path)
    try:
        with h5py.File(path, "r") as file:
            _check_format(file, path)
            yield file
    except Exception as error:  # h5py raises anything from KeyError to MemoryError
        if isinstance(error, ValueError) and str(error).startswith("path: "):
            raise
        raise ValueError(f"path: {str(path)!r} is damaged: {error}") from None


def _check_format(file: h5py.File, path: Path) -> None:
    """Refuse files of other programs and of newer versions."""
    if file.attrs.get("format") != _FORMAT:
        raise ValueError(
            f"path: {str(path)!r} is an HDF5 file of another program, need a transform saved "
            f"by napari-busref ({EXTENSION})"
        )
    version = file.attrs.get("format_version", 0)
    if version not in _VERSIONS:
        raise ValueError(
            f"path: {str(path)!r} has format version {version}, this version of "
            f"napari-busref reads {', '.join(map(str, _VERSIONS))}"
        )


def read(group: h5py.Group, window: Window | None = None) -> dict[str, Any]:
    """Read the arguments of `Transform` from a group: the file, or one of its planes.

    Parameters
    ----------
    group : h5py.Group
    window : tuple of slice, optional
        Rows and columns of the fixed image. The transform is then that of this window as an
        image of its own, with a dense displacement. No other values are read.
    """
    whole, moving_shape = (
        tuple(int(size) for size in group.attrs[name]) for name in ("fixed_shape", "moving_shape")
    )
    full = (whole[0], whole[1])
    spacing = as_spacing(group.attrs.get("spacing", 1), "spacing")
    nodes = Grid.covering(full, spacing)
    affine, displacement = _array(group, "affine", (3, 3)), None
    bends = group.get("displacement", getlink=True) is not None
    if window is None:
        if bends:
            displacement = _array(group, "displacement", (2, *nodes.shape))
    else:
        rows, cols = checked_window(window, full)
        affine = affine.astype(np.float64)
        affine[:, 2] = affine @ (rows.start, cols.start, 1)
        full, spacing = (len(rows), len(cols)), (1.0, 1.0)
        if bends:
            part = nodes.around(rows, cols)
            values = _array(group, "displacement", (2, *nodes.shape), part)
            displacement = nodes.interpolate_part(values, part, rows, cols).astype(np.float32)
    return {
        "affine": affine,
        "spacing": spacing,
        "displacement": displacement,
        "fixed_shape": full,
        "moving_shape": moving_shape,
    }


def _array(
    group: h5py.Group, name: str, shape: tuple[int, ...], part: Window | None = None
) -> NDArray[Any]:
    """Read a dataset of this shape, or a part of its last two axes, that the file itself holds."""
    dataset = _own_item(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name}: not an array")
    if dataset.shape != shape or dataset.dtype.kind not in "iuf":
        raise ValueError(f"{name}: got {dataset.dtype} of shape {dataset.shape}, need {shape}")
    check_values(dataset, name, Path(group.file.filename), part)
    array: NDArray[Any] = dataset[...] if part is None else dataset[(slice(None), *part)]
    return array


def check_strings(path: Path) -> None:
    """Refuse damaged collections of strings, in which the HDF5 library would search for ever.

    A collection starts with its name, version and size. Objects follow: number, references,
    padding and size, of 2, 2, 4 and 8 bytes. Number 0 is the free rest with its own size.

    Raises
    ------
    Refused
        When a size is not possible.
    """
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        at = content.find(_COLLECTION)
        while at >= 0:
            end = at + int.from_bytes(content[at + 8 : at + 16], "little")
            place = at + 16
            while place + 16 <= end:
                number = int.from_bytes(content[place : place + 2], "little")
                size = int.from_bytes(content[place + 8 : place + 16], "little")
                step = 16 + (size + 7) // 8 * 8 if number else size
                if step < 16 or place + step > min(end, len(content)):
                    raise Refused(f"path: {str(path)!r} is damaged: its strings have no end")
                place += step
            at = content.find(_COLLECTION, at + 4)


def check_references(dataset: h5py.Dataset, name: str, path: Path) -> None:
    """Check where the strings of a dataset are; the library may search any other place for ever.

    Each is stored as its length, the place of a collection and a number, of 4, 8 and 4 bytes.

    Raises
    ------
    Refused
        When a place holds no collection.
    """
    offset = dataset.id.get_offset()
    with path.open("rb") as stream:
        for number in range(dataset.size or 0):
            stream.seek((offset or 0) + 16 * number + 4)
            place = int.from_bytes(stream.read(8), "little")
            stream.seek(min(place, path.stat().st_size))
            if offset is None or stream.read(len(_COLLECTION)) != _COLLECTION:
                raise Refused(f"path: {str(path)!r} is damaged: {name!r} holds no strings")


def check_values(dataset: h5py.Dataset, name: str, path: Path, part: Window | None = None) -> None:
    """Check that the file itself holds these values, and their size, before memory is taken.

    Parameters
    ----------
    dataset : h5py.Dataset
    name : str
        Of the values, for the error.
    path : Path
        Named in the error.
    part : tuple of slice, optional
        Of the last two axes: only these values count.

    Raises
    ------
    Refused
        When they are elsewhere, or their chunks inflate to more than they declare.
    """
    if dataset.external or dataset.is_virtual:
        raise Refused(f"path: {path} keeps {name!r} in another file, which is not opened")
    itemsize = dataset.dtype.itemsize
    parts = [slice(0, size) for size in dataset.shape]
    if part is not None:
        parts[-2:] = part
    check_size(math.prod(one.stop - one.start for one in parts) * itemsize, path, name)
    if dataset.chunks is None:
        return
    size = math.prod(dataset.chunks) * itemsize
    check_size(size, path, f"a chunk of {name}")
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= _FILTERS:
        raise Refused(f"path: {path} compresses {name!r} by other filters than gzip, shuffle")
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    for number in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(number)
        starts = zip(chunk.chunk_offset, dataset.chunks, parts, strict=True)
        if any(at >= one.stop or at + size <= one.start for at, size, one in starts):
            continue
        check_size(chunk.size, path, f"a chunk of {name}")
        content = dataset.id.read_direct_chunk(chunk.chunk_offset)[1]
        inflater = zlib.decompressobj()
        # Fletcher's checksum, of four bytes, follows some chunks
        if not chunk.filter_mask and len(inflater.decompress(content, size + 5)) > size + 4:
            raise Refused(f"path: {path}: a chunk of {name!r} holds more than it declares")


def _own_item(group: h5py.Group, name: str) -> Any:
    """An item of a group, not reached by a link to another place or file."""
    link = group.get(name, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name}: a link to another place, which is not followed")
    return group[name]


def read_json(group: h5py.Group) -> dict[str, Any]:
    """Read the metadata of a group."""
    try:
        metadata = json.loads(group.attrs.get("metadata", "{}"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata: {error}") from None
    if not isinstance(metadata, dict):
        raise ValueError("metadata: not an object")
    return metadata


def read_planes(file: h5py.File) -> Iterator[tuple[tuple[int, ...], h5py.Group]]:
    """Iterate over the planes of a stack: their positions, as in `save`, and their groups."""
    if file.get(_PLANES, getlink=True) is None:
        return
    planes = _own_item(file, _PLANES)
    for number in range(len(planes)):
        group = _own_item(planes, str(number))
        yield tuple(int(index) for index in group.attrs["position"]), group


def _write(group: h5py.Group, transform: Stored, metadata: str) -> None:
    group.attrs["fixed_shape"] = transform.fixed_shape
    group.attrs["moving_shape"] = transform.moving_shape
    group.attrs["metadata"] = metadata
    group["affine"] = transform.affine
    if transform.spacing != (1, 1):
        group.attrs["spacing"] = transform.spacing
    if transform.displacement is not None:
        group.create_dataset(
            "displacement", data=transform.displacement, compression="gzip", shuffle=True
        )


def _json(metadata: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: cannot be written as JSON: {error}") from None
    if len(text.encode()) > _MAX_METADATA:
        raise ValueError(f"metadata: got {len(text)} bytes, at most {_MAX_METADATA} fit")
    return text
