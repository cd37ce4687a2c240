"""Measure `register` at any rotation and scale, on SRIF's pairs with a known affine.

    python benchmarks/poses.py --out FOLDER [--kind night] [--search auto] [--limit 5] [--first 41]

Every pair of ``srif`` val: as given, and turned again by any angle, scaled by 0.5 to 2 and
shifted by up to 10 %. ``--first`` selects others; 1 to 100 are those of training. SIFT (OpenCV)
gets the same images. An error is the mean distance, in fixed pixels, from the published affine
over the overlap. That affine is off by several pixels for some maps and seasons. So a result is
"as good" below 3 px, or at most 1 px worse than the same refinement started 6°, 6 % and 8 px from
the truth. ``FOLDER`` gets ``rows.csv`` and ``table.md``.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Limit, Threads, chosen_data, provenance, set_threads
from tables import Row, append_row, cell, markdown, publish, wide_console

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("satellite-infrared", "depth", "night", "season", "map")
COLUMNS = (
    "kind", "pair", "variant", "method", "error", "near_truth", "as_good", "reliable", "seconds",
    "failure",
)  # fmt: skip
_SCALES = (0.5, 2.0)
_SHIFT = 0.1  # of the sides
_START = (6.0, 1.06, 8.0)  # degrees, scale and pixels from the truth


@dataclass(frozen=True)
class Posed:
    """A pair with its true affine, fixed -> moving, (3, 3) of (row, col) positions."""

    name: str
    variant: str
    fixed: NDArray[Any]
    moving: NDArray[Any]
    truth: NDArray[Any]

    def error(self, affine: NDArray[Any]) -> float:
        """Mean distance between two affines over the overlap, in fixed pixels."""
        import numpy as np

        shape = self.fixed.shape[:2]
        axes = (np.linspace(0, side - 1, 16) for side in shape)
        points = np.stack([*(x.ravel() for x in np.meshgrid(*axes)), np.ones(256)])
        true, found = (matrix @ points for matrix in (self.truth, affine))
        sides = np.array(self.moving.shape[:2])[:, None]
        inside = ((true[:2] >= 0) & (true[:2] <= sides - 1)).all(0)
        apart = np.linalg.solve(self.truth[:2, :2], (found - true)[:2, inside])
        return float(np.hypot(*apart).mean())


def pairs(kind: str, data_root: Path, limit: int | None, first: int = 101) -> Iterator[Posed]:
    """Up to 20 pairs of one kind, as given and turned again."""
    import numpy as np
    from imageio.v3 import imread
    from skimage.transform import AffineTransform, warp

    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    for number in list(range(first, min(first + 20, 121)))[:limit]:
        name = f"{number:03d}"
        folder = data_root / "srif" / kind
        fixed, moving = (imread(folder / f"{name}_{image}.jpg") for image in ("fixed", "moving"))
        truth = swap @ np.vstack([np.loadtxt(folder / f"{name}.txt"), [0, 0, 1]]) @ swap
        yield Posed(name, "as given", fixed, moving, truth)
        rng = np.random.default_rng(number)
        scale = float(np.exp(rng.uniform(*np.log(_SCALES))))
        shift = rng.uniform(-_SHIFT, _SHIFT, 2) * moving.shape[:2]
        back = about_centre(moving.shape, rng.uniform(0, 360), 1 / scale, shift)
        turned = warp(moving, AffineTransform(swap @ back @ swap), preserve_range=True)
        turned = np.rint(turned).astype(np.uint8)
        yield Posed(name, "turned", fixed, turned, np.linalg.inv(back) @ truth)


def about_centre(shape: tuple[int, ...], degrees: float, scale: float, shift: Any) -> NDArray[Any]:
    """Rotation and scale about the centre after a shift, (3, 3) of (row, col) positions."""
    import numpy as np

    angle = np.radians(degrees)
    matrix = np.eye(3)
    matrix[:2, :2] = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    centre = (np.array(shape[:2]) - 1) / 2
    matrix[:2, 2] = centre - matrix[:2, :2] @ (centre + shift)
    return matrix


def register_with(pair: Posed, search: str, initial: NDArray[Any] | None = None) -> Row:
    """Error, verdict and CPU seconds of `register`."""
    from napari_busref import Transform, register

    shapes = {"fixed_shape": pair.fixed.shape[:2], "moving_shape": pair.moving.shape[:2]}
    start = None if initial is None else Transform(initial, **shapes)
    begun = time.process_time()
    result = register(pair.fixed, pair.moving, search=search, initial=start, device="cpu")
    seconds = time.process_time() - begun
    return {
        "error": pair.error(result.transform.affine),
        "reliable": result.quality.reliable,
        "seconds": seconds,
        "failure": "; ".join(result.quality.reasons),
    }


def sift(pair: Posed) -> Row:
    """Error and CPU seconds of OpenCV's SIFT."""
    import numpy as np
    from peers import PEERS

    from napari_busref.images.preprocess import luma
    from napari_busref.metrics.registration import pixel_grid

    floats = [x.astype(np.float32) / 255 for x in (pair.fixed, pair.moving)]
    grey = [x if x.ndim == 2 else luma(x) for x in floats]
    begun = time.process_time()
    try:
        source = PEERS["sift"].run(*grey)
    except Exception as problem:  # no match ends the method, not the benchmark
        source, failure = pixel_grid(pair.fixed.shape[:2]), str(problem)
    else:
        failure = ""
    seconds = time.process_time() - begun
    positions = np.concatenate([pixel_grid(pair.fixed.shape[:2]), np.ones((1, *source.shape[1:]))])
    matrix, *_ = np.linalg.lstsq(positions.reshape(3, -1).T, source.reshape(2, -1).T, rcond=None)
    affine = np.vstack([matrix.T, [0, 0, 1]])
    return {"error": pair.error(affine), "reliable": "", "seconds": seconds, "failure": failure}


def table(rows: list[Row]) -> str:
    """One line for each kind, variant and method."""
    lines = []
    for key in dict.fromkeys((row["kind"], row["variant"], row["method"]) for row in rows):
        group = [row for row in rows if (row["kind"], row["variant"], row["method"]) == key]
        good = [row for row in group if row["as_good"]]
        told = [row for row in group if row["reliable"] is True]
        lines.append([
            *key,
            str(len(group)),
            cell("share", len(good) / len(group)),
            cell("share", mean(row["error"] < 3 for row in group)),
            cell("error", median(row["error"] for row in group)),
            cell("share", len(told) / len(group)),
            str(sum(not row["as_good"] for row in told)),
            cell("seconds", median(row["seconds"] for row in group)),
        ])  # fmt: skip
    headings = (
        "kind", "pose", "method", "pairs", "as good, %", "< 3 px, %", "median px", "reliable, %",
        "wrong and reliable", "CPU s",
    )  # fmt: skip
    return markdown(headings, lines)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the tables.")],
    kind: Annotated[list[str] | None, typer.Option(help="Kind; repeat for more.")] = None,
    search: Annotated[str, typer.Option(help="As for napari_busref.register.")] = "auto",
    limit: Limit = None,
    first: Annotated[int, typer.Option(min=1, max=120, help="Number of the first pair.")] = 101,
    threads: Threads = 1,
    data_root: DataRoot = None,
) -> None:
    """Register pairs at any rotation and scale."""
    console = wide_console()
    set_threads(threads)
    rows: list[Row] = []
    root = chosen_data("--kind", kind, KINDS, data_root)
    out.mkdir(parents=True, exist_ok=True)
    run = provenance(threads)
    for name in kind or KINDS:
        for pair in pairs(name, root, limit, first):
            start = pair.truth @ about_centre(pair.fixed.shape, *_START[:2], _START[2] / 2**0.5)
            near = register_with(pair, "none", start)["error"]
            for method, answer in ((search, register_with(pair, search)), ("SIFT", sift(pair))):
                good = answer["error"] < 3 or answer["error"] <= near + 1
                row = {"kind": name, "pair": pair.name, "variant": pair.variant, "method": method}
                rows.append(row | {"near_truth": near, "as_good": good} | answer)
                append_row(out / "rows.csv", rows[-1], COLUMNS)
            shown = rows[-2]
            console.print(
                f"{name} {pair.name} {pair.variant}: {shown['error']:.2f} px, near the truth "
                f"{near:.2f}, SIFT {rows[-1]['error']:.1f}, {shown['seconds']:.1f} s",
                markup=False,
            )
        heading = f"{run['machine']}, {threads} threads; commit {run['commit']}"
        publish(f"{heading}\n\n{table(rows)}\n", out / "table.md")


if __name__ == "__main__":
    typer.run(main)
