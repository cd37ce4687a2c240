"""Register a made series with a drift, a step and blank frames, and compare it with the truth.

    python benchmarks/series.py [--frames 200] [--size 128] [--scene thermal] [--workers 2]

The fixed image is a part of a photograph of scikit-image, or of the visible street of the
built-in sample. Each frame is a moving part of the same scene: inverted and bent grey values, or
the thermal street. A frame is shifted and turned by a smooth drift, steps aside once, and has
noise. Five frames show noise alone. Errors are distances of the centre, in pixels: of each
frame's own transform, and of the drift, whose mean offset does not count.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage
from skimage import data

from napari_busref import SeriesResult, load_sample, register_series

STEP = np.array([9.0, -7.0])  # px
NOISE = 3.0  # sd, grey levels
BLANKS = ((0.05, 0), (0.3, 0), (0.3, 1), (0.3, 2), (0.8, 0))  # share of the length, and frames


def scene(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The fixed and the moving view of a scene, grey values in [0, 255].

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name == "photograph":
        fixed = data.camera().astype(float)
        return fixed, 20 + 200 * (1 - (fixed / 255) ** 1.5)
    if name == "thermal":
        sample = load_sample("thermal")
        return sample.fixed.mean(-1), sample.aligned.astype(float)
    raise ValueError(f"--scene: got {name!r}, need photograph or thermal")


def path(frames: int, blanks: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The true shift of each frame in px, shape (T, 2), and its rotation in degrees.

    The step lies in the middle, or at the next frame with content.
    """
    t = np.arange(frames)
    shift = np.stack([0.06 * t, 6 * np.sin(t / 30)], 1)
    step = frames // 2
    while step in blanks or step - 1 in blanks:
        step += 1
    shift[step:] += STEP
    return shift, 1.5 * np.sin(t / 45)


def film(
    name: str, frames: int, size: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64], list[int]]:
    """The fixed image, the frames, where its centre lies in each, and the blank frames."""
    rng = np.random.default_rng(seed)
    fixed, moving = scene(name)
    middle = (np.array(fixed.shape) - 1) / 2
    grid = np.indices((size, size)) - (size - 1) / 2
    blanks = [int(share * frames) + more for share, more in BLANKS]
    shifts, turns = path(frames, blanks)
    made, truth = [], []
    for n, (shift, turn) in enumerate(zip(shifts, np.radians(turns), strict=True)):
        rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
        where = np.tensordot(rotation, grid, 1) + (middle + shift)[:, None, None]
        frame = ndimage.map_coordinates(moving, where, order=3, mode="reflect")
        if n in blanks:
            frame = np.full(frame.shape, 40.0)
        made.append((frame + rng.normal(0, NOISE, frame.shape)).clip(0, 255).astype(np.uint8))
        truth.append((size - 1) / 2 - rotation.T @ shift)
    part = ndimage.map_coordinates(fixed, grid + middle[:, None, None], order=3, mode="reflect")
    return part.clip(0, 255).astype(np.uint8), np.array(made), np.array(truth), blanks


def errors(
    result: SeriesResult, truth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors of each frame's transform and of the drift at the centre, in px."""
    centre = (np.array(result.transforms[0].fixed_shape) - 1) / 2
    own = np.array([one.points(centre) for one in result.transforms]) - truth
    drift = result.drift - truth
    return np.hypot(*own.T), np.hypot(*(drift - drift.mean(0)).T)


def main(
    frames: Annotated[int, typer.Option(min=40, help="Number of frames.")] = 200,
    size: Annotated[int, typer.Option(min=64, help="Side of a frame in px.")] = 128,
    scene: Annotated[str, typer.Option(help="photograph or thermal.")] = "photograph",
    refine: Annotated[str, typer.Option(help="As of register.")] = "affine",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
) -> None:
    """Print the errors, the gaps and the CPU time."""
    fixed, moving, truth, blanks = film(scene, frames, size, seed)
    pool = nullcontext() if workers == 1 else ProcessPoolExecutor(workers)
    began = time.time()
    with pool as executor:
        result = register_series(fixed, moving, refine=refine, device="cpu", executor=executor)
    spent, console = os.times(), Console()
    console.print(result)
    for name, values in zip(("frames", "drift"), errors(result, truth), strict=True):
        console.print(
            f"{name}: error {values.mean():.2f} px, p95 {np.percentile(values, 95):.2f}, "
            f"largest {values.max():.2f}"
        )
    named = "named" if list(result.gaps) == blanks else f"not named, but {blanks}"
    cpu = spent.user + spent.system + spent.children_user + spent.children_system
    console.print(
        f"blank frames {named}; {cpu / frames:.2f} CPU s a frame, {time.time() - began:.0f} s in "
        f"all, load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    typer.run(main)
