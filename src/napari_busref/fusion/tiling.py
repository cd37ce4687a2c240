"""Run a fusion network tile by tile, with the result of the whole image.

Two attributes of a network tell how to cut its input:

``receptive_field``
    How many pixels away an input pixel may lie and still change an output pixel. It excludes
    `pool_image` and `run_on_image` of `napari_busref.models.fusion.global_pooling`.
``stride``
    Tiles begin at multiples of this, because of pooling or strided convolutions; 1 by default.

The network gets every tile with a margin of the receptive field, which is cropped from its
output. Tiles therefore need no blending and leave no seam. A network without ``receptive_field``
cannot be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_busref.runtime.progress import Reporter

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Tile", "choose_size", "cut", "run_tiles"]

#: Larger images, in pixels, are cut if the network allows it.
WHOLE_PIXELS = 2_500_000
#: Side of these tiles in pixels, without margins.
SIDE = 512

Network = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes
    ----------
    core : tuple of slice
        The part of the image that the tile computes.
    padded : tuple of slice
        The core with its margin, in the image: the input of the network.
    """

    core: tuple[slice, slice]
    padded: tuple[slice, slice]

    @property
    def inner(self) -> tuple[slice, slice]:
        """The core within the padded tile."""
        rows, cols = (
            slice(core.start - padded.start, core.stop - padded.start)
            for core, padded in zip(self.core, self.padded, strict=True)
        )
        return rows, cols


def cut(shape: tuple[int, int], size: int, receptive_field: int, stride: int = 1) -> list[Tile]:
    """Cut an image into tiles.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the image.
    size : int
        Side of a tile's core; rounded up to a multiple of `stride`.
    receptive_field, stride : int
        Attributes of the network, see this module.

    Returns
    -------
    list of Tile
        Row by row; their cores cover the image without overlap.
    """
    size, margin = (-(-length // stride) * stride for length in (size, receptive_field))

    def pieces(length: int) -> Iterator[tuple[slice, slice]]:
        for start in range(0, length, size):
            stop = min(start + size, length)
            yield (
                slice(start, stop),
                slice(max(start - margin, 0), min(stop + margin, length)),
            )

    return [
        Tile((row, col), (padded_rows, padded_cols))
        for row, padded_rows in pieces(shape[0])
        for col, padded_cols in pieces(shape[1])
    ]


def choose_size(
    module: nn.Module,
    name: str,
    shape: tuple[int, int],
    tile: int | Literal["auto"] | None,
    halved: bool = False,
) -> int | None:
    """Choose the side of the tiles of an image, or None to run it whole.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    name : str
        Name of the network in messages.
    shape : tuple of int
        (H, W) of the image.
    tile : int, "auto" or None
        ``tile`` of `napari_busref.fuse`.
    halved : bool
        Whether the network runs at half the resolution; the side is then of its input.

    Raises
    ------
    ValueError
        For an invalid side, or for a network that cannot be cut.
    """
    tileable = getattr(module, "receptive_field", None) is not None
    if halved:
        shape = -(-shape[0] // 2), -(-shape[1] // 2)
    if tile is None:
        return None
    if tile == "auto":
        return SIDE if tileable and shape[0] * shape[1] > WHOLE_PIXELS else None
    if isinstance(tile, bool) or not isinstance(tile, int | np.integer) or tile < 16:
        raise ValueError(f"tile: got {tile!r}, need 'auto', None or a side in pixels, at least 16")
    if not tileable:
        raise ValueError(
            f"tile: {name} needs the whole image at once and cannot be cut; use tile=None or "
            "another model"
        )
    return int(tile) if max(shape) > tile else None


def run_tiles(
    network: Network,
    module: Any,
    visible: NDArray[np.float32],
    infrared: NDArray[np.float32],
    size: int,
    reporter: Reporter,
    channels: tuple[int, ...] = (),
) -> NDArray[np.float32]:
    """Run a network on all tiles and assemble their cores.

    Parameters
    ----------
    network : callable
        Maps two images (H, W) of any size to the fused one, (channels…, H, W).
    module : torch.nn.Module
        Supplies the ``receptive_field`` and ``stride`` of the network.
    visible, infrared : ndarray of float32, shape (H, W)
        The pair.
    size : int
        Side of a tile's core.
    reporter : Reporter
        Reports every tile, and raises there when cancelled.
    channels : tuple of int
        Axes of the output before those of the image.
    """
    from napari_busref.models.fusion.global_pooling import PassIncomplete, TileAccumulator

    shape = visible.shape[0], visible.shape[1]
    stride = getattr(module, "stride", 1)
    tiles = cut(shape, size, module.receptive_field, stride)
    fused = np.empty((*channels, *shape), np.float32)
    accumulator = TileAccumulator(shape, stride)
    number, again = 0, True
    while again:
        # the number of passes is unknown: each gets half of the remaining progress
        bar = reporter.part(1 - 0.5**number, 1 - 0.5 ** (number + 1))
        for index, tile in enumerate(tiles):
            bar.step(f"tile {index + 1} of {len(tiles)}", index / len(tiles))
            pair = visible[tile.padded], infrared[tile.padded]
            origin = tile.padded[0].start, tile.padded[1].start
            with accumulator.tile(pair[0].shape, tile.inner, origin):
                try:
                    fused[(..., *tile.core)] = network(*pair)[(..., *tile.inner)]
                except PassIncomplete:
                    continue
        again = accumulator.end_pass()
        number += 1
    return fused
