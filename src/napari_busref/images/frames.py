"""The frames of a series in files: planes along an axis of one file, or the files of a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.io import ImageFile, read_image, read_plane, readable_files
from napari_busref.images.nodata import NoData
from napari_busref.images.uri import holds_images, is_ome_zarr, is_url

__all__ = ["Frames"]


@dataclass(frozen=True)
class Frames:
    """The frames of a series, read where they are used.

    A file is read whole on its first use in a process. Two are kept.

    Parameters
    ----------
    path : Path
        A file with an axis of frames, or a folder of images, sorted by name and number.
    axis : str
        ``"t"`` or ``"z"``. A file whose axis of frames has no name fits both.
    choice : dict of str to int
        `band`, `channel` and `level`, as of `napari_busref.read_image`.
    nodata : float, "auto" or None
        As of `napari_busref.read_image`.
    memory_limit : float, optional
        Likewise, for the whole file.
    """

    path: Path
    axis: str = "t"
    choice: dict[str, int] = field(default_factory=dict)
    nodata: NoData = "auto"
    memory_limit: float | None = None

    @cached_property
    def files(self) -> list[Path]:
        """The images of a folder in the order of the numbers in their names; else empty."""
        if not holds_images(self.path):
            return []
        return sorted(readable_files(self.path), key=lambda path: _natural(path.name))

    @property
    def is_single(self) -> bool:
        """Whether this is a file of one image."""
        return not holds_images(self.path) and not _along(self._file.axes)

    def __len__(self) -> int:
        return len(self.files) if holds_images(self.path) else len(self._stack)

    def __getitem__(self, number: int) -> NDArray[Any]:
        if self.files:
            return self._read(self.files[number]).data
        frame: NDArray[Any] = self._stack[number]
        return frame

    @property
    def first(self) -> ImageFile:
        """The first frame that can be read, with the metadata of its file.

        Raises
        ------
        ValueError, OSError
            When none can be read.
        """
        if not holds_images(self.path):
            return ImageFile(self._stack[0], self._file.metadata)
        error: Exception | None = None
        for path in self.files:
            try:
                return self._read(path)
            except (OSError, ValueError) as one:
                error = error or one
        raise error or ValueError(f"{self.path} holds no image")

    def _read(self, path: Path) -> ImageFile:
        return read_plane(path, **self.choice, nodata=self.nodata, memory_limit=self.memory_limit)

    @property
    def _file(self) -> ImageFile:
        if is_ome_zarr(self.path) or is_url(self.path):
            raise ValueError(
                f"--axis: {self.path} is read by windows, need a local TIFF or NPY, or a folder"
            )
        if not self.path.exists():
            raise FileNotFoundError(f"no such file or folder: {self.path}")
        choice = tuple(sorted(self.choice.items()))
        changed = self.path.stat().st_mtime_ns
        return _read_whole(self.path, changed, choice, self.nodata, self.memory_limit)

    @property
    def _stack(self) -> NDArray[Any]:
        """The pixels with the axis of frames first.

        Raises
        ------
        ValueError
            When there is no such axis, or there are others.
        """
        file = self._file
        axes, along = file.axes, _along(file.axes)
        known = [n for n in along if axes[n] == self.axis.upper() or axes[n] not in "TZ"]
        shape = " x ".join(map(str, file.data.shape))
        if len(along) != 1 or not known:
            raise ValueError(
                f"--axis: {self.path} has {shape} pixels along {axes}, need one axis "
                f"{self.axis.upper()} of frames beside rows and columns"
            )
        if any(letter in "CB" for letter in axes) or "S" in axes[:-1]:
            raise ValueError(
                f"--axis: {self.path} has {shape} pixels along {axes}; choose a --channel"
            )
        return np.moveaxis(file.data, along[0], 0)


@lru_cache(maxsize=2)
def _read_whole(
    path: Path,
    changed: int,
    choice: tuple[tuple[str, int], ...],
    nodata: NoData,
    memory_limit: float | None,
) -> ImageFile:
    """Read a file, unless it is kept and has not changed."""
    return read_image(path, **dict(choice), nodata=nodata, memory_limit=memory_limit)


def _along(axes: str) -> list[int]:
    """The axes that are neither rows, columns, colours nor channels."""
    return [n for n, letter in enumerate(axes) if letter not in "YXSCB"]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which frame 10 comes after frame 9."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part.casefold())
        for part in re.split(r"(\d+)", name)
    ]
