"""Measure the mean IoU of a segmentation network on labelled pairs fused by each method.

    python benchmarks/segmentation.py --segmenter my_networks:segmenter --data-root DATA
        --dataset NAME [--split val] [--model superfusion] [--ignore 255] [--limit 20]
        [--device cpu] [--threads 2]

SuperFusion's measure of the value of fusion for machine vision. ``--segmenter`` names a function
that returns a trained torch module from RGB (B, 3, H, W) in [0, 1] to class logits, or to
torchvision's output. Label maps are integers, ``DATA/NAME/labels/PAIR.png`` beside the pairs. The
input is the fused image with the colours of the visible one. The network is not trained here: the
rows of the bare sources show its domain. IoU counts all pixels of the split, by class and as mean
over the classes that occur.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from options import Device, Limit, Threads
from tables import markdown


def main(
    segmenter: Annotated[str, typer.Option(help="module:function that returns the network.")],
    data_root: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    dataset: Annotated[str, typer.Option(help="Folder with infrared, visible and labels.")],
    split: str = "val",
    model: Annotated[
        list[str] | None, typer.Option(help="Models (default: all, with the baselines).")
    ] = None,
    ignore: Annotated[int, typer.Option(help="Label to ignore.")] = 255,
    limit: Limit = None,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Print the table."""
    from options import set_threads

    set_threads(threads)
    from itertools import islice

    from torch import Tensor, nn

    from napari_busref.models import list_models, load_model
    from napari_busref.training.losses.semantic import (
        LabelledScenes,
        SemanticConstraint,
        class_ious,
        load_segmenter,
    )
    from napari_busref.training.recipe import DataConfig

    class Source(nn.Module):
        """Returns one of the sources unchanged."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, *sources: Tensor) -> Tensor:
            return sources[self.number]

    sys.path.insert(0, "")  # find modules in the current folder, as `python -m` does
    try:
        constraint = SemanticConstraint(load_segmenter(segmenter), ignore).to(device)
        scenes = LabelledScenes.from_config(
            DataConfig(datasets=(dataset,), root=str(data_root)), split
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    methods: dict[str, nn.Module] = {
        name: load_model(name, kind="fusion", device=device)
        for name in model or list_models("fusion")
    }
    methods |= {"visible only": Source(0), "infrared only": Source(1)}
    rows = {}
    for name, method in methods.items():
        samples = (tuple(part.to(device) for part in scene) for scene in islice(scenes, limit))
        rows[name] = class_ious(constraint, method, samples)  # type: ignore[arg-type]
    classes = list(next(iter(rows.values())))
    table = []
    for name, found in rows.items():
        mean = sum(found.values()) / len(found)
        cells = [f"{value:.3f}" for value in (mean, *found.values())]
        table.append([name, *cells])
    typer.echo(markdown(["", "mean IoU", *(f"class {c}" for c in classes)], table))


if __name__ == "__main__":
    typer.run(main)
