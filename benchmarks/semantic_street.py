"""Train SuperFusion's fusion network with the semantic constraint, on drawn and labelled streets.

    python benchmarks/semantic_street.py --out FOLDER [--train 24] [--val 8] [--steps 150]
        [--threads 1]

``scripts/street`` draws the scenes and their label maps (sky, ground, building, plant, car, person
and post). A small segmentation network learns on their visible images. Then the shipped weights
of ``superfusion-fusion`` continue for ``--steps`` steps on the drawn pairs, with the constraint
and without it. The table has the IoU of the same segmentation network, by class and on average, on
held-out drawn scenes. It says what the constraint does; it is no measure of segmentation on real
pairs. ``FOLDER`` gets the scenes, the segmentation network and both weights; a second call
continues from there.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from options import Threads
from tables import markdown

if TYPE_CHECKING:
    from torch import nn

SHAPE = (192, 256)
WEIGHTS = "STREET_SEGMENTER"  # environment variable: file with the segmentation network's weights
ROOT = Path(__file__).resolve().parents[1]


def draw_scenes(root: Path, train: int, val: int) -> None:
    """Write a data set ``root/street`` with label maps, unless it is there."""
    import numpy as np
    from imageio.v3 import imwrite

    sys.path.insert(0, str(ROOT / "scripts"))
    from street.render import render_labelled

    names = [f"{seed:03d}.png" for seed in range(train + val)]
    listing = root / "street" / "split.json"
    split = {"train": names[:train], "val": names[train:]}
    if listing.is_file() and json.loads(listing.read_text(encoding="utf-8")) == split:
        return
    for seed, name in enumerate(names):
        visible, infrared, labels = render_labelled(SHAPE, seed)
        grey = np.rint(255 * infrared).astype(np.uint8)
        for kind, picture in (("visible", visible), ("infrared", grey), ("labels", labels)):
            file = root / "street" / kind / name
            file.parent.mkdir(parents=True, exist_ok=True)
            imwrite(file, picture)
    listing.write_text(json.dumps(split), encoding="utf-8")


def network(width: int = 16) -> nn.Module:
    """A segmentation network of three scales, for seven classes."""
    from torch import Tensor, cat, nn
    from torch.nn.functional import interpolate

    def block(inputs: int, outputs: int) -> nn.Module:
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    class Segmenter(nn.Module):
        """RGB (B, 3, H, W), H and W multiples of 4 -> logits (B, 7, H, W)."""

        def __init__(self) -> None:
            super().__init__()
            self.fine, self.middle = block(3, width), block(width, 2 * width)
            self.coarse = block(2 * width, 2 * width)
            self.joins = nn.ModuleList([block(4 * width, 2 * width), block(3 * width, width)])
            self.head = nn.Conv2d(width, 7, 1)

        def forward(self, image: Tensor) -> Tensor:
            fine = self.fine(image)
            middle = self.middle(nn.functional.max_pool2d(fine, 2))
            x = self.coarse(nn.functional.max_pool2d(middle, 2))
            for join, same in zip(self.joins, (middle, fine), strict=True):
                larger = interpolate(x, size=same.shape[-2:], mode="bilinear", align_corners=False)
                x = join(cat([larger, same], 1))
            logits: Tensor = self.head(x)
            return logits

    return Segmenter()


def segmenter() -> nn.Module:
    """The trained segmentation network, for recipes and for ``benchmarks/segmentation.py``."""
    import torch

    model = network()
    model.load_state_dict(torch.load(os.environ[WEIGHTS], weights_only=True))
    return model


def train_segmenter(root: Path, file: Path, steps: int) -> None:
    """Train on the visible images of the scenes, and write the weights."""
    import torch

    from napari_busref.training.losses.semantic import LabelledScenes
    from napari_busref.training.recipe import DataConfig

    torch.manual_seed(0)
    scenes = list(LabelledScenes.from_config(DataConfig(datasets=("street",), root=str(root))))
    colours, labels = torch.cat([s[0] for s in scenes]), torch.cat([s[2] for s in scenes])
    model = network().train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(scenes), (4,))
        top, left = (int(torch.randint(side // 2, ())) for side in SHAPE)
        window = (..., slice(top, top + SHAPE[0] // 2), slice(left, left + SHAPE[1] // 2))
        image, truth = colours[chosen][window], labels[chosen][window]
        if torch.rand(()) < 0.5:
            image, truth = image.flip(-1), truth.flip(-1)
        image = (image * (0.8 + 0.4 * torch.rand(4, 1, 1, 1))).clamp(0, 1)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(image), truth).backward()
        optimiser.step()
        schedule.step()
    torch.save(model.state_dict(), file)


def main(
    out: Annotated[Path, typer.Option(help="Folder for scenes, weights and table.")],
    train: Annotated[int, typer.Option(help="Drawn scenes to train on.")] = 24,
    val: Annotated[int, typer.Option(help="Drawn scenes to measure on.")] = 8,
    steps: Annotated[int, typer.Option(help="Steps of each fusion run.")] = 150,
    segmenter_steps: Annotated[int, typer.Option(help="Of the segmentation network.")] = 300,
    threads: Threads = 1,
) -> None:
    """Train, measure and print the table."""
    from options import set_threads

    set_threads(threads)
    from napari_busref.training import run

    out = out.resolve()
    draw_scenes(out, train, val)
    file = out / "segmenter.pt"
    if not file.is_file():
        train_segmenter(out, file, segmenter_steps)
    os.environ[WEIGHTS] = str(file)
    models = {"shipped": "superfusion"}
    recipe = ROOT / "training" / "recipes" / "superfusion-fusion.toml"
    for name, weight in (("without the constraint", 0.0), ("with the constraint", 0.5)):
        settings = {
            "steps": steps,
            "validate_every": steps,
            "validation_pairs": val,
            "learning_rate": 1e-3,
            "threads": threads,
            "start_from": "superfusion",
            "data.root": str(out),
            "data.datasets": ["street"],
            "data.crop_range": [0.4, 0.6],
            "loss.semantic": weight,
            "loss.segmenter": "semantic_street:segmenter" if weight else "",
        }
        folder = out / name.replace(" ", "-")
        weights = run("superfusion-fusion", recipe, output=folder, overrides=settings, resume=True)
        models[name] = str(weights)
    _report(out, models, val)


def _report(out: Path, models: dict[str, str], count: int) -> None:
    """Print the IoU of the segmentation network on every fusion and on both sources."""
    import torch

    from napari_busref.models import load_model
    from napari_busref.training.losses.semantic import (
        LabelledScenes,
        SemanticConstraint,
        class_ious,
    )
    from napari_busref.training.recipe import DataConfig

    sys.path.insert(0, str(ROOT / "scripts"))
    from street.canvas import Kind

    constraint = SemanticConstraint(segmenter())
    data = DataConfig(datasets=("street",), root=str(out))
    scenes = LabelledScenes.from_config(data, "val")
    methods = {name: load_model(model, kind="fusion") for name, model in models.items()}
    fusions = {f"fused, {name}": model for name, model in methods.items()}
    fusions |= {"visible only": lambda *pair: pair[0], "infrared only": lambda *pair: pair[1]}
    rows = []
    for name, fusion in fusions.items():
        with torch.no_grad():
            found = class_ious(constraint, fusion, scenes)
        values = [sum(found.values()) / len(found), *found.values()]
        rows.append([name, *(f"{value:.3f}" for value in values)])
    heads = ["", "mean IoU", *(Kind(label).name.lower() for label in found)]
    text = f"{count} drawn scenes\n\n{markdown(heads, rows)}\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
