"""Measure CPU seconds and peak memory of warping and fusing images of any size block by block.

    python benchmarks/streaming.py [--sizes 4096 10000] [--steps warp mask fuse open whole]

The visible and the infrared image are mosaics of the built-in street, in TIFFs without tiles. The
transform is an affine with a smooth displacement every 64 px. ``warp`` and ``mask`` write
OME-Zarr with all levels; ``fuse`` fuses the warped image with the visible one. ``open`` opens the
fused image in napari, with its thumbnail. ``whole`` compares both with `Transform.apply` and
`napari_busref.fuse` on the whole arrays; leave it out above 4096. Every step runs in a new
process of one thread, whose CPU seconds and peak memory include the start of Python.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TILE = 1024  # px of the mosaic
SPACING = 64
STEPS = ("warp", "mask", "fuse", "open", "whole")


def write_pair(folder: Path, size: int) -> None:
    """Write both images and the transform."""
    import numpy as np
    import tifffile

    from napari_busref import Transform
    from napari_busref.data.samples import thermal_scene

    sample = thermal_scene(0, (TILE, TILE))
    shape = (size, size)
    for name, tile in (("visible", sample.fixed), ("infrared", sample.moving)):
        grey = tile if tile.ndim == 2 else tile[..., 1]
        mosaic = tifffile.memmap(folder / f"{name}.tif", shape=shape, dtype=np.uint8)
        rng = np.random.default_rng(0)
        for top in range(0, size, TILE):
            for left in range(0, size, TILE):
                turned = np.rot90(grey, rng.integers(4)) if grey.shape == (TILE, TILE) else grey
                part = mosaic[top : top + TILE, left : left + TILE]
                part[...] = turned[: part.shape[0], : part.shape[1]]
        mosaic.flush()
    nodes = -(-size // SPACING)
    row, col = np.indices((nodes, nodes)) * (2 * np.pi * SPACING / size)
    displacement = np.stack([8 * np.sin(3 * col) + 2 * np.sin(11 * row), 6 * np.cos(4 * row)])
    turn = np.deg2rad(1.5)
    affine = np.eye(3)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:2, 2] = size / 2 - affine[:2, :2] @ [size / 2, size / 2] + [0.01 * size, 0]
    Transform(affine, displacement, fixed_shape=shape, moving_shape=shape, spacing=SPACING).save(
        folder / "pair.busref.h5"
    )


def step(name: str, folder: Path) -> dict[str, float]:
    """Do one step; what it finds besides its cost."""
    from napari_busref import Transform, write_fused, write_mask, write_warped

    transform = Transform.load(folder / "pair.busref.h5")
    visible, infrared = folder / "visible.tif", folder / "infrared.tif"
    warped, mask, fused = (folder / f"{one}.ome.zarr" for one in ("warped", "mask", "fused"))
    if name == "warp":
        write_warped(warped, infrared, transform, overwrite=True)
    elif name == "mask":
        write_mask(mask, infrared, transform, overwrite=True)
    elif name == "fuse":
        write_fused(fused, visible, warped, mask=mask, device="cpu", overwrite=True)
    elif name == "open":
        return open_layer(fused)
    else:
        return compare(folder)
    return {}


def open_layer(path: Path) -> dict[str, float]:
    """Open an image as a layer of napari."""
    import time

    from napari.layers import Layer

    from napari_busref._napari.files.image_reader import read_images

    began = time.process_time()
    for one in read_images(str(path)):
        Layer.create(*one)
    return {"open_s": round(time.process_time() - began, 2)}


def compare(folder: Path) -> dict[str, float]:
    """The largest differences to whole arrays, in grey levels."""
    import numpy as np

    from napari_busref import Transform, fuse, open_image, read_image

    transform = Transform.load(folder / "pair.busref.h5")
    visible, infrared = (read_image(folder / f"{one}.tif").data for one in ("visible", "infrared"))
    warped, fused, mask = (
        open_image(folder / f"{one}.ome.zarr").read().astype(int)
        for one in ("warped", "fused", "mask")
    )
    whole = transform.apply(infrared)
    result = fuse(visible, whole, mask=mask > 0, device="cpu").fused
    apart = np.abs(fused - result)
    return {
        "warp_levels": float(np.abs(warped - whole).max()),
        "fuse_levels": float(apart.max()),
        "fuse_share_above_1": float(np.mean(apart > 1)),
    }


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; what it prints, its CPU seconds and peak memory by the kernel's count."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    found = {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }
    return found | json.loads(text.splitlines()[-1])


def main() -> None:
    """Write each pair, run the steps, print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS[:-1]))
    parser.add_argument("--keep", type=Path, help="folder for the files, kept")
    parser.add_argument("--inside", choices=("pair", *STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside == "pair":
        write_pair(options.keep, options.sizes[0])
        print("{}")
        return
    if options.inside:
        print(json.dumps(step(options.inside, options.keep)))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as made:
            folder = options.keep or Path(made)
            folder.mkdir(exist_ok=True, parents=True)
            # a process that has imported little: a child's peak begins at that of its parent
            again = [sys.executable, str(Path(__file__).resolve()), "--sizes", str(size)]
            again += ["--keep", str(folder), "--inside"]
            if not (folder / "pair.busref.h5").exists():
                subprocess.run([*again, "pair"], check=True, stdout=subprocess.DEVNULL)
            for name in options.steps:
                print(size, name, json.dumps(measured([*again, name])), flush=True)


if __name__ == "__main__":
    main()
