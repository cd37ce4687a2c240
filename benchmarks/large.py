"""Register generated pairs of 4,000 to 20,000 px and measure error, CPU seconds and memory.

    python benchmarks/large.py make FOLDER [--side 4200] [--seed 0] [--flat 0.3]
    python benchmarks/large.py run FOLDER [--finest full] [--coarse]

The scene is a mosaic of patches of 448 px: rendered streets, stains, and photographs of
scikit-image, each at an angle of its own. In the moving image their contrast is inverted or
bent, or that of the other modality. A known field warps it by 1.5 degrees, a scale of 1.012 and
a shift of 1 %. It has a long bend of 0.4 % of the side, one of 8 px rms over 800 px, and one of
2.5 px rms over 250 px. Noise has a standard deviation of 2 grey levels. ``--flat`` leaves a
share of the scene without texture. Both images are written tile by tile, as memory-mapped
``.npy`` files.

Errors are distances to the known field at full resolution, on a grid of the moving image.
``--coarse`` also registers without tiles, and says by how much tiles made an error larger.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from scipy import ndimage

PATCH = 448
TILE = 1024
POINTS = 200  # along each side, at which the error is measured
_PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "moon", "retina", "rocket"),
)

Grey = NDArray[np.float32]


def sources() -> list[tuple[Grey, Grey]]:
    """Pairs of one scene in two modalities, grey values 0 to 255."""
    from skimage import color, data

    from napari_busref.data.samples import thermal_scene

    rng = np.random.default_rng(0)
    pairs = []
    for seed in range(4):
        sample = thermal_scene(seed, (768, 1024))
        warped = sample.truth.apply(sample.moving, cval=0)
        pairs.append((color.rgb2gray(sample.fixed) * 255, warped.astype(float)))
    stains = color.rgb2hed(data.immunohistochemistry())
    pairs.append((_stretched(stains[..., 0]), _stretched(stains[..., 2])))
    for number, name in enumerate(_PHOTOGRAPHS):
        image = getattr(data, name)()
        grey = color.rgb2gray(image) * 255 if image.ndim == 3 else image.astype(float)
        bent = 255 * (grey / 255) ** rng.uniform(0.5, 2)
        if number % 3 == 1:
            bent = 255 - bent
        pairs.append((grey, bent))
    return [(a.astype(np.float32), b.astype(np.float32)) for a, b in pairs]


def _stretched(channel: NDArray[Any]) -> NDArray[Any]:
    low, high = np.percentile(channel, (1, 99))
    return np.clip((channel - low) / (high - low), 0, 1) * 255


def without_texture(side: int, seed: int, flat: float) -> NDArray[np.bool_]:
    """The patches without texture, in regions of several patches."""
    rng = np.random.default_rng(seed + 3000)
    count = -(-side // PATCH)
    rough = ndimage.gaussian_filter(rng.standard_normal((count, count)), 1.5, mode="wrap")
    empty: NDArray[np.bool_] = rough < np.quantile(rough, flat)
    return empty


def patches(side: int, seed: int, flat: float) -> Iterator[tuple[tuple[slice, slice], Grey, Grey]]:
    """The patches of the mosaic: their place, and both modalities."""
    rng = np.random.default_rng(seed)
    known = sources()
    offset = (PATCH - 1) / 2
    empty = without_texture(side, seed, flat)
    for row, col in np.ndindex(empty.shape):
        top, left = row * PATCH, col * PATCH
        height, width = min(PATCH, side - top), min(PATCH, side - left)
        if height <= 0 or width <= 0:
            continue
        first, second = known[rng.integers(len(known))]
        angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array(first.shape) * rng.uniform(0.35, 0.65, 2)
        where = np.mgrid[:height, :width].reshape(2, -1) - offset
        where = (turn @ where + centre[:, None]).reshape(2, height, width)
        place = (slice(top, top + height), slice(left, left + width))
        if empty[row, col]:
            yield place, np.full((height, width), 200, "f4"), np.full((height, width), 60, "f4")
            continue
        yield (
            place,
            *(ndimage.map_coordinates(x, where, order=1, mode="mirror") for x in (first, second)),
        )


def true_field(side: int, seed: int) -> Any:
    """The map from the moving to the fixed image."""
    from napari_busref.transforms.grids import Grid
    from napari_busref.transforms.transform import Transform

    rng = np.random.default_rng(seed + 1000)
    grid = Grid.covering((side, side), (32.0, 32.0))
    field = np.zeros((2, *grid.shape))
    for sigma, rms in ((side / 8, 0.004 * side), (800, 8.0), (250, 2.5)):
        for axis in (0, 1):
            bend = ndimage.gaussian_filter(
                rng.standard_normal(grid.shape), sigma / 32, mode="reflect"
            )
            field[axis] += bend * rms / bend.std() / 2**0.5
    angle, scale = np.deg2rad(1.5), 1.012
    affine = np.eye(3)
    affine[:2, :2] = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    centre = np.full(2, (side - 1) / 2)
    affine[:2, 2] = centre - affine[:2, :2] @ centre + 0.01 * side * np.array([0.8, -0.6])
    shapes = {"fixed_shape": (side, side), "moving_shape": (side, side)}
    return Transform(affine, field, spacing=32.0, **shapes)


def make(folder: Path, side: int, seed: int, flat: float) -> None:
    """Write a pair and its true field."""
    folder.mkdir(parents=True, exist_ok=True)
    shape, rng = (side, side), np.random.default_rng(seed + 2000)
    files = {
        name: open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
        for name in ("fixed", "other", "moving")
    }
    for place, first, second in patches(side, seed, flat):
        for name, part in (("fixed", first), ("other", second)):
            noisy = part + rng.normal(0, 2, part.shape) if name == "fixed" else part
            files[name][place] = np.clip(noisy, 0, 255)
    truth = true_field(side, seed)
    for top, left in np.ndindex(-(-side // TILE), -(-side // TILE)):
        window = tuple(slice(n * TILE, min((n + 1) * TILE, side)) for n in (top, left))
        part = truth.apply(files["other"], window=window).astype(np.float32)
        files["moving"][window] = np.clip(part + rng.normal(0, 2, part.shape), 0, 255)
    (folder / "other.npy").unlink()
    truth.save(folder / "truth.busref.h5", {"seed": seed, "flat": flat})


class Stored:
    """An image in a file that is read window by window, and keeps no page in memory."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.path, self.shape, self.dtype = path, mapped.shape, mapped.dtype

    def __getitem__(self, window: Any) -> NDArray[Any]:
        return np.array(np.load(self.path, mmap_mode="r")[window])


def errors(found: Any, truth: Any) -> NDArray[np.float64]:
    """Distances to the true field in pixels at `places`."""
    there, fixed = places(truth)
    return np.hypot(*(found.points(fixed) - there).T)


def places(truth: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (N, 2) of the moving image whose content the fixed image holds, and where."""
    side = truth.fixed_shape[0]
    ticks = np.linspace(0, side - 1, POINTS)
    there = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)
    fixed = truth.points(there)
    inside = ((fixed >= 0) & (fixed <= side - 1)).all(1)
    return there[inside], fixed[inside]


def summary(apart: NDArray[np.float64]) -> dict[str, float]:
    """Mean, percentiles and maximum."""
    found = {"mean": apart.mean(), "median": np.median(apart), "max": apart.max()}
    found |= {f"p{q}": np.percentile(apart, q) for q in (95, 99)}
    return {name: round(float(value), 2) for name, value in found.items()}


def run(folder: Path, finest: str | None, coarse: bool) -> dict[str, Any]:
    """Register a pair and measure it."""
    from napari_busref import Transform, register
    from napari_busref.registration.large import register_large
    from napari_busref.transforms.transform import read_metadata

    fixed, moving = Stored(folder / "fixed.npy"), Stored(folder / "moving.npy")
    truth = Transform.load(folder / "truth.busref.h5")
    started = time.process_time()
    result = register(fixed, moving, finest=finest)
    seconds = time.process_time() - started
    path = result.transform.save(folder / "found.busref.h5")
    known = read_metadata(folder / "truth.busref.h5")
    apart = errors(result.transform, truth)
    more: dict[str, Any] = {}
    if known["flat"]:
        empty = without_texture(truth.fixed_shape[0], known["seed"], known["flat"])
        rows, cols = (places(truth)[1].astype(int) // PATCH).T
        empty = empty[rows, cols]
        more["flat"], more["textured"] = summary(apart[empty]), summary(apart[~empty])
    if coarse:
        before = errors(register_large(fixed, moving, "none", whole=register).transform, truth)
        more["coarse"] = summary(before)
        more["worse_px"] = round(float((apart - before).max()), 2)
        if known["flat"]:
            more["coarse_flat"] = summary(before[empty])
    return {
        "side": truth.fixed_shape[0],
        **summary(apart),
        "cpu_s": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "file_mb": round(path.stat().st_size / 1e6, 2),
        **more,
        "levels": result.parameters.get("levels"),
    }


def main() -> None:
    """Write or measure a pair."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make")
    one.add_argument("--side", type=int, default=4200)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--flat", type=float, default=0.0)
    other = commands.add_parser("run")
    other.add_argument("--finest", choices=["full", "half", "quarter", "none"])
    other.add_argument("--coarse", action="store_true")
    for command in (one, other):
        command.add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder, given.side, given.seed, given.flat)
    else:
        print(json.dumps(run(given.folder, given.finest, given.coarse)))


if __name__ == "__main__":
    main()
