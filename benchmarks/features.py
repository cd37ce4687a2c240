"""Measure the matcher and the likelihood on held-out pairs of every kind, without registering.

    python benchmarks/features.py [--weights runs/auto] [--kind roadscene] [--draws 24]

Each draw is a crop of a ``val`` pair under a known warp; every set of weights gets the same ones.
*Matches* is the share of descriptors whose most similar one in the whole moving crop lies within
4 px of the truth (chance: under 1 %). *Blocks* is the share of blocks whose most likely
displacement is within 2 px (chance: 3 %). Kinds ``photographs/NAME`` are photographs of
scikit-image against a generated second modality; no network trains on them.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Threads, data_folder, set_threads
from tables import cell, markdown

if TYPE_CHECKING:
    from napari_busref.registration.features import MatchingNetworks
    from napari_busref.training.batches.pair_store import PairStore, WarpedCrops

PAIRED = (
    "roadscene", "vis-nir", "srif/satellite-infrared", "srif/map", "srif/season", "srif/depth",
    "srif/night", "mri-pet", "mri-ct",
)  # fmt: skip
PHOTOGRAPHS = "photographs/"
_SIDE = 160  # px of a crop


def store_of(kind: str, root: Path) -> PairStore:
    """The held-out pairs of a kind; photographs stand for both images."""
    from napari_busref.training.batches.pair_store import PairStore
    from napari_busref.training.recipe import DataConfig

    if kind.startswith(PHOTOGRAPHS):
        return photographs()
    config = DataConfig(datasets=(kind,), root=str(root), store_side=340)
    return PairStore.from_config(config, "val")


@cache
def photographs() -> PairStore:
    """The photographs of scikit-image, each as both images."""
    import torch

    from napari_busref.data.task_pairs import originals
    from napari_busref.training.batches.pair_store import PairStore, shrink

    images = {
        name.rpartition("-")[0]: shrink(grey / 255.0, 340)
        for split in ("train", "val")
        for name, grey in originals(split).items()
    }
    return PairStore([(image, torch.clone(image)) for image in images.values()])


def draw(store: PairStore, kind: str, near: bool) -> WarpedCrops:
    """One crop with a moving image under a warp: small for blocks, large for descriptors."""
    from napari_busref.geometry import base_grid, warp
    from napari_busref.training.batches.modalities import MODALITIES
    from napari_busref.training.recipe import DataConfig, WarpConfig

    far = WarpConfig(15.0, (0.85, 1.18), 3.0, 0.1, (0.0, 0.03))
    close = WarpConfig(2.0, (0.97, 1.03), 1.5, 0.015, (0.0, 0.04))
    crops = DataConfig(crop_side=_SIDE, crop_range=(0.5, 1.0), aspects=(1.0, 1.25, 1.5))
    batch = store.draw_warped(1, crops, close if near else far)
    if kind.startswith(PHOTOGRAPHS):
        points = batch.warps.aligned_points(base_grid(*batch.fixed.shape[-2:], batch.fixed))
        other = MODALITIES[kind.removeprefix(PHOTOGRAPHS)](batch.fixed)
        batch.moving, batch.valid = warp(other, points, padding="border"), batch.valid * 0 + 1
    return batch


def right_matches(networks: MatchingNetworks, batch: WarpedCrops) -> tuple[float, float]:
    """Number of right descriptors and of those with a true place; every second cell each way."""
    import torch

    from napari_busref.geometry import inside
    from napari_busref.models.features.matcher import Matcher
    from napari_busref.training.batches.warps import fixed_to_moving
    from napari_busref.training.stages.synthetic import true_cells

    size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
    fixed = networks.matcher(batch.fixed)
    moving = networks.matcher(batch.moving, batch.valid)
    truth = fixed_to_moving(batch.warps, size)
    cells, known = true_cells(truth, inside(truth, *size).float(), fixed.shape[-2:])
    thinned = (slice(None), slice(None, None, 2), slice(None, None, 2))
    similar = torch.einsum("dhw,dm->hwm", fixed[0][thinned], moving[0].flatten(1))
    best = similar.argmax(-1)
    found = torch.stack([best % moving.shape[-1], best // moving.shape[-1]], -1)
    apart = (found - cells[thinned][0]).square().sum(-1).sqrt() * Matcher.stride
    here = known[thinned][0]
    return float(((apart < 4) & here).sum()), float(here.sum())


def right_blocks(networks: MatchingNetworks, batch: WarpedCrops) -> tuple[float, float]:
    """Number of blocks with the right displacement, and of those with a true one."""
    from napari_busref.registration.features import dense_features
    from napari_busref.registration.pyramid import MaskedImage
    from napari_busref.training.stages.likelihood import true_blocks, within

    ones = batch.fixed * 0 + 1
    first = dense_features(networks.matcher, MaskedImage(batch.fixed, ones))
    masked = MaskedImage(batch.moving * batch.valid, batch.valid)
    likelihood = networks.likelihood(first, dense_features(networks.matcher, masked))
    shift, known = true_blocks(batch, networks.likelihood.block)
    return float((within(likelihood, shift) * known).sum()), float(known.sum())


def measure(networks: MatchingNetworks, kind: str, root: Path, draws: int) -> tuple[float, float]:
    """Shares of right descriptors and of right blocks."""
    import torch

    store, shares = store_of(kind, root), []
    for near, count in ((False, right_matches), (True, right_blocks)):
        torch.manual_seed(0)
        with torch.inference_mode():
            batches = (draw(store, kind, near) for _ in range(draws))
            counts = torch.tensor([count(networks, batch) for batch in batches])
        shares.append(float(counts[:, 0].sum() / counts[:, 1].sum()))
    return shares[0], shares[1]


def load(folder: Path | None) -> MatchingNetworks:
    """The networks in a folder; the shipped ones without a folder."""
    from napari_busref.models import load_model
    from napari_busref.registration.features import MatchingNetworks

    if folder is None:
        return MatchingNetworks.load()
    names = ("matcher", "likelihood")
    parts: list[Any] = [load_model(folder / f"{name}.safetensors") for name in names]
    return MatchingNetworks(*parts)


def main(
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with a matcher and a likelihood; repeat for more."),
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Kind; repeat for more.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Crops of each kind.")] = 24,
    threads: Threads = 1,
    data_root: DataRoot = None,
) -> None:
    """Compare the shipped matcher and likelihood with others."""
    set_threads(threads)
    from napari_busref.training.batches.modalities import MODALITIES

    root = data_folder(data_root)
    compared = {"shipped": load(None)} | {str(path): load(path) for path in weights or ()}
    lines = []
    for name in kind or (*PAIRED, *(PHOTOGRAPHS + each for each in MODALITIES)):
        line = [name]
        for networks in compared.values():
            line += [cell("share", share) for share in measure(networks, name, root, draws)]
        lines.append(line)
    headings = [f"{name}: {word}, %" for name in compared for word in ("matches", "blocks")]
    typer.echo(markdown(["kind", *headings], lines))


if __name__ == "__main__":
    typer.run(main)
