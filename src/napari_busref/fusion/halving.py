"""Fuse large images at half the resolution, and add the finest band of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_busref.fusion.tiling import WHOLE_PIXELS

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["HALO", "add_finest", "fuse_halved", "halve", "runs_halved"]

Grey = NDArray[np.float32]

_POWER = 1.4  # of the energies, as in the training of `gaf`
_NOISE = 0.003
_GAIN = 1.16
_ROWS = 256  # of the image at a time: they stay in the processor's cache
#: How far a pixel may lie and still change another one.
HALO = 8


def runs_halved(module: nn.Module, shape: tuple[int, int]) -> bool:
    """Whether a network runs at half the resolution on an image of a shape (H, W).

    Networks with the attribute ``halves_large`` do above 2.5 million pixels.
    """
    return getattr(module, "halves_large", False) and shape[0] * shape[1] > WHOLE_PIXELS


def halve(image: Grey) -> Grey:
    """Means of 2 x 2 px of (H, W); the last row and column may hold fewer."""
    import torch
    from torch.nn.functional import avg_pool2d

    small = avg_pool2d(torch.from_numpy(np.ascontiguousarray(image))[None], 2, ceil_mode=True)
    result: Grey = small[0].numpy()
    return result


def fuse_halved(network: Callable[[Grey, Grey], Grey], visible: Grey, infrared: Grey) -> Grey:
    """Fuse images of half the resolution, and add the band of structure finer than that.

    Each source has in the band the share of its local energy there, to the power of 1.4, and the
    band the gain of 1.16: the target that `gaf` learns from, see
    `napari_busref.training.losses.fusion.target_image`.

    Parameters
    ----------
    network : callable
        Maps two images (h, w) to the fused one.
    visible, infrared : ndarray of float32, shape (H, W)
        In [0, 1].

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1].
    """
    halves = halve(visible), halve(infrared)
    return add_finest(visible, infrared, np.stack([*halves, network(*halves)]))


def add_finest(visible: Grey, infrared: Grey, coarse: Grey) -> Grey:
    """Enlarge a fused image, and add the band of structure that it lacks.

    Parameters
    ----------
    visible, infrared : ndarray of float32, shape (H, W)
        In [0, 1].
    coarse : ndarray of float32, shape (3, ceil(H / 2), ceil(W / 2))
        Both halved, and the fused one.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1]. A pixel depends on those up to `HALO` px away.
    """
    import torch

    fused = np.empty_like(visible)
    height = visible.shape[0]
    for top in range(0, height, _ROWS):
        start, stop = max(top - HALO, 0), min(top + _ROWS + HALO, height)
        pair = np.stack([visible[start:stop], infrared[start:stop]])
        part = _sharpened(
            torch.from_numpy(pair), torch.from_numpy(coarse[:, start // 2 : -(-stop // 2)])
        )
        rows = slice(top - start, min(top + _ROWS, height) - start)
        fused[top : top + _ROWS] = part[rows].numpy()
    return fused


def _sharpened(pair: Tensor, coarse: Tensor) -> Tensor:
    """Enlarge the fused image and add the finest band.

    Parameters
    ----------
    pair : Tensor
        (2, H, W), visible and infrared.
    coarse : Tensor
        (3, ceil(H / 2), ceil(W / 2)): both halved, and the fused one.
    """
    import torch
    from torch.nn.functional import avg_pool2d, interpolate

    height, width = pair.shape[-2:]

    def enlarge(small: Tensor) -> Tensor:
        size = (2 * small.shape[-2], 2 * small.shape[-1])
        return interpolate(small[None], size, mode="bilinear")[0, :, :height, :width]

    wide = enlarge(coarse)
    bands = pair - wide[:2]
    energy = avg_pool2d(bands.square(), 2, ceil_mode=True)
    energy = avg_pool2d(energy, 3, 1, 1, count_include_pad=False) + _NOISE**2
    share = torch.sigmoid(_POWER * (energy[0] / energy[1]).log())
    band = torch.lerp(bands[1], bands[0], enlarge(share[None])[0])
    return (wide[2] + _GAIN * band).clamp(0, 1)
