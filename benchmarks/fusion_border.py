"""Measure the step at the border of the fused area on pairs of two hand-held cameras.

    python benchmarks/fusion_border.py [--model gaf] [--limit 3] [--device cpu] [--threads 2]

The infrared image of METU-VisTIR covers two thirds of the visible one. The step is the mean
absolute difference of brightness across the border of the mask, of the means over 1, 4, 8, 16 or
32 px on either side, along rows and columns. Each cell is the step of the fused image over that of
the visible image alone at the same place: 1 means no step of its own.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Device, Limit, Threads
from tables import markdown

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTHS = (1, 4, 8, 16, 32)
"""Pixels on either side of the border."""


def step(image: NDArray[Any], mask: NDArray[Any], width: int) -> float:
    """Mean absolute difference of an image (H, W) across the border of a mask.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Brightness.
    mask : ndarray of bool, shape (H, W)
        Its border counts where `width` pixels on one side are inside and on the other outside.
    width : int
        Pixels averaged on each side.

    Returns
    -------
    float
        NaN without such a place.
    """
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    found = []
    for values, area in ((image, mask), (image.T, mask.T)):
        means, shares = (
            sliding_window_view(np.asarray(array, float), width, 0).mean(-1)
            for array in (values, area)
        )
        border = np.abs(shares[width:] - shares[:-width]) == 1
        found.append(np.abs(means[width:] - means[:-width])[border])
    steps = np.concatenate(found)
    return float(steps.mean()) if steps.size else float("nan")


def main(
    model: Annotated[list[str] | None, typer.Option(help="Fusion models (default: gaf).")] = None,
    limit: Limit = None,
    device: Device = "cpu",
    threads: Threads = 2,
    data_root: DataRoot = None,
) -> None:
    """Print one row for each pair and model, and their means."""
    from options import set_threads

    set_threads(threads)
    import numpy as np
    from handheld import pairs

    from napari_busref import fuse, register
    from napari_busref.images.preprocess import luma

    rows = []
    for name, visible, thermal in pairs(data_root, limit):
        found = register(visible, thermal, device=device, search="wide", transform="homography")
        own = [step(luma(visible.astype(float)), found.mask, width) for width in WIDTHS]
        for method in model or ["gaf"]:
            fused = fuse(visible, found.warped, mask=found.mask, model=method, device=device).fused
            grey = luma(fused.astype(float))
            steps = [step(grey, found.mask, width) for width in WIDTHS]
            rows.append((name, method, np.divide(steps, own)))
    table = [[name, method, *(f"{s:.2f}" for s in steps)] for name, method, steps in rows]
    mean = np.mean([steps for _, _, steps in rows], 0)
    table.append(["mean", "", *(f"{s:.2f}" for s in mean)])
    print(markdown(["pair", "model", *(f"{width} px" for width in WIDTHS)], table))


if __name__ == "__main__":
    typer.run(main)
