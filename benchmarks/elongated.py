"""Compare the CPU seconds of elongated images with those of a square of as many pixels.

    python benchmarks/elongated.py [--shapes 16x4000 4000x16 32x8000] [--searches auto wide]

Each pair is a smooth random texture and itself, moved, with reversed contrast. A second pair of
each shape shares nothing, which takes the longest. One thread; the first call is not counted.
The aim is ten times the square.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref import register

Image = NDArray[np.float64]
Search = Literal["auto", "near", "wide", "none"]
MOVED = (1.5, -4.0)  # rows and columns in pixels


def texture(shape: tuple[int, int], seed: int) -> Image:
    """A random texture of several scales, in [0, 1]."""
    noise = np.random.default_rng(seed).random(shape)
    scales: list[Image] = [ndimage.gaussian_filter(noise, sigma) for sigma in (1, 3, 8)]
    whole = sum(scale / scale.std() for scale in scales)
    return np.asarray((whole - np.min(whole)) / np.ptp(whole))


def pairs(shape: tuple[int, int]) -> Iterator[tuple[str, Image, Image]]:
    """The pair that fits and the pair that does not."""
    fixed = texture(shape, 0)
    yield "fits", fixed, 1 - ndimage.shift(fixed, MOVED, mode="reflect")
    yield "unrelated", fixed, texture(shape, 1)


def seconds(fixed: Image, moving: Image, search: Search) -> tuple[float, Any]:
    """CPU seconds of a registration, and its quality."""
    began = time.process_time()
    quality = register(fixed, moving, search=search, device="cpu").quality
    return time.process_time() - began, quality


def main() -> None:
    """Print the seconds of each strip and each square, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["16x4000", "4000x16", "32x8000"])
    parser.add_argument("--searches", nargs="+", default=["auto", "wide"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds(texture((64, 64), 0), texture((64, 64), 0), "wide")
    for text in options.shapes:
        rows, cols = (int(side) for side in text.split("x"))
        side = round((rows * cols) ** 0.5)
        for search in options.searches:
            for strip, square in zip(pairs((rows, cols)), pairs((side, side)), strict=True):
                long, quality = seconds(*strip[1:], search)
                short, _ = seconds(*square[1:], search)
                print(
                    f"{text} {search} {strip[0]}: {long:.1f} s, square {short:.1f} s, "
                    f"{long / short:.1f} x, {quality.status}, score {quality.score:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
