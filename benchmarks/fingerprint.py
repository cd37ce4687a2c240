"""Hash the transforms of fixed pairs, to show that a change of the code changed no result.

Run it in two checkouts on one machine and compare the lines::

    python benchmarks/fingerprint.py > before.txt

It imports public top-level names only. One thread keeps the order of sums fixed. The built-in
samples need no data, the real pairs need ``../shared``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import napari_busref as nb

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def main(
    data: Annotated[Path, typer.Option(help="Folder with the research data.")] = SHARED,
) -> None:
    """Print the name, hash and quality score of each pair."""
    torch.set_num_threads(1)
    for name, fixed, moving, options in (*samples(), *real_pairs(data)):
        result = nb.register(fixed, moving, device="cpu", **options)
        print(name, fingerprint(result), f"{result.quality.score:.6f}", flush=True)


def samples() -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    """The built-in samples, by the default model and by ``busref`` alone."""
    for name in nb.list_samples():
        sample = nb.load_sample(name)
        yield name, sample.fixed, sample.moving, {}
        yield f"{name} busref", sample.fixed, sample.moving, {"model": "busref"}


def real_pairs(data: Path) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    """Two pairs each of RoadScene, VIS-NIR and METU-VisTIR (hand-held cameras)."""
    for folder, options in (
        ("roadscene", {}),
        ("vis-nir", {"refine": "affine"}),
        ("metu-vistir", {"search": "wide", "transform": "homography"}),
    ):
        for visible in sorted((data / folder / "visible").glob("*"))[:2]:
            infrared = next((data / folder / "infrared").glob(f"{visible.stem}.*"))
            moving = nb.read_image(infrared).data[9:, 14:]
            yield f"{folder}/{visible.stem}", nb.read_image(visible).data, moving, options


def fingerprint(result: Any) -> str:
    """Hash of all bits of the transform and the warped image."""
    parts = (result.transform.affine, result.transform.flow(), result.warped, result.mask)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    typer.run(main)
