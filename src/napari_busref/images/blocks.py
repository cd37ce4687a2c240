"""Blocks of rows, to compute large images with small temporary arrays."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["row_blocks"]

_BLOCK = 1 << 18  # pixels computed at a time


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut an image into blocks of rows, each of about 260,000 pixels.

    Parameters
    ----------
    shape : tuple of int
        (H, W).

    Yields
    ------
    slice
        Of rows, from top to bottom.
    """
    step = max(1, _BLOCK // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
