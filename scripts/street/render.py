"""Render the street: `backdrop`, `houses` and `things` paint it on a `canvas`, far to near."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .backdrop import ground, sky, skyline
from .canvas import Canvas, Floats
from .houses import street_side
from .things import street_life


def render(shape: tuple[int, int], seed: int) -> tuple[NDArray[np.uint8], Floats]:
    """Render the scene.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the images.
    seed : int
        Seed of all random choices.

    Returns
    -------
    visible : numpy.ndarray
        uint8 RGB ``(H, W, 3)``.
    infrared : numpy.ndarray
        float32 ``(H, W)`` in [0, 1], brighter where warmer, without sensor noise.
    """
    return render_labelled(shape, seed)[:2]


def render_labelled(
    shape: tuple[int, int], seed: int
) -> tuple[NDArray[np.uint8], Floats, NDArray[np.uint8]]:
    """Render the scene with its labels, uint8 ``(H, W)``: the `Kind` of every pixel."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(shape, rng)
    sky(canvas, rng)
    skyline(canvas, rng)
    ground(canvas, rng)
    for side in (-1, 1):
        street_side(canvas, rng, side)
    street_life(canvas, rng)
    return canvas.visible(rng), canvas.infrared(), canvas.labels()
