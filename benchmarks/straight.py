"""Measure whether a displacement field earns its place: dense against affine refinement.

    python benchmarks/straight.py --out FOLDER [--set night] [--limit 5]

The sets, of ``val``: ``srif`` by kind, whose truth is an affine, started 6°, 6 % and 8 px off
without a search; photographs of scikit-image against their inverted and bent selves, under affine
warps; and the protocol's pairs with its elastic warps, a quarter of them (``mild``) and none
(``affine``). An error is the mean distance, in fixed pixels, over the overlap. ``field`` is the
mean length of the displacement field. ``FOLDER`` gets ``table.md``.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Limit, Threads, chosen_data, provenance, set_threads
from poses import KINDS, about_centre, pairs
from tables import cell, markdown, publish, wide_console

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Case = tuple[NDArray[Any], NDArray[Any], Any, Any]  # fixed, moving, true source, initial

ELASTIC = {"elastic": (0.02, 0.04), "mild": (0.005, 0.01), "affine": (0.0, 0.0)}
SETS = ("photographs", *KINDS, *(f"{s}-{e}" for s in ("roadscene", "vis-nir") for e in ELASTIC))


def srif(kind: str, root: Path, limit: int | None) -> Iterator[Case]:
    """Pairs of one kind with their affine, started near it."""
    import numpy as np

    from napari_busref import Transform
    from napari_busref.metrics.registration import pixel_grid

    for pair in pairs(kind, root, limit):
        if pair.variant != "as given":
            continue
        fixed, moving, truth = pair.fixed, pair.moving, pair.truth
        off = truth @ about_centre(fixed.shape, 6.0, 1.06, 8 / 2**0.5)
        shapes = {"fixed_shape": fixed.shape[:2], "moving_shape": moving.shape[:2]}
        grid = pixel_grid(fixed.shape[:2])
        source = np.tensordot(truth[:2, :2], grid, 1) + truth[:2, 2, None, None]
        yield fixed, moving, source, Transform(off, **shapes)


def warped(name: str, root: Path, limit: int | None) -> Iterator[Case]:
    """Photographs or infrared pairs under the protocol's warps."""
    import numpy as np
    from modalities import photographs

    from napari_busref.data.datasets import load_pairs
    from napari_busref.metrics.registration import make_pair

    if name == "photographs":
        elastic = "affine"
        altered = [
            (255 * (1 - (grey / 255.0) ** 0.6), image)
            for file, image, grey in photographs(root)
            if "FLIR" not in file
        ]
    else:
        folder, _, elastic = name.rpartition("-")
        altered = [(second, fixed) for _, second, fixed in load_pairs(folder, root, "val")]
    for seed, (second, fixed) in enumerate(altered[:limit]):
        pair = make_pair(second / 255.0, fixed, seed, elastic=ELASTIC[elastic])
        yield fixed, pair.moving.astype(np.float32), pair.warp.true_source(), None


def measure(case: Case) -> list[float]:
    """Errors of both refinements, and the mean length of the field."""
    import numpy as np

    from napari_busref import register

    fixed, moving, source, initial = case
    shape = np.array(moving.shape[:2])[:, None, None]
    inside = ((source >= 0) & (source <= shape - 1)).all(0)
    run = partial(register, initial=initial, search="none" if initial else None, device="cpu")
    errors, field = [], 0.0
    for refine in ("affine", "dense"):
        found = run(fixed, moving, refine=refine).transform
        apart = found.points(np.argwhere(inside)) - source[:, inside].T
        errors.append(float(np.hypot(*np.linalg.solve(found.affine[:2, :2], apart.T)).mean()))
        if found.displacement is not None:
            field = float(np.hypot(*found.displacement)[inside].mean())
    return [*errors, field]


def main(
    out: Annotated[Path, typer.Option(help="Folder of the table.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Set; repeat for more.")] = None,
    limit: Limit = None,
    threads: Threads = 1,
    data_root: DataRoot = None,
) -> None:
    """Register with and without a displacement field."""
    console = wide_console()
    set_threads(threads)
    root = chosen_data("--set", sets, SETS, data_root)
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in sets or SETS:
        load = srif if name in KINDS else warped
        rows = []
        for case in load(name, root, limit):
            rows.append(measure(case))
            console.print(f"{name}: " + ", ".join(f"{x:.2f}" for x in rows[-1]), markup=False)
        means = [cell("px", mean(column)) for column in zip(*rows, strict=True)]
        lines.append([name, str(len(rows)), *means, cell("share", mean(r[2] > 0 for r in rows))])
    headings = ("set", "pairs", "affine, px", "dense, px", "field, px", "bent, %")
    facts = provenance(threads)
    heading = f"{facts['machine']}, {threads} threads; commit {facts['commit']}"
    publish(f"{heading}\n\n{markdown(headings, lines)}\n", out / "table.md")


if __name__ == "__main__":
    typer.run(main)
