"""Draw a sheet of scenes by fusion methods, for visual comparison.

    python benchmarks/fusion_pictures.py --out FOLDER [--model gaf] [--scene FLIR_04602]
        [--count 6] [--case roadscene] [--infrared 0.5] [--detail 0.5]

``FOLDER/CASE.jpg`` shows the visible image, the infrared image and every method's result in
colour, one scene per row. Without ``--scene`` the split is divided into parts with one scene each:
alternately the one whose images differ most and the one with the darkest visible image. The
pictures show research data: FOLDER must be outside the repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fusion import CASES, Pair
from napari_busref import fuse
from napari_busref.evaluation import FUSION_BASELINES
from napari_busref.fusion.tasks import TASKS
from napari_busref.images.preprocess import luma
from napari_busref.models import load_model

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 420  # of one picture, in px
LABEL = 18  # height of a line of text, in px


def choose(pairs: list[Pair], count: int) -> list[Pair]:
    """Choose one pair from each of ``count`` parts: alternately most different and darkest."""

    def difference(pair: Pair) -> float:
        _, infrared, visible = pair
        a, b = infrared.ravel().astype(float), luma(visible.astype(float)).ravel()
        return -float(np.corrcoef(a, b)[0, 1])

    def darkness(pair: Pair) -> float:
        return -float(pair[2].mean())

    parts = np.array_split(np.arange(len(pairs)), min(count, len(pairs)))
    return [
        max((pairs[i] for i in part), key=darkness if number % 2 else difference)
        for number, part in enumerate(parts)
    ]


def sheet(rows: list[list[tuple[str, NDArray[Any]]]]) -> Image.Image:
    """Draw pictures with their titles, row by row."""
    drawn = []
    for row in rows:
        pictures = []
        for title, picture in row:
            colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
            height = round(WIDTH * colour.shape[0] / colour.shape[1])
            tile = Image.new("RGB", (WIDTH, height + LABEL), "white")
            tile.paste(Image.fromarray(colour).resize((WIDTH, height), Image.Resampling.BICUBIC))
            ImageDraw.Draw(tile).text((4, height + 3), title, fill="black")
            pictures.append(np.asarray(tile))
        drawn.append(np.concatenate(pictures, 1))
    return Image.fromarray(np.concatenate(drawn))


def main(
    out: Annotated[Path, typer.Option(help="Folder for the sheet, outside the repository.")],
    case: str = "roadscene",
    model: Annotated[
        list[str] | None, typer.Option(help="Models (default: the task's, then the baselines).")
    ] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Names of pairs.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Scenes, where none is named.")] = 6,
    infrared: float = 0.5,
    detail: float = 0.5,
    device: str = "cpu",
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
) -> None:
    """Fuse some scenes with all methods and draw them."""
    if case not in CASES:
        raise typer.BadParameter(f"--case: need one of {', '.join(CASES)}")
    if out.resolve().is_relative_to(ROOT):
        raise typer.BadParameter(f"--out: {out} is inside the repository, need a folder outside")
    task, load = CASES[case]
    pairs = load(data_root)
    names = {name for name, _, _ in pairs}
    if set(scene or ()) - names:
        raise typer.BadParameter(f"--scene: need some of {', '.join(sorted(names))}")
    chosen = [pair for pair in pairs if pair[0] in scene] if scene else choose(pairs, count)
    baselines = [name for name in FUSION_BASELINES if not name.endswith("only")]
    loaded = {
        name: load_model(name, kind="fusion")
        for name in model or [*TASKS[task].values(), *baselines]
    }
    rows = []
    for name, second, first in chosen:
        row = [(f"{name}: visible", first), ("infrared", second)]
        for title, network in loaded.items():
            result = fuse(
                first,
                second,
                model=network,
                task=task,
                infrared=infrared,
                detail=detail,
                mask=np.ones(second.shape, bool),
                device=device,
            )
            row.append((title, result.fused))
        rows.append(row)
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{case}.jpg"
    sheet(rows).save(file, quality=90)
    typer.echo(file)


if __name__ == "__main__":
    typer.run(main)
