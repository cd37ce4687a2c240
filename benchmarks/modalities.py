"""Measure `register` on other modalities, degraded images and large displacements.

    python benchmarks/modalities.py --out FOLDER [--model auto] [--seeds 0,1,2] [--limit 2]
        [--case mri-pet]

The cases: the built-in pair of stains, MRI-PET and MRI-CT, single photographs against their
inverted, gamma-bent and blurred copies, pixels of half and of twice the size, degraded infrared
images (`degrade.py`), and infrared pairs at the limits of the searches.

The second image is altered, warped by ``docs/explanation/protocol.md`` unless the case has another
warp, degraded and resized. Scores are in pixels of the fixed image, without empty borders of the
second image, such as the black around a head. ``FOLDER`` gets ``rows.csv`` (every pair),
``table.csv`` and ``table.md``. The output names missing data sets.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from options import (
    DataRoot,
    Device,
    Limit,
    Seeds,
    Threads,
    check_known,
    data_folder,
    parse_seeds,
    provenance,
    set_threads,
)
from rich.markup import escape
from rich.table import Table
from tables import Row, cell, console_table, markdown, wide_console

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from napari_busref.metrics.registration import SyntheticPair

Aligned = tuple[str, "NDArray[Any]", "NDArray[Any]"]

ROADSCENE = ("roadscene",)
PHOTOGRAPHS = ("camera", "astronaut", "immunohistochemistry")  # of scikit-image's wheel
HEADINGS = {
    "case": "case",
    "n": "pairs",
    "before": "EPE before",
    "epe_mean": "EPE mean",
    "epe_median": "EPE median",
    "share_below_5px": "< 5 px, %",
    "share_reliable": "reliable, %",
    "seconds": "seconds",
    "failures": "failures",
}


def stains(data_root: Path | None) -> Iterator[Aligned]:
    """Two stains of one tissue section."""
    from napari_busref.data.samples import stain_pair

    sample = stain_pair()
    yield "stains", sample.fixed, sample.aligned


def slices(kind: str, data_root: Path | None) -> Iterator[Aligned]:
    """Slices of a head: MRI, and PET or CT, in their stored colours."""
    from imageio.v3 import imread

    folder = data_folder(data_root) / "medical" / kind
    files = sorted((folder / "mri").glob("*.png"))
    if not files:
        raise ValueError(f"{folder / 'mri'} holds no pictures")
    for file in files:
        yield file.stem, imread(file), imread(folder / "source" / file.name)


def photographs(data_root: Path | None) -> Iterator[Aligned]:
    """Photographs of scikit-image and RoadScene, each with its own grey values."""
    import numpy as np
    from skimage import data

    from napari_busref.images.preprocess import luma

    found = [(name, getattr(data, name)()) for name in PHOTOGRAPHS]
    with contextlib.suppress(ValueError):  # `main` reports it
        found += [(name, visible) for name, visible, _ in infrared(ROADSCENE, data_root)]
    for name, image in found:
        grey = image if image.ndim == 2 else np.rint(luma(image.astype(float))).astype(np.uint8)
        yield name, image, grey


def infrared(sets: Sequence[str], data_root: Path | None) -> Iterator[Aligned]:
    """Visible and infrared images, from the data sets in turn."""
    from napari_busref.data.datasets import load_pairs

    loaded = [load_pairs(name, data_root) for name in sets]
    for name, second, visible in chain.from_iterable(zip(*loaded, strict=False)):
        yield name, visible, second


def invert(image: NDArray[Any]) -> NDArray[Any]:
    """Bright becomes dark, in [0, 1]."""
    return 1 - image


def bend(gamma: float, image: NDArray[Any]) -> NDArray[Any]:
    """Grey values to a power."""
    return image**gamma


def blur(image: NDArray[Any]) -> NDArray[Any]:
    """Gaussian, sigma 2 px."""
    from scipy import ndimage

    return ndimage.gaussian_filter(image, (2, 2) + (0,) * (image.ndim - 2))


def degraded(how: str, image: NDArray[Any]) -> NDArray[Any]:
    """Apply the function of this name in `degrade.py`."""
    import degrade

    return getattr(degrade, how)(image)


def everything(image: NDArray[Any]) -> NDArray[Any]:
    """Invert, bend and blur."""
    return blur(bend(0.4, invert(image)))


@dataclass(frozen=True)
class Case:
    """A line of the table.

    Attributes
    ----------
    title : str
        Its name in the table.
    images : callable
        Loads the aligned images.
    alter : callable, optional
        Changes the second image, in [0, 1], before it is warped.
    degrade : callable, optional
        Changes the warped image, grey values in [0, 1].
    pixels : float
        Moving pixels along the side of one fixed pixel.
    warp : mapping
        Ranges of the warp that differ from the protocol's.
    search : str, optional
        The search of `napari_busref.register`; by default the model's.
    """

    title: str
    images: Callable[[Path | None], Iterator[Aligned]]
    alter: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    degrade: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    pixels: float = 1.0
    warp: Mapping[str, Any] = field(default_factory=dict)
    search: str | None = None


thermal = partial(infrared, ROADSCENE)
both = partial(infrared, (*ROADSCENE, "vis-nir"))


def far(title: str, search: str, **warp: Any) -> Case:
    """Infrared pairs under an affine warp that differs from the protocol's."""
    affine = {"shear_deg": 0.0, "elastic": (0.0, 0.0)}
    return Case(f"{search}: {title}", both, warp=affine | warp, search=search)


DEGRADED = {
    "noise": "noise of 0.1",
    "motion": "blurred along 13 px",
    "hot-object": "a hot object, contrast / 4",
    "stuck-pixels": "1 % stuck pixels",
    "furnace": "600 °C on 4 % of 10 to 35 °C",
    "no-data": "−9999 in a corner and 1 % of the pixels",
    "overlay": "cross hair, marks and scale",
    "bars": "grey bars above and below",
    "rainbow": "false colours",
}
CASES = {
    "stains": Case("two stains of a tissue section", stains),
    "mri-pet": Case("MRI, PET", partial(slices, "mri-pet")),
    "mri-ct": Case("MRI, CT", partial(slices, "mri-ct")),
    "itself": Case("photograph, itself", photographs),
    "inverted": Case("photograph, inverted", photographs, invert),
    "gamma-0.4": Case("photograph, gamma 0.4", photographs, partial(bend, 0.4)),
    "gamma-2.5": Case("photograph, gamma 2.5", photographs, partial(bend, 2.5)),
    "blurred": Case("photograph, blurred by 2 px", photographs, blur),
    "everything": Case("photograph, inverted, gamma 0.4, blurred", photographs, everything),
    "finer": Case("photograph, pixels of half the size", photographs, pixels=2.0),
    "coarser": Case("photograph, pixels of twice the size", photographs, pixels=0.5),
    "thermal-finer": Case("visible, thermal, pixels of half the size", thermal, pixels=2.0),
    "thermal-coarser": Case("visible, thermal, pixels of twice the size", thermal, pixels=0.5),
    **{
        name: Case(f"infrared, {title}", both, degrade=partial(degraded, name.replace("-", "_")))
        for name, title in DEGRADED.items()
    },
    "clean": Case("infrared, as it is", both),
    "round": Case("infrared, round field of view", both, partial(degraded, "round_field")),
    "coarse": Case("infrared, pixels of six times the size", both, pixels=1 / 6),
    "near-turned": far("to 15°, 0.8 to 1.25", "near", rotation_deg=15.0, scale=(0.8, 1.25)),
    "near-shifted": far("shifts to 30 %", "near", translation=0.3),
    "near-all": far("all three", "near", rotation_deg=15.0, scale=(0.8, 1.25), translation=0.3),
    "wide-turned": far("turned any way", "wide", rotation_deg=180.0),
    "wide-part": far("content 2 to 2.5 times as large", "wide", scale=(0.4, 0.5)),
    "wide-larger": far("1.4 to 2 times as large", "wide", scale=(0.5, 0.7)),
    "wide-smaller": far("0.5 to 0.7 times as large", "wide", scale=(1.4, 2.0)),
    "wide-small": far("0.4 to 0.5 times as large", "wide", scale=(2.0, 2.5)),
    "wide-shifted": far("shifts to 40 %", "wide", translation=0.4),
    "wide-all": far(
        "any turn, 0.4 to 2.5, shifts to 15 %",
        "wide",
        rotation_deg=180.0,
        scale=(0.4, 2.5),
        translation=0.15,
    ),
}


def draw(case: Case, aligned: Aligned, seed: int) -> tuple[SyntheticPair, NDArray[Any]]:
    """Warp the second image; the grey pair for the scorer, and the moving image."""
    import numpy as np
    from scipy import ndimage
    from skimage.transform import resize

    from napari_busref.images.preprocess import empty_border, luma
    from napari_busref.metrics.registration import make_pair

    _, fixed, second = aligned
    altered = second.astype(np.float64) / 255
    if case.alter is not None:
        altered = case.alter(altered)
    grey = altered if altered.ndim == 2 else luma(altered)
    pair = make_pair(grey, fixed, seed, **case.warp)
    scored = pair.mask & ~empty_border(altered, "second")
    if not scored.any():
        raise ValueError(f"{case.title}: no pixel of the second image can be scored")
    pair = replace(pair, mask=scored)
    moving = pair.moving
    if altered.ndim == 3:
        planes = [
            ndimage.map_coordinates(altered[..., channel], pair.warp.g, order=1)
            for channel in range(altered.shape[2])
        ]
        moving = np.stack(planes, -1)
    if case.degrade is not None:
        moving = case.degrade(moving)
    if case.pixels != 1:
        size = [round(case.pixels * side) for side in moving.shape[:2]]
        moving = resize(moving, size, order=1, anti_aliasing=case.pixels < 1)
    return pair, moving.astype(np.float32)


def as_warped(source: NDArray[Any], moving: Sequence[int], warped: Sequence[int]) -> NDArray[Any]:
    """Convert positions in the resized moving image to positions before resizing.

    Both sizes span the same field: outer borders of pixels agree, centres of the first do not.
    """
    import numpy as np

    shrink = (np.asarray(warped[:2]) / moving[:2])[:, None, None]
    return (source + 0.5) * shrink - 0.5


def measure(case: str, aligned: Aligned, seed: int, model: nn.Module, device: str) -> Row:
    """Register one pair with `register` and score it."""
    from napari_busref import Transform, register
    from napari_busref.metrics.registration import Scorer, pixel_grid
    from registration import score

    pair, moving = draw(CASES[case], aligned, seed)
    shape, size = pair.fixed.shape[:2], moving.shape[:2]
    scorer, grid = Scorer(pair), pixel_grid(shape)
    initial = grid + Transform.equal_field_of_view(shape, size).flow()
    before = scorer(as_warped(initial, size, shape))["epe"]

    def call() -> tuple[NDArray[Any], Row]:
        result = register(
            pair.fixed, moving, model=model, search=CASES[case].search, device=device
        )
        facts = {"quality": result.quality.score, "reliable": result.quality.reliable}
        return as_warped(grid + result.flow, size, shape), facts

    key = {"case": case, "pair": aligned[0], "seed": seed, "before": before, "reliable": False}
    return key | score(scorer, call)


def summary(rows: Sequence[Row]) -> list[Row]:
    """One line per case, in the order of measurement."""
    import numpy as np

    from napari_busref.metrics.registration import summarise

    table = []
    for case in dict.fromkeys(row["case"] for row in rows):
        group = [row for row in rows if row["case"] == case]
        line = summarise(group) | {
            "case": CASES[case].title,
            "before": float(np.mean([row["before"] for row in group])),
            "share_reliable": float(np.mean([row["reliable"] for row in group])),
        }
        table.append({name: line[name] for name in HEADINGS})
    return table


def report(rows: Sequence[Row], heading: str, out: Path) -> Table:
    """Write rows.csv, table.csv and table.md, and return the table to print."""
    from napari_busref.evaluation import write_table

    table = summary(rows)
    cells = [[cell(name, value) for name, value in line.items()] for line in table]
    write_table(rows, out / "rows.csv")
    write_table(table, out / "table.csv")
    text = f"{heading}\n\n{markdown(HEADINGS.values(), cells)}\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    return console_table(HEADINGS.values(), cells)


def load_images(
    names: Iterable[str], limit: int | None, data_root: Path | None
) -> tuple[dict[str, list[Aligned]], list[str]]:
    """The first images of every case, and what is missing with the reason."""
    images: dict[str, list[Aligned]] = {}
    missing: list[str] = []
    for name in names:
        load = CASES[name].images
        try:
            images[name] = list(islice(load(data_root), limit))
        except ValueError as error:
            missing.append(f"{name} ({error})")
            continue
        if load is photographs and len(images[name]) == len(PHOTOGRAPHS) != limit:
            missing.append(f"{name}: RoadScene's photographs")
    return images, missing


def main(
    out: Annotated[Path, typer.Option(help="Folder of the tables.")],
    model: Annotated[str, typer.Option(help="As for napari_busref.register.")] = "auto",
    case: Annotated[
        list[str] | None,
        typer.Option(help=f"Case; repeat for more (default: all of {', '.join(CASES)})."),
    ] = None,
    seeds: Seeds = "0,1,2",
    limit: Limit = None,
    proposals: Annotated[
        bool, typer.Option(help="Whether the networks of auto propose candidates.")
    ] = True,
    threads: Threads = 2,
    device: Device = "cpu",
    data_root: DataRoot = None,
) -> None:
    """Register pairs of many kinds with one call and score them."""
    console = wide_console()
    rows: list[Row] = []
    try:
        drawn = parse_seeds(seeds)
        check_known("--case", case, CASES)
        set_threads(threads)
        from napari_busref import load_model

        images, missing = load_images(case or CASES, limit, data_root)
        absent = "; ".join(missing)
        if not images or not drawn:
            raise ValueError(f"nothing to measure: {absent or 'no seeds'}")
        run = provenance(threads)
        heading = (
            f"{model}, seeds {', '.join(map(str, drawn))}; {run['machine']}, {threads} threads; "
            f"commit {run['commit']}" + (f". Left out: {absent}" if absent else "")
        )
        loaded = load_model(model, kind="registration", device=device)
        if not proposals:
            heading = f"without proposal networks: {heading}"
            loaded.proposal_networks.clear()
        out.mkdir(parents=True, exist_ok=True)
        for name, group in images.items():
            for aligned, seed in product(group, drawn):
                row = measure(name, aligned, seed, loaded, device)
                rows.append(row)
                console.print(
                    f"{name} {row['pair']} warp {seed}: EPE {row['before']:.1f} -> "
                    f"{row['epe']:.2f} px {row['error']}",
                    markup=False,
                )
            table = report(rows, heading, out)  # after every case, in case the run is stopped
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    console.print(escape(heading))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
