"""Running a fusion network on an image in tiles, with the result of the whole image.

A network says with two attributes how it may be cut:

``receptive_field``
    How many pixels away from an output pixel an input pixel may lie and still change it, what
    goes through `pool_image` and `run_on_image` of `napari_busref.models.fusion.global_pooling` left out.
``stride``
    Tiles must begin at multiples of this, because of pooling or strided convolutions; 1 if not
    given.

Every tile is run with a margin of the reach that is thrown away, so there is nothing to blend and
no seam. A network without ``receptive_field`` sees the whole image at once.
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

#: Images of more pixels than this are cut, if the network allows it.
WHOLE_PIXELS = 2_500_000
#: Side of the tiles then, margins not counted.
SIDE = 1024

Network = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes
    ----------
    core : tuple of slice
        What it contributes, in the image.
    seen : tuple of slice
        What the network sees, in the image.
    """

    core: tuple[slice, slice]
    seen: tuple[slice, slice]

    @property
    def inner(self) -> tuple[slice, slice]:
        """The core within what is seen."""
        rows, cols = (
            slice(core.start - seen.start, core.stop - seen.start)
            for core, seen in zip(self.core, self.seen, strict=True)
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
    reach, stride : int
        Of the network, see this module.

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
        Tile((row, col), (seen_rows, seen_cols))
        for row, seen_rows in pieces(shape[0])
        for col, seen_cols in pieces(shape[1])
    ]


def choose_size(
    module: nn.Module, name: str, shape: tuple[int, int], tile: int | Literal["auto"] | None
) -> int | None:
    """Side of the tiles for an image, or None to run it whole.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    name : str
        How messages call it.
    shape : tuple of int
        (H, W) of the image.
    tile : int, "auto" or None
        As the user asks for it.

    Raises
    ------
    ValueError
        When tiles are asked for that the network does not allow.
    """
    tileable = getattr(module, "receptive_field", None) is not None
    if tile is None:
        return None
    if tile == "auto":
        return SIDE if tileable and shape[0] * shape[1] > WHOLE_PIXELS else None
    if isinstance(tile, bool) or not isinstance(tile, int | np.integer) or tile < 16:
        raise ValueError(f"tile: got {tile!r}, need 'auto', None or a side in pixels, at least 16")
    if not tileable:
        raise ValueError(
            f"tile: {name} looks at the whole image at once and cannot be cut; use tile=None or "
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
    """Run a network on all tiles and put their cores together.

    Parameters
    ----------
    network : callable
        From two images (H, W) of any size to the fused one, (channels…, H, W).
    module : torch.nn.Module
        The network behind it, for its ``receptive_field`` and ``stride``.
    visible, infrared : ndarray of float32, shape (H, W)
        The pair.
    size : int
        Side of a tile's core.
    reporter : Reporter
        Told of every tile, and asked there whether to stop.
    channels : tuple of int
        Axes of what the network gives, before those of the image.
    """
    from napari_busref.models.fusion.global_pooling import PassIncomplete, TileAccumulator

    shape = visible.shape[0], visible.shape[1]
    stride = getattr(module, "stride", 1)
    tiles = cut(shape, size, module.receptive_field, stride)
    fused = np.empty((*channels, *shape), np.float32)
    ledger = TileAccumulator(stride)
    number, again = 0, True
    while again:
        # how many passes there will be is not known: each takes half of what is left
        bar = reporter.part(1 - 0.5**number, 1 - 0.5 ** (number + 1))
        for index, tile in enumerate(tiles):
            bar.step(f"fusing, tile {index + 1} of {len(tiles)}", index / len(tiles))
            pair = visible[tile.seen], infrared[tile.seen]
            origin = tile.seen[0].start, tile.seen[1].start
            with ledger.tile(pair[0].shape, tile.inner, origin):
                try:
                    fused[(..., *tile.core)] = network(*pair)[(..., *tile.inner)]
                except PassIncomplete:
                    continue
        again = ledger.settle()
        number += 1
    return fused
