"""Measure the parts of ``register(model="auto")`` on the val sets of the protocol.

    python benchmarks/ablation.py --out runs/ablation

The variants: search alone, with affine refinement and with dense refinement; dense refinement
without learned features, and without edges; proposal networks instead of the search; and all
candidates together. ``FOLDER/rows.csv`` has a row for every pair and variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from tables import Row, cell, console_table

from napari_busref.data.datasets import load_pairs
from napari_busref.evaluation import write_table
from napari_busref.geometry import Estimate, estimate_to_pixels
from napari_busref.images.preprocess import Prepared, fill_invalid, luma, prepare
from napari_busref.metrics.registration import Scorer, make_pair, pixel_grid, summarise
from napari_busref.models import load_model
from napari_busref.registration.candidates import match
from napari_busref.registration.context import MatchOptions, RunContext
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.pyramid import MaskedImage
from napari_busref.transforms.transform import Transform


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    options: MatchOptions
    proposal_networks: tuple[str, ...] = ()


HEADINGS = {
    "epe_mean": "EPE mean",
    "epe_median": "median",
    "share_below_3px": "< 3 px, %",
    "share_below_5px": "< 5 px, %",
    "mncc": "MNCC",
    "seconds": "CPU seconds",
}
VARIANTS = (
    Variant("search", MatchOptions(refine="none", initial=False)),
    Variant("search + affine", MatchOptions(refine="affine", initial=False)),
    Variant("search + affine + dense", MatchOptions(initial=False)),
    Variant("  without learned features", MatchOptions(initial=False, learned=False)),
    Variant("  without edges", MatchOptions(initial=False, edges=False)),
    Variant("busref", MatchOptions(search="none", refine="none", initial=False), ("busref",)),
    Variant("busref + affine + dense", MatchOptions(search="none", initial=False), ("busref",)),
    Variant("all candidates + affine + dense (auto)", MatchOptions(), ("busref",)),
)


def main(
    out: Annotated[Path, typer.Option(help="Folder of rows.csv.")],
    dataset: Annotated[list[str], typer.Option()] = ["roadscene", "vis-nir"],  # noqa: B006
    seeds: Annotated[list[int], typer.Option()] = [0],  # noqa: B006
    limit: int | None = None,
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    auto = load_model("auto")
    rows: list[Row] = []
    for name in dataset:
        pairs = load_pairs(name, None, "val")[:limit]
        jobs = [(pair, seed) for pair in pairs for seed in seeds]
        for (pair, infrared, visible), seed in track(jobs, name, console=Console(stderr=True)):
            drawn = make_pair(infrared / 255.0, luma(visible / 255.0), seed)
            scorer = Scorer(drawn)
            for variant in VARIANTS:
                began = process_time()
                estimate = _estimate(auto, variant, drawn.fixed, drawn.moving)
                seconds = process_time() - began
                shape = infrared.shape
                affine, field = estimate_to_pixels(estimate, shape)[0]
                transform = Transform(affine, field, fixed_shape=shape, moving_shape=shape)
                scores = scorer(pixel_grid(shape) + transform.flow())
                rows.append(
                    {"variant": variant.name, "dataset": name, "pair": pair, "seed": seed}
                    | {"epe": scores["epe"], "mncc": scores["mncc"], "seconds": seconds}
                )
            write_table(rows, out / "rows.csv")
    _report(rows, dataset)


def _estimate(
    auto: torch.nn.Module, variant: Variant, fixed: np.ndarray, moving: np.ndarray
) -> Estimate:
    images = [
        _to_masked_image(prepare(image.astype(np.float32), name, find_border=True))
        for image, name in ((fixed, "fixed"), (moving, "moving"))
    ]
    with torch.inference_mode():
        return match(
            {name: auto.proposal_networks[name] for name in variant.proposal_networks},
            FixedFeatures(auto.networks, images[0]),
            images[1],
            Estimate(torch.eye(2, 3)[None]),
            RunContext(variant.options),
        ).estimate


def _to_masked_image(ready: Prepared) -> MaskedImage:
    image = fill_invalid(ready.grey, ready.valid)
    return MaskedImage(
        *(torch.from_numpy(x.astype(np.float32))[None, None] for x in (image, ready.valid))
    )


def _report(rows: list[Row], datasets: list[str]) -> None:
    for name in datasets:
        lines = []
        for variant in VARIANTS:
            group = [r for r in rows if r["variant"] == variant.name and r["dataset"] == name]
            mean = summarise(group)
            lines.append(
                [
                    variant.name,
                    *(cell(key, mean[key], 3 if key == "mncc" else 2) for key in HEADINGS),
                ]
            )
        Console(width=110).print(console_table(["", *HEADINGS.values()], lines, f"{name} val"))


if __name__ == "__main__":
    typer.run(main)
