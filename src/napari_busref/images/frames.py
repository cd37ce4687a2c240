"""The frames of a series in files: planes along an axis of one file, or the files of a folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.io import ImageFile, read_image, read_plane, readable_files
from napari_busref.images.nodata import NoData
from napari_busref.images.uri import holds_images, is_ome_zarr, is_url
from napari_busref.runtime.file_safety import memory_limited

if TYPE_CHECKING:
    from napari_busref.images.large import LargeImage

__all__ = ["Frames"]


@dataclass(frozen=True)
class Frames:
    """The frames of a series, read where they are used.

    An OME-Zarr, or a file at a URL, is read frame by frame. Another file is read whole on its
    first use in a process, and two are kept.

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
        Likewise, for all that is read at a time.
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
        return not holds_images(self.path) and not _along(self._content.axes)

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
            return ImageFile(self[0], self._content.metadata)
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
    def _content(self) -> _Content:
        choice = tuple(sorted(self.choice.items()))
        if is_ome_zarr(self.path) or is_url(self.path):
            return _unread(self.path, choice, self.nodata, self.memory_limit)
        if not self.path.exists():
            raise FileNotFoundError(f"no such file or folder: {self.path}")
        changed = self.path.stat().st_mtime_ns
        file = _read_whole(self.path, changed, choice, self.nodata, self.memory_limit)
        return _Content(
            file.axes, file.data.shape, file.metadata, lambda n: np.moveaxis(file.data, n, 0)
        )

    @property
    def _stack(self) -> Any:
        """The pixels with the axis of frames first.

        Raises
        ------
        ValueError
            When there is no such axis, or there are others.
        """
        content = self._content
        axes, along = content.axes, _along(content.axes)
        known = [n for n in along if axes[n] == self.axis.upper() or axes[n] not in "TZ"]
        shape = " x ".join(map(str, content.shape))
        if len(along) != 1 or not known:
            raise ValueError(
                f"--axis: {self.path} has {shape} pixels along {axes}, need one axis "
                f"{self.axis.upper()} of frames beside rows and columns"
            )
        if any(letter in "CB" for letter in axes) or "S" in axes[:-1]:
            raise ValueError(
                f"--axis: {self.path} has {shape} pixels along {axes}; choose a --channel"
            )
        return content.frames(along[0])


@dataclass(frozen=True, eq=False)
class _Content:
    """What a file holds.

    Attributes
    ----------
    axes : str
        As of `ImageFile`.
    shape : tuple of int
    metadata : dict
    frames : callable
        From the number of an axis to the planes along it.
    """

    axes: str
    shape: tuple[int, ...]
    metadata: dict[str, Any]
    frames: Callable[[int], Any]


@dataclass(frozen=True)
class _Planes:
    """Planes along an axis of a file, each read where it is used."""

    image: LargeImage
    axis: int
    level: int
    memory_limit: float | None

    def __len__(self) -> int:
        return self.image.stored[1][self.axis]

    def __getitem__(self, number: int) -> NDArray[Any]:
        with memory_limited(self.memory_limit):
            return self.image.plane(self.axis, number).read(level=self.level)


@lru_cache(maxsize=2)
def _unread(
    path: Path,
    choice: tuple[tuple[str, int], ...],
    nodata: NoData,
    memory_limit: float | None,
) -> _Content:
    """Describe a file that is read frame by frame."""
    from napari_busref.images.large import open_image

    chosen: dict[str, Any] = dict(choice)
    level = chosen.pop("level", 0)
    image = open_image(path, **chosen, nodata=nodata, memory_limit=memory_limit)
    axes, shape = image.stored
    # axes of one plane say nothing, and a chosen channel is one
    left = [
        n
        for n, (letter, size) in enumerate(zip(axes, shape, strict=True))
        if letter in "YXS" or (size > 1 and not (letter in "CB" and chosen))
    ]
    return _Content(
        "".join(axes[n] for n in left),
        tuple(shape[n] for n in left),
        image.metadata_of(level),
        lambda n: _Planes(image, left[n], level, memory_limit),
    )


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
