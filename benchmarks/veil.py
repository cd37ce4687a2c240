"""Measure how grey a fused image is where one source is bright and the other dark.

    python benchmarks/veil.py [--case roadscene] [--model gaf] [--limit 4] [--device cpu]
        [--threads 2]

The squares have 16 px. In one kind the visible image is bright (above 0.6 of the full range), and
the infrared one darker by at least a quarter of the range: mostly daytime sky. The opposite kind
shows mostly warm objects at night. Averaging the sources turns both grey. For each kind the table
has the fraction of the area, and the mean brightness of both sources and of each method's result.
Brightness is in 0..1, the Y channel for colour images.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Device, Limit, Threads
from tables import markdown

from fusion import CASES

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 16  # of a square, in px
BRIGHT, MIN_DIFFERENCE = 0.6, 0.25  # fractions of the full range


def squares(image: NDArray[Any]) -> NDArray[Any]:
    """Means of the complete squares of an image (H, W) on 0..255, as 0..1, in one row."""
    from skimage.transform import downscale_local_mean

    height, width = (side - side % SIDE for side in image.shape)
    means: NDArray[Any] = downscale_local_mean(image[:height, :width] / 255, (SIDE, SIDE))
    return means.ravel()


def main(
    case: str = "roadscene",
    model: Annotated[
        list[str] | None, typer.Option(help="Models (default: the task's, then the baselines).")
    ] = None,
    limit: Limit = None,
    device: Device = "cpu",
    threads: Threads = 2,
    data_root: DataRoot = None,
) -> None:
    """Print the table."""
    if case not in CASES:
        raise typer.BadParameter(f"--case: need one of {', '.join(CASES)}")
    from options import set_threads

    set_threads(threads)
    import numpy as np

    from napari_busref import fuse
    from napari_busref.evaluation import FUSION_BASELINES
    from napari_busref.fusion.tasks import TASKS
    from napari_busref.images.preprocess import luma
    from napari_busref.models import load_model

    task, load = CASES[case]
    baselines = [name for name in FUSION_BASELINES if not name.endswith("only")]
    found: dict[str, list[NDArray[Any]]] = {"visible": [], "infrared": []}
    networks = {
        name: load_model(name, kind="fusion", device=device)
        for name in model or [*TASKS[task].values(), *baselines]
    }
    for _, infrared, visible in load(data_root)[:limit]:
        grey = np.rint(luma(visible.astype(float))).astype(np.uint8)
        found["visible"].append(squares(grey))
        found["infrared"].append(squares(infrared))
        full = np.ones(grey.shape, bool)
        for name, network in networks.items():
            fused = fuse(grey, infrared, model=network, task=task, mask=full, device=device).fused
            found.setdefault(name, []).append(squares(fused))
    means = {name: np.concatenate(rows) for name, rows in found.items()}
    visible, infrared = means["visible"], means["infrared"]
    kinds = {
        "visible bright": (visible > BRIGHT) & (infrared < visible - MIN_DIFFERENCE),
        "infrared bright": (infrared > BRIGHT) & (visible < infrared - MIN_DIFFERENCE),
    }
    rows = []
    for kind, where in kinds.items():
        cells = [f"{row[where].mean():.2f}" if where.any() else "" for row in means.values()]
        rows.append([kind, f"{where.mean():.1%}", *cells])
    typer.echo(markdown(["", "area", *means], rows))


if __name__ == "__main__":
    typer.run(main)
