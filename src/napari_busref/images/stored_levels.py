"""`StoredLevels`: the open file behind a `LargeImage`, and the check of its levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.selection import Stored

__all__ = ["StoredLevels", "check_levels"]


@dataclass(frozen=True, eq=False)
class StoredLevels:
    """The arrays of an open file, which belong to one process.

    Attributes
    ----------
    arrays : tuple of array_like
        One for each level, finest first, with ``shape``, ``dtype`` and windows; ``chunks`` where
        pixels are stored together.
    axes : str
        A letter for each axis, as of `Stored`.
    meant : callable
        From a block and its axes to what it means, pixel by pixel: palettes become colours.
    """

    arrays: tuple[Any, ...]
    axes: str
    meant: Callable[[NDArray[Any], str], Stored]

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns that are stored together, of each level."""
        at = self.axes.index("Y"), self.axes.index("X")
        chunks = [getattr(one, "chunks", None) or one.shape for one in self.arrays]
        return tuple((int(chunk[at[0]]), int(chunk[at[1]])) for chunk in chunks)

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """(H, W) of each level."""
        at = self.axes.index("Y"), self.axes.index("X")
        return tuple((int(one.shape[at[0]]), int(one.shape[at[1]])) for one in self.arrays)


def check_levels(
    sides: Sequence[tuple[int, int]], dtypes: Sequence[np.dtype[Any]], path: str
) -> None:
    """Refuse levels that are no pyramid: one number type, and one factor for both sides.

    Raises
    ------
    ValueError
        Naming the level.
    """
    full = sides[0]
    for level, (size, dtype) in enumerate(zip(sides, dtypes, strict=True)):
        smaller = all(0 < a <= b for a, b in zip(size, sides[max(level - 1, 0)], strict=True))
        # programs round sides up or down
        ranges = [(n / (a + 1), n / max(a - 1, 1e-9)) for n, a in zip(full, size, strict=True)]
        common = max(low for low, _ in ranges) <= min(high for _, high in ranges)
        if not smaller or not common or dtype != dtypes[0]:
            raise ValueError(
                f"path: the levels of {path} do not belong together: level {level} is {size[0]} x "
                f"{size[1]} {dtype}, level 0 is {full[0]} x {full[1]} {dtypes[0]}"
            )
