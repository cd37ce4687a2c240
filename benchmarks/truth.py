"""How far off the ground truth itself is, and what that does to the measured errors.

    python benchmarks/truth.py --out FOLDER [--dataset vis-nir] [--model auto] [--seeds 0,1,2]
        [--split val] [--limit 4]

The protocol takes aligned pairs as the truth, and these were aligned by hand or by a program. Four
checks of every pair:

*SIFT* (scikit-image) matches the aligned infrared with the visible image. Matches longer than
15 px, or more than 1.5 px off their neighbours' median, are outliers. The mean length of the others
is how far off the pair is. With 30 or more, the registration of the warped pairs is scored at these
points against the pair as given, and against SIFT's positions. SIFT shares nothing with our models.

*Common error*: every pair is warped several times and registered each time. Errors of the
registration differ between warps, an error of the pair does not. So the mean product of two warps'
error vectors is the mean square of the common part.

*With the truth*: pairs are registered once more, with the true displacement in the E-step of the
last fit. Each block's displacement is drawn around it, from the block's own covariance. The
remaining error is what the image does not show. The rest is the difference between the two images
as given and the truth.

*Pictures*: every pair is also registered as given. ``FOLDER/SET/PAIR.png`` shows the edges of both
images (visible red, infrared green, yellow where they coincide), as given and as registered.

``FOLDER`` gets ``rows.csv``, with a row for each pair, and ``table.md``.
"""

# Only what does not load numpy is imported here: threads are set before anything else.
from __future__ import annotations

from dataclasses import replace
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
MAX_LENGTH = 15.0
"""Longest match in pixels. No pair is that far off."""
MAX_DEVIATION = 1.5
NEIGHBOURS = 15
MIN_MATCHES = 30
COLUMNS = {
    "n": "pairs",
    "epe": "EPE",
    "rms": "RMS error",
    "common": "common to all warps, RMS",
    "told": "EPE with the truth in the last fit",
    "moved": "pairs as given moved by",
    "sifted": f"pairs with {MIN_MATCHES} matches",
    "off": "truth off by (SIFT)",
    "given": "error at the matches, truth as given",
    "seen": "truth as SIFT sees it",
}


def sift_matches(fixed: Array, aligned: Array) -> tuple[Array, Array]:
    """Matched (row, col) positions (N, 2) in the fixed image, and their displacements (N, 2)."""
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
    near = np.hypot(*offset.T) < MAX_LENGTH
    place, offset = place[near], offset[near]
    if len(place) < NEIGHBOURS:
        return place[:0], offset[:0]
    beside = cKDTree(place).query(place, NEIGHBOURS)[1]
    agreed = np.hypot(*(offset - np.median(offset[beside], 1)).T) < MAX_DEVIATION
    return place[agreed], offset[agreed]


def register_with_truth(pair: SyntheticPair, seed: int, model: nn.Module, device: str) -> Array:
    """Register a pair with the true displacements in the E-step of the last fit; its flow."""
    import numpy as np
    from scipy.ndimage import map_coordinates

    from napari_busref.geometry import estimate_to_pixels
    from napari_busref.models.inference import inference_session
    from napari_busref.registration.estimate import Method, estimate_transform
    from napari_busref.registration.prepare import prepare_pair

    random = np.random.default_rng(seed)
    source, shape = pair.warp.true_source(), pair.warp.shape
    drawn: dict[int, tuple[Array, Array]] = {}

    def target(data: Any, estimate: Any) -> tuple[Array, Array]:
        """True displacements of the blocks from the estimate, and a normal sample for each."""
        if estimate.phi is not None:
            raise ValueError("only for images whose field is fitted at one pyramid level")
        pixels = min(shape) / 2
        place = data.position[:, ::-1] * pixels + (np.array(shape) - 1) / 2
        goal = np.stack([map_coordinates(s, place.T, order=1, mode="nearest") for s in source])
        back = np.linalg.inv(estimate_to_pixels(estimate, shape)[0][0])
        true = (back[:2, :2] @ goal + back[:2, 2:]).T - place
        return true[:, ::-1] / pixels, random.standard_normal((*data.position.shape, 1))

    def e_step(data: Any, estimate: Any, around: Array, bandwidth: float) -> tuple[Array, Array]:
        if id(data) not in drawn:  # one sample for all rounds of a fit
            drawn[id(data)] = target(data, estimate)
        true, sample = drawn[id(data)]
        information = data.e_step(true, bandwidth)[0]
        least = 1e-12 * np.trace(information.sum(0)) * np.eye(2)
        noise = np.linalg.cholesky(information + least) @ sample
        return information, (information @ true[..., None] + noise)[..., 0]

    images = prepare_pair(pair.fixed, pair.moving.astype(np.float32))
    with inference_session(model, "registration", device) as session:
        method = Method.of(session)
        # No fit is rejected: where a pair is off, the truth makes its edges agree less.
        options = replace(method.options, e_step=e_step, score_tolerance=2.0)
        found = estimate_transform(images, replace(method, options=options))
    return found.transform.flow()


def look(infrared: Array, visible: Array, model: nn.Module, device: str, path: Path) -> float:
    """Register a pair as given and draw both; the mean displacement in pixels."""
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
    """The checks of one pair, images in [0, 1]."""
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
        best = register_with_truth(pair, seed, model, device)
        error, told_error = (pair.warp.points(grid + flow) - grid for flow in (found.flow, best))
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

    sifted = [row for row in rows if row["matches"] >= MIN_MATCHES]
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
        raise typer.BadParameter("needs two or more, for the common error", param_hint="seeds")
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
