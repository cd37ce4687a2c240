"""Measure how misalignment degrades a fused image, and how much registration recovers.

    python benchmarks/ghosting.py --out FOLDER [--model auto] [--fusion-model gaf] [--seeds 0]
        [--limit 4] [--dataset roadscene]

The fusion of each aligned pair is the reference. The infrared image is then warped by
``docs/explanation/protocol.md``. The visible image is fused with the warped image unregistered,
registered by the model, and registered by the true warp. Every result is scored against the
reference: by Q_AB/F (with the reference as both sources; a copy has 0.975) and SSIM. Pixels
outside the reconstructible mask are taken from the reference. *visible only* has no infrared
content: a fusion below it is worse than none. ``FOLDER`` gets ``rows.csv`` and ``table.md``.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Device, Limit, Threads, parse_seeds
from tables import Row, markdown, publish

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

ROWS = ("visible only", "misaligned", "registered", "true warp", "aligned")


def measure(
    visible: NDArray[Any],
    infrared: NDArray[Any],
    seed: int,
    registration: nn.Module,
    fusion: nn.Module,
    device: str,
) -> list[Row]:
    """Scores of all variants of one pair under one warp."""
    import numpy as np

    from napari_busref import Transform, fuse, register
    from napari_busref.metrics.fusion import qabf, ssim
    from napari_busref.metrics.registration import Scorer, make_pair, pixel_grid

    pair = make_pair(infrared / 255.0, visible, seed)
    moving = np.rint(255 * pair.moving).astype(np.uint8)
    options: dict[str, Any] = {"model": fusion, "device": device}
    everywhere = np.ones(visible.shape, bool)
    reference = fuse(visible, infrared, mask=everywhere, **options).fused
    found = register(visible, moving, model=registration, device=device)
    grid = pixel_grid(visible.shape)
    truth = Transform(
        np.eye(3),
        (pair.warp.true_source() - grid).astype(np.float32),
        fixed_shape=visible.shape,
        moving_shape=moving.shape,
    )
    pictures = {
        "visible only": visible,
        "misaligned": fuse(visible, moving, **options).fused,
        "registered": fuse(visible, found.warped, mask=found.mask, **options).fused,
        "true warp": fuse(visible, moving, transform=truth, mask=pair.mask, **options).fused,
        "aligned": reference,
    }
    errors = {"registered": Scorer(pair)(grid + found.flow)["epe"], "true warp": 0.0}
    errors["misaligned"] = Scorer(pair)(grid)["epe"]
    rows = []
    for name, picture in pictures.items():
        compared = np.where(pair.mask, picture, reference)
        scores = {
            "qabf": qabf(compared, reference, reference),
            "ssim": ssim(compared, reference, reference),
        }
        rows.append({"fused": name, "epe": errors.get(name)} | scores)
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: the mean of every variant."""
    import numpy as np

    lines = []
    for name in ROWS:
        group = [row for row in rows if row["fused"] == name]
        errors = [row["epe"] for row in group if row["epe"] is not None]
        error = f"{np.mean(errors):.1f}" if errors else ""
        means = [float(np.mean([row[key] for row in group])) for key in ("qabf", "ssim")]
        lines.append([name, error, *(f"{mean:.3f}" for mean in means)])
    return markdown(["fused", "EPE before fusing, px", "Q_AB/F", "SSIM"], lines) + "\n"


def main(
    out: Annotated[Path, typer.Option(help="Folder for the table.")],
    model: Annotated[str, typer.Option(help="Registration model.")] = "auto",
    fusion_model: Annotated[
        str | None, typer.Option(help="Fusion model (default: of infrared-visible).")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the warps of each pair.")] = "0",
    dataset: str = "roadscene",
    limit: Limit = None,
    device: Device = "cpu",
    threads: Threads = 2,
    data_root: DataRoot = None,
) -> None:
    """Measure all pairs and print the table."""
    from options import set_threads

    set_threads(threads)
    import numpy as np

    from napari_busref.data.datasets import load_pairs
    from napari_busref.evaluation import write_table
    from napari_busref.fusion.tasks import model_for
    from napari_busref.images.preprocess import luma
    from napari_busref.models import load_model

    out.mkdir(parents=True, exist_ok=True)
    networks = (
        load_model(model, kind="registration"),
        load_model(str(model_for("infrared-visible", fusion_model)), kind="fusion"),
    )
    rows: list[Row] = []
    for name, infrared, visible in load_pairs(dataset, data_root)[:limit]:
        grey = np.rint(luma(visible.astype(float))).astype(np.uint8)
        for seed in parse_seeds(seeds):
            scored = measure(grey, infrared, seed, *networks, device)
            rows += [{"pair": name, "seed": seed} | row for row in scored]
        write_table(rows, out / "rows.csv")
    publish(table(rows), out / "table.md")


if __name__ == "__main__":
    typer.run(main)
