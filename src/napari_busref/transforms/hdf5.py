"""The HDF5 layout of ``.busref.h5`` (docs/reference/formats.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.file_safety import check_size
from napari_busref.runtime.version import package_version

__all__ = ["EXTENSION", "Stored", "open_file", "read", "read_json", "read_planes", "save"]

EXTENSION = ".busref.h5"
_FORMAT = "napari-busref transform"
_VERSION_SINGLE, _VERSION_STACK = 1, 2  # of one transform, and of the planes of a stack
_MAX_METADATA = 60_000  # bytes; an HDF5 attribute holds at most 64 KiB
_PLANES = "planes"


class Stored(Protocol):
    """The contents of a transform, as `napari_busref.Transform` holds them."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """Shape (3, 3), on (row, col, 1)."""

    @property
    def displacement(self) -> NDArray[np.float32] | None:
        """Shape (2, H, W)."""

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
        From the position in a stack to the transform there and its metadata. They make the
        format version 2.

    Raises
    ------
    ValueError
        When the name has another extension or the metadata cannot be written.
    """
    if not path.name.lower().endswith(EXTENSION):
        raise ValueError(f"path: got {str(path)!r}, need a name that ends in {EXTENSION}")
    text = _json(metadata)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = _FORMAT
        file.attrs["format_version"] = _VERSION_STACK if planes else _VERSION_SINGLE
        file.attrs["package_version"] = package_version()
        file.attrs["convention"] = "q = affine(p + displacement(p)); (row, col) pixels"
        _write(file, transform, text)
        for number, (position, (plane, known)) in enumerate((planes or {}).items()):
            group = file.create_group(f"{_PLANES}/{number}")
            group.attrs["position"] = position
            _write(group, plane, _json(known))


@contextmanager
def open_file(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a transform file; errors of the body name the file as damaged.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is not a complete transform file of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}")
    if not h5py.is_hdf5(path):
        raise ValueError(f"path: {str(path)!r} is no HDF5 file, need a transform ({EXTENSION})")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"path: {str(path)!r} is damaged: {error}") from None
    with file:
        try:
            _check_format(file, path)
            yield file
        except (KeyError, TypeError, OSError, AttributeError, RuntimeError) as error:
            raise ValueError(f"path: {str(path)!r} is damaged: {error}") from None
        except ValueError as error:
            text = str(error)
            raise ValueError(
                text if text.startswith("path: ") else f"path: {str(path)!r} is damaged: {text}"
            ) from None


def _check_format(file: h5py.File, path: Path) -> None:
    """Refuse files of other programs and of newer versions."""
    if file.attrs.get("format") != _FORMAT:
        raise ValueError(
            f"path: {str(path)!r} is an HDF5 file of another program, need a transform saved "
            f"by napari-busref ({EXTENSION})"
        )
    version = file.attrs.get("format_version", 0)
    if version not in (_VERSION_SINGLE, _VERSION_STACK):
        raise ValueError(
            f"path: {str(path)!r} has format version {version}, this version of "
            f"napari-busref reads {_VERSION_SINGLE} and {_VERSION_STACK}"
        )


def read(group: h5py.Group) -> dict[str, Any]:
    """Read the arguments of `Transform` from a group: the file, or one of its planes."""
    fixed_shape, moving_shape = (
        tuple(int(size) for size in group.attrs[name]) for name in ("fixed_shape", "moving_shape")
    )
    return {
        "affine": _array(group, "affine", (3, 3)),
        "displacement": _array(group, "displacement", (2, *fixed_shape))
        if group.get("displacement", getlink=True) is not None
        else None,
        "fixed_shape": fixed_shape,
        "moving_shape": moving_shape,
    }


def _array(group: h5py.Group, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read a dataset of this shape, whose values the file itself holds."""
    dataset = _own_item(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name}: not an array")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name}: its values are in another file, which is not opened")
    if dataset.shape != shape or dataset.dtype.kind not in "iuf":
        raise ValueError(f"{name}: got {dataset.dtype} of shape {dataset.shape}, need {shape}")
    check_size(dataset.size * dataset.dtype.itemsize, Path(group.file.filename), name)
    array: NDArray[Any] = dataset[...]
    return array


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
