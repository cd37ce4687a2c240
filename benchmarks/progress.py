"""Measure how evenly the progress bar moves, against CPU time.

    python benchmarks/progress.py [--size 512] [--runs 3] [--stages]

Registers and fuses a built-in sample, by a near and by a wide search. Each line gives one run:
its CPU seconds, the largest distance between the bar and the share of the time, and the largest
rise of the bar within a hundredth of the time. The first run of each search has the committed
durations, later ones those that the runs before have taught. ``reported`` is the fraction that the
job reports, ``shown`` what a panel or the command line shows, which moves on between two reports.

``--stages`` lists the CPU seconds of every stage instead, for the table in
`napari_busref.runtime.durations`. One thread is used, and the user's cache stays as it is.
"""

from __future__ import annotations

import threading
from time import process_time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

import napari_busref as nb
from napari_busref.data.samples import thermal_scene
from napari_busref.runtime import progress
from napari_busref.runtime.durations import DURATIONS, stage
from napari_busref.runtime.pace import Pace

SAMPLING = 0.02  # s
SEARCHES = ("near", "wide")


def main(
    size: Annotated[int, typer.Option(help="Side of both images; 0 for the sample.")] = 0,
    runs: Annotated[int, typer.Option(help="Runs of each search.")] = 3,
    stages: Annotated[bool, typer.Option(help="List the seconds of the stages instead.")] = False,
) -> None:
    """Print one line for each run."""
    torch.set_num_threads(1)
    progress.perf_counter = process_time  # type: ignore[attr-defined]  # learn CPU seconds
    pair = thermal_scene(0, (size, size)) if size else nb.load_sample("thermal")
    for search in SEARCHES:
        for number in range(1, runs + 1):
            found = watch(pair, search)
            if not stages:
                print(f"{search}, run {number}: {describe(*found)}", flush=True)
    if stages:
        pixels = pair.fixed.shape[0] * pair.fixed.shape[1]
        for key, factor in DURATIONS.factors.items():
            name, _, kind = key.partition(": ")
            print(f"{key}: {factor * stage(name, pixels, kind=kind).default:.3f} s")


def watch(pair: Any, search: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Register and fuse; return (CPU seconds, fraction) as reported and as shown."""
    began, end = process_time(), threading.Event()
    pace, reported, shown = Pace(process_time), [(0.0, 0.0)], [(0.0, 0.0)]

    class Bar:
        """The progress callback."""

        expect = staticmethod(pace.expect)

        def __call__(self, stage: str, fraction: float) -> None:
            pace(stage, fraction)
            reported.append((process_time() - began, fraction))

    def sample() -> None:
        while not end.wait(SAMPLING):
            shown.append((process_time() - began, pace.now().fraction))

    sampler = threading.Thread(target=sample)
    sampler.start()
    nb.register_and_fuse(pair.fixed, pair.moving, search=search, device="cpu", progress=Bar())
    end.set()
    sampler.join()
    last = (process_time() - began, 1.0)
    return np.array([*reported, last]), np.array([*shown, last])


def describe(reported: NDArray[np.float64], shown: NDArray[np.float64]) -> str:
    """The figures of a run in words."""
    parts = [f"{reported[-1, 0]:.1f} CPU s"]
    for name, points in (("reported", reported), ("shown", shown)):
        times, bar = points[:, 0] / points[-1, 0], points[:, 1]
        grid = np.linspace(0, 1, 101)
        at = bar[np.searchsorted(times, grid, side="right") - 1]
        off, rise = np.abs(at - grid).max(), np.diff(at).max()
        parts.append(f"{name} off by {100 * off:.0f} %, largest rise {100 * rise:.0f} %")
    return "; ".join(parts)


if __name__ == "__main__":
    typer.run(main)
