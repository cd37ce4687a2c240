"""A plane of a layer as an image that is read window by window. Needs no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.planes import Plane
from napari_busref._napari.layers.reading import level_grid, read_window

__all__ = ["PlaneImage"]


@dataclass(frozen=True, eq=False)
class PlaneImage:
    """A plane as `register`, `write_warped` and `write_fused` take an image.

    Parameters
    ----------
    plane : Plane
    level : int
        Of the plane.
    """

    plane: Plane
    level: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C)."""
        channels = tuple(self.plane.source.shape[self.plane.ndim :])
        return (*level_grid(self.plane, self.level).shape, *channels)

    @property
    def ndim(self) -> int:
        """2 for grey, 3 for colour."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the layer, in native byte order."""
        return np.dtype(self.plane.source.dtype).newbyteorder("=")

    @property
    def levels(self) -> tuple[PlaneImage, ...]:
        """All levels, finest first."""
        return tuple(PlaneImage(self.plane, level) for level in range(len(self.plane.levels)))

    @property
    def identity(self) -> list[Any]:
        """Stands for the pixels, which are not read to compare them."""
        return [self.plane.name, *self.shape, *self.plane.position]

    def __getitem__(self, window: Any) -> NDArray[Any]:
        """Read a window: a slice of rows and a slice of columns, without steps."""
        rows, cols = (
            slice(*part.indices(size)[:2])
            for part, size in zip(window, self.shape[:2], strict=True)
        )
        read = read_window(self.plane, self.level, (rows, cols))
        return read.astype(self.dtype, copy=False)
