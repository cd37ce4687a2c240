"""Measure the error of the ground truth, and its share of the registration errors.

    python benchmarks/truth.py --out FOLDER [--dataset vis-nir] [--model auto] [--seeds 0,1,2]
        [--split val] [--limit 4]

The protocol takes aligned pairs as the truth, but people or programs aligned them. Four checks of
every pair:

*SIFT* (scikit-image) matches the aligned infrared with the visible image. Matches longer than
15 px, or more than 1.5 px off their neighbours' median, are outliers. The mean length of the
others estimates the error of the pair. Pairs with 30 matches or more are warped and registered;
the error at the matches is measured against the pair as given, and against SIFT. SIFT shares
nothing with our models.

*Common error*: every pair is warped several times and registered each time. Errors of the
registration differ between warps, an error of the pair does not. So the mean product of two warps'
error vectors is the mean square of the common part.

*With the truth*: the E-step of the last fit receives the true displacements. It draws each block's
displacement around them, from the block's covariance. The remaining error is due to the image
content. The rest is the difference between the images as given and the truth.

*Pictures*: every pair is also registered as given. ``FOLDER/SET/PAIR.png`` shows the edges of both
images (visible red, infrared green, yellow where they coincide), as given and as registered.

``FOLDER`` gets ``rows.csv``, with a row for each pair, and ``table.md``.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import DataRoot, Device, Limit, Split, Threads, parse_seeds, set_threads
from tables import Row, cell, markdown, publish

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from napari_busref.metrics.registration import SyntheticPair

    Array = NDArray[Any]

MAX_LENGTH = 15.0
"""Longest match in pixels. No pair has so large an error."""
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
    "off": "error of the truth (SIFT)",
    "given": "error at the matches, truth as given",
    "seen": "truth by SIFT",
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
    (positions, descriptors), (matched, matched_descriptors) = found
    first, second = match_descriptors(
        descriptors, matched_descriptors, max_ratio=0.85, cross_check=True
    ).T
    positions, offsets = positions[first], matched[second] - positions[first]
    near = np.hypot(*offsets.T) < MAX_LENGTH
    positions, offsets = positions[near], offsets[near]
    if len(positions) < NEIGHBOURS:
        return positions[:0], offsets[:0]
    neighbours = cKDTree(positions).query(positions, NEIGHBOURS)[1]
    inliers = np.hypot(*(offsets - np.median(offsets[neighbours], 1)).T) < MAX_DEVIATION
    return positions[inliers], offsets[inliers]


def register_with_truth(pair: SyntheticPair, seed: int, model: nn.Module, device: str) -> Array:
    """Flow of a registration with the true displacements in the E-step of the last fit."""
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
        centres = data.position[:, ::-1] * pixels + (np.array(shape) - 1) / 2
        goal = np.stack([map_coordinates(s, centres.T, order=1, mode="nearest") for s in source])
        inverse = np.linalg.inv(estimate_to_pixels(estimate, shape)[0][0])
        true = (inverse[:2, :2] @ goal + inverse[:2, 2:]).T - centres
        return true[:, ::-1] / pixels, random.standard_normal((*data.position.shape, 1))

    def e_step(data: Any, estimate: Any, around: Array, bandwidth: float) -> tuple[Array, Array]:
        if id(data) not in drawn:  # one sample for all iterations of a fit
            drawn[id(data)] = target(data, estimate)
        true, sample = drawn[id(data)]
        information = data.e_step(true, bandwidth)[0]
        least = 1e-12 * np.trace(information.sum(0)) * np.eye(2)
        noise = np.linalg.cholesky(information + least) @ sample
        return information, (information @ true[..., None] + noise)[..., 0]

    images = prepare_pair(pair.fixed, pair.moving.astype(np.float32))
    with inference_session(model, "registration", device) as session:
        method = Method.of(session)
        # Accept every fit: where a pair has an error, the truth lowers its edge score.
        options = replace(method.options, e_step=e_step, score_tolerance=2.0)
        found = estimate_transform(images, replace(method, options=options))
    return found.transform.flow()


def draw_as_registered(
    infrared: Array, visible: Array, model: nn.Module, device: str, path: Path
) -> float:
    """Register a pair as given, draw both, and return the mean displacement in pixels."""
    import numpy as np
    from imageio.v3 import imwrite

    from napari_busref import register
    from napari_busref.images.comparison import compare

    result = register(visible, infrared.astype(np.float32), model=model, device=device)
    given, registered = (
        compare(visible, image, "edges", mask=mask)
        for image, mask in ((infrared, None), (result.warped, result.mask))
    )
    path.parent.mkdir(exist_ok=True)
    imwrite(path, np.concatenate([given, registered], 1))
    return float(np.hypot(*result.flow)[result.mask].mean())


def measure(
    infrared: Array, visible: Array, seeds: list[int], model: nn.Module, device: str
) -> Row:
    """The checks of one pair, images in [0, 1]."""
    import numpy as np

    from napari_busref import register
    from napari_busref.metrics.registration import make_pair, pixel_grid

    positions, offsets = sift_matches(visible, infrared)
    rows, cols = np.rint(positions).astype(int).T
    errors, masks, with_truth = [], [], []
    at_matches, to_sift = [], []
    for seed in seeds:
        pair = make_pair(infrared, visible, seed)
        images, grid = (pair.fixed, pair.moving.astype(np.float32)), pixel_grid(visible.shape)
        flow = register(*images, model=model, device=device).flow
        true_flow = register_with_truth(pair, seed, model, device)
        error, true_error = (pair.warp.points(grid + f) - grid for f in (flow, true_flow))
        with_truth.append(np.hypot(*true_error)[pair.mask].mean())
        errors.append(error)
        masks.append(pair.mask)
        inside = pair.mask[rows, cols]
        at = error[:, rows, cols].T[inside]
        at_matches += np.hypot(*at.T).tolist()
        to_sift += np.hypot(*(at - offsets[inside]).T).tolist()
    common = np.all(masks, 0)
    products = [(a * b).sum(0)[common].mean() for a, b in combinations(errors, 2)]
    epe = [np.hypot(*error)[mask].mean() for error, mask in zip(errors, masks, strict=True)]
    return {
        "epe": float(np.mean(epe)),
        "square": float(np.mean([(e**2).sum(0)[common].mean() for e in errors])),
        "common_square": float(np.mean(products)),
        "told": float(np.mean(with_truth)),
        "matches": len(positions),
        "off": float(np.hypot(*offsets.T).mean()) if len(positions) else None,
        "given": float(np.mean(at_matches)) if at_matches else None,
        "seen": float(np.mean(to_sift)) if to_sift else None,
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
    cells = [[name, *(cell(key, row[key]) for key in COLUMNS)] for name, row in summaries.items()]
    return markdown(["set", *COLUMNS.values()], cells) + "\n"


def main(
    out: Annotated[Path, typer.Option(help="Folder of the table.")],
    dataset: Annotated[list[str], typer.Option()] = ["roadscene", "vis-nir"],  # noqa: B006
    model: Annotated[str, typer.Option(help="Registration model.")] = "auto",
    seeds: Annotated[str, typer.Option(help="Seeds of the warps, two or more.")] = "0,1,2",
    split: Split = "val",
    limit: Limit = None,
    device: Device = "cpu",
    threads: Threads = 2,
    data_root: DataRoot = None,
) -> None:
    """Measure all pairs and print the table."""
    set_threads(threads)
    from napari_busref.data.datasets import load_pairs
    from napari_busref.evaluation import write_table
    from napari_busref.images.preprocess import luma
    from napari_busref.models import load_model

    drawn = parse_seeds(seeds)
    if len(drawn) < 2:
        raise typer.BadParameter("two or more, for the common error", param_hint="seeds")
    out.mkdir(parents=True, exist_ok=True)
    network = load_model(model, kind="registration", device=device)
    rows: list[Row] = []
    summaries = {}
    for name in dataset:
        measured = []
        for pair, infrared, visible in load_pairs(name, data_root, split)[:limit]:
            images = (infrared / 255.0, luma(visible / 255.0))
            path = out / name / f"{Path(pair).stem}.png"
            moved = draw_as_registered(*images, network, device, path)
            measured.append(measure(*images, drawn, network, device) | {"moved": moved})
            rows.append({"dataset": name, "pair": pair} | measured[-1])
            write_table(rows, out / "rows.csv")
        summaries[f"{name} {split}"] = summary(measured)
    publish(table(summaries), out / "table.md")


if __name__ == "__main__":
    typer.run(main)
