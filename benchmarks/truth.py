"""How far off the truth itself is, and what that does to the measured errors.

    python benchmarks/truth.py --out FOLDER [--dataset vis-nir] [--model auto] [--seeds 0,1,2]
        [--split val] [--limit 4]

The protocol takes aligned pairs for true, and these were aligned by hand or by a program. What is
checked, for every pair:

*SIFT* (scikit-image) matches the aligned infrared with the visible image; matches further than 15
px apart, or more than 1.5 px off their neighbours' median, are left out. Their mean length is how
far off the pair is. Where there are 30 or more, the registration of the warped pairs is scored at
these points twice: against the pair as given, and against where SIFT sees the point. SIFT and
our models share nothing.

*Common error*: every pair is warped several times and registered each time. Errors of the
registration differ from warp to warp; an error of the pair is there every time. So the mean of
the products of two warps' error vectors is the mean square of the common part.

*Told the truth*: pairs are registered once more, and in the last look, which fits the field, every
block of the image is told where its content lies, off by as much as it holds possible (drawn from
its own covariance). What is left of the error is what the image does not show. The rest is that
blocks of the two images as they are given see something else than the truth.

*Looked at*: every pair is registered as it is given, too. ``FOLDER/SET/PAIR.png`` shows the edges
of both images (visible red, infrared green, yellow where they coincide) as given, left, and as
registered, right.

``FOLDER`` gets ``rows.csv``, with a row for each pair, and ``table.md``.
"""

# Only what does not load numpy is imported here: threads are set before anything else.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from napari_busref.metrics.registration import SyntheticPair

    Array = NDArray[Any]

Row = dict[str, Any]
FARTHEST = 15.0
"""Longest match, in pixels; no pair is that far off."""
AGREED = 1.5
NEIGHBOURS = 15
FEWEST = 30
COLUMNS = {
    "n": "pairs",
    "epe": "EPE",
    "rms": "RMS error",
    "common": "common to all warps, RMS",
    "told": "EPE when told the truth",
    "moved": "pairs as given moved by",
    "sifted": f"pairs with {FEWEST} matches",
    "off": "truth off by (SIFT)",
    "given": "error at the matches, truth as given",
    "seen": "truth as SIFT sees it",
}


def sift_matches(fixed: Array, aligned: Array) -> tuple[Array, Array]:
    """Places (N, 2) in the fixed image and where their content lies from there, (N, 2), rc."""
    import numpy as np
    from scipy.spatial import cKDTree
    from skimage.feature import SIFT, match_descriptors

    found = []
    for image in (fixed, aligned):
        sift = SIFT(c_dog=0.004)
        sift.detect_and_extract(image)
        found.append((sift.positions, sift.descriptors))
    (place, described), (other, other_described) = found
    pairs = match_descriptors(described, other_described, max_ratio=0.85, cross_check=True)
    place, offset = place[pairs[:, 0]], other[pairs[:, 1]] - place[pairs[:, 0]]
    near = np.hypot(*offset.T) < FARTHEST
    place, offset = place[near], offset[near]
    if len(place) < NEIGHBOURS:
        return place[:0], offset[:0]
    beside = cKDTree(place).query(place, NEIGHBOURS)[1]
    agreed = np.hypot(*(offset - np.median(offset[beside], 1)).T) < AGREED
    return place[agreed], offset[agreed]


@contextmanager
def told(pair: SyntheticPair, seed: int) -> Iterator[None]:
    """Registrations of the pair in this block see the truth where they fit the field."""
    from unittest.mock import patch

    import numpy as np
    from scipy.ndimage import map_coordinates

    from napari_busref.geometry import estimate_to_pixels
    from napari_busref.registration import em_fit as posterior
    from napari_busref.registration import refine

    random = np.random.default_rng(seed)
    source, shape = pair.warp.true_source(), pair.warp.shape
    last: list[Array] = []
    fitted, fit_bspline_field, read = (
        refine._fitted,
        refine.fit_bspline_field,
        posterior.BlockLikelihoods.read,
    )

    def note_affine(fixed: Any, moving: Any, estimate: Any, *rest: Any) -> Any:
        last[:] = [estimate_to_pixels(estimate, shape)[0][0]]
        return fitted(fixed, moving, estimate, *rest)

    def field(data: Any, half: Any, **options: Any) -> Any:
        if options.get("earlier") is not None:
            raise ValueError("told: only for images that are looked at once for the field")
        pixels = min(shape) / 2
        place = data.position[:, ::-1] * pixels + (np.array(shape) - 1) / 2
        goal = np.stack([map_coordinates(s, place.T, order=1, mode="nearest") for s in source])
        back = np.linalg.inv(last[0])
        wanted = (back[:2, :2] @ goal + back[:2, 2:]).T - place
        wanted = wanted[:, ::-1] / pixels
        spread = random.standard_normal((*data.position.shape, 1))

        def reading(self: Any, around: Array, width: float) -> tuple[Array, Array]:
            information = read(self, wanted, width)[0]
            least = 1e-12 * np.trace(information.sum(0)) * np.eye(2)
            drawn = np.linalg.cholesky(information + least) @ spread
            return information, (information @ wanted[..., None] + drawn)[..., 0]

        with patch.object(posterior.BlockLikelihoods, "read", reading):
            return fit_bspline_field(data, half, **options)

    # nothing is refused: where a pair is off, the truth makes its edges agree less
    with patch.multiple(refine, _fitted=note_affine, fit_bspline_field=field, _TOLERATED=2.0):
        yield


def look(infrared: Array, visible: Array, model: nn.Module, device: str, path: Path) -> float:
    """Register a pair as it is given and draw both; how far it moved, mean, in pixels."""
    import numpy as np
    from imageio.v3 import imwrite

    from napari_busref import register
    from napari_busref.images.comparison import compare

    result = register(visible, infrared.astype(np.float32), model=model, device=device)
    given, found = (
        compare(visible, image, "edges", mask=mask)
        for image, mask in ((infrared, None), (result.warped, result.mask))
    )
    path.parent.mkdir(exist_ok=True)
    imwrite(path, np.concatenate([given, found], 1))
    return float(np.hypot(*result.flow)[result.mask].mean())


def measure(
    infrared: Array, visible: Array, seeds: list[int], model: nn.Module, device: str
) -> Row:
    """The checks of one pair that count, images in [0, 1]."""
    import numpy as np

    from napari_busref import register
    from napari_busref.metrics.registration import make_pair, pixel_grid

    place, offset = sift_matches(visible, infrared)
    rows, cols = np.rint(place).astype(int).T
    errors, masks, given, seen, left = [], [], [], [], []
    for seed in seeds:
        pair = make_pair(infrared, visible, seed)
        images, grid = (pair.fixed, pair.moving.astype(np.float32)), pixel_grid(visible.shape)
        found = register(*images, model=model, device=device)
        with told(pair, seed):
            best = register(*images, model=model, device=device)
        error, told_error = (pair.warp.points(grid + r.flow) - grid for r in (found, best))
        left.append(np.hypot(*told_error)[pair.mask].mean())
        errors.append(error)
        masks.append(pair.mask)
        inside = pair.mask[rows, cols]
        at = error[:, rows, cols].T[inside]
        given += np.hypot(*at.T).tolist()
        seen += np.hypot(*(at - offset[inside]).T).tolist()
    everywhere = np.all(masks, 0)
    products = [(a * b).sum(0)[everywhere].mean() for a, b in combinations(errors, 2)]
    return {
        "epe": float(
            np.mean([np.hypot(*e)[m].mean() for e, m in zip(errors, masks, strict=True)])
        ),
        "square": float(np.mean([(e**2).sum(0)[everywhere].mean() for e in errors])),
        "common_square": float(np.mean(products)),
        "told": float(np.mean(left)),
        "matches": len(place),
        "off": float(np.hypot(*offset.T).mean()) if len(place) else None,
        "given": float(np.mean(given)) if given else None,
        "seen": float(np.mean(seen)) if seen else None,
    }


def summary(rows: list[Row]) -> Row:
    """Means over the pairs; those of SIFT over the pairs with enough matches."""
    import numpy as np

    sifted = [row for row in rows if row["matches"] >= FEWEST]
    mean: Row = {"n": len(rows), "sifted": len(sifted)}
    for key in ("epe", "told", "moved"):
        mean[key] = float(np.mean([row[key] for row in rows]))
    for key, square in (("rms", "square"), ("common", "common_square")):
        mean[key] = float(np.sqrt(max(np.mean([row[square] for row in rows]), 0)))
    for key in ("off", "given", "seen"):
        mean[key] = float(np.mean([row[key] for row in sifted])) if sifted else None
    return mean


def table(summaries: dict[str, Row]) -> str:
    """Markdown, a row for each set."""
    lines = [" | ".join(["| set", *COLUMNS.values()]) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name, row in summaries.items():
        cells = [
            ""
            if row[key] is None
            else f"{row[key]:.2f}"
            if isinstance(row[key], float)
            else row[key]
            for key in COLUMNS
        ]
        lines.append(" | ".join([f"| {name}", *map(str, cells)]) + " |")
    return "\n".join(lines) + "\n"


def main(
    out: Annotated[Path, typer.Option(help="Folder for the table.")],
    dataset: Annotated[list[str], typer.Option()] = ["roadscene", "vis-nir"],  # noqa: B006
    model: Annotated[str, typer.Option(help="Registration model.")] = "auto",
    seeds: Annotated[str, typer.Option(help="Warps of each pair, two or more.")] = "0,1,2",
    split: Annotated[str, typer.Option(help="Split of the data sets.")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")] = None,
    device: str = "cpu",
    threads: int = 2,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
) -> None:
    """Measure all pairs and print the table."""
    from registration import set_threads

    set_threads(threads)
    from napari_busref.data.datasets import load_pairs
    from napari_busref.evaluation import write_table
    from napari_busref.images.preprocess import luma
    from napari_busref.models import load_model

    drawn = [int(seed) for seed in seeds.split(",")]
    if len(drawn) < 2:
        raise typer.BadParameter(
            "two or more are needed to see what is common", param_hint="seeds"
        )
    out.mkdir(parents=True, exist_ok=True)
    network = load_model(model, kind="registration", device=device)
    rows: list[Row] = []
    summaries = {}
    for name in dataset:
        ours = []
        for pair, infrared, visible in load_pairs(name, data_root, split)[:limit]:
            grey = luma(visible / 255.0)
            images = (infrared / 255.0, grey)
            moved = look(*images, network, device, out / name / f"{Path(pair).stem}.png")
            ours.append(measure(*images, drawn, network, device) | {"moved": moved})
            rows.append({"dataset": name, "pair": pair} | ours[-1])
            write_table(rows, out / "rows.csv")
        summaries[f"{name} {split}"] = summary(ours)
    text = table(summaries)
    (out / "table.md").write_text(text, encoding="utf-8")
    Console().print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
