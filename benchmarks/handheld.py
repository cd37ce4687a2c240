"""The real pairs of two hand-held cameras, registered and drawn to be looked at.

    python benchmarks/handheld.py --out FOLDER [--search wide] [--refine affine]
        [--transform homography] [--model auto] [--limit 3]

METU-VisTIR has no truth, so a person counts on the sheet how many are right. Written to
``FOLDER``: a picture of every pair, ``all.jpg`` with all of them, and ``table.csv``. On the left
the visible image in grey with its own edges in green, those of the registered thermal image in
red (yellow where both coincide) and the border of the registered area in blue; on the right a
checkerboard of the visible image and the thermal one in orange. Scale, rotation and shift are
counted from the starting position, equal fields of view.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from imageio.v3 import imread
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from skimage.exposure import equalize_adapthist
from skimage.feature import canny
from skimage.transform import resize

from napari_busref import RegistrationResult, load_model, register
from napari_busref.data.datasets import default_root
from napari_busref.evaluation import write_table
from napari_busref.images.preprocess import luma

DATASET = "metu-vistir"
SHEET_WIDTH = 640  # of one panel, in px
EDGES = (0.05, 0.1)  # share of the pixels that are certain and possible edges
BLUR = 2.0  # px, before edges are looked for
TILES = 10  # of the checkerboard, across
RED, GREEN, BLUE, ORANGE = (
    np.array(c) for c in ((1, 0, 0), (0, 1, 0), (0.2, 0.5, 1), (1, 0.7, 0.3))
)

Grey = NDArray[np.float32]
Mask = NDArray[np.bool_]


def pairs(
    data_root: Path | None, limit: int | None
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Name, visible and thermal image of each pair.

    Raises
    ------
    ValueError
        When the data is not there.
    """
    root = data_root or default_root()
    if root is None:
        raise ValueError("--data-root: need it, no ../shared/data lies beside this checkout")
    folder = root / DATASET
    files = sorted((folder / "visible").glob("*.jpg"))[:limit]
    if not files:
        raise ValueError(f"--data-root: {folder / 'visible'} holds no pictures")
    for file in files:
        thermal = imread(folder / "infrared" / file.name)
        yield file.stem, imread(file), thermal if thermal.ndim == 2 else thermal[..., 0]


def edges(grey: Grey, mask: Mask) -> Mask:
    """The strongest edges within a mask, the same share of it in any image."""
    inside: Mask = ndimage.binary_erosion(mask, iterations=4, border_value=1)
    if not inside.any():
        return inside
    gradient = ndimage.gaussian_gradient_magnitude(grey, BLUR, mode="nearest")[inside]
    # 8: canny's thresholds are for a Sobel filter that is not normalised
    certain, possible = (8 * float(np.quantile(gradient, 1 - share)) for share in EDGES)
    found: Mask = canny(grey, BLUR, possible, certain, mask=inside, mode="nearest")
    return found


def draw(visible: Grey, thermal: Grey, mask: Mask, width: int) -> NDArray[np.uint8]:
    """Edges over the visible image, and a checkerboard beside it.

    Parameters
    ----------
    visible, thermal : ndarray of float32, shape (H, W)
        The fixed and the registered image in [0, 1].
    mask : ndarray of bool, shape (H, W)
        The registered area.
    width : int
        Of one of the two panels; lines are 1 px wide whatever it is.

    Returns
    -------
    ndarray of uint8, shape (h, 2 width, 3)
    """
    size = (round(width * visible.shape[0] / visible.shape[1]), width)
    visible, thermal = (
        resize(image, size, order=1, anti_aliasing=True) for image in (visible, thermal)
    )
    mask = resize(mask.astype(np.float32), size, order=1) > 0.99
    everywhere = np.ones(size, bool)
    left = np.repeat(0.6 * visible[..., None], 3, 2)
    own, registered = edges(visible, everywhere), edges(thermal, mask)
    left[own] = GREEN
    left[registered] = RED
    left[own & registered] = RED + GREEN
    left[mask ^ ndimage.binary_erosion(mask)] = BLUE
    tile = max(width // TILES, 1)
    rows, cols = np.indices(size) // tile
    shown = mask & ((rows + cols) % 2 == 1)
    right = np.repeat(visible[..., None], 3, 2)
    right[shown] = thermal[shown, None] * ORANGE
    panels = np.concatenate([left, right], 1)
    return np.rint(255 * np.clip(panels, 0, 1)).astype(np.uint8)


def evened(image: NDArray[Any]) -> Grey:
    """Grey values in [0, 1], contrast evened out: a hot house still shows its windows."""
    grey = image.astype(np.float32) / 255
    seen: Grey = equalize_adapthist(luma(grey) if grey.ndim == 3 else grey).astype(np.float32)
    return seen


def facts(name: str, result: RegistrationResult, seconds: float) -> dict[str, Any]:
    """A row of the table."""
    quality = result.quality
    return {
        "pair": name,
        "score": round(quality.score, 3),
        "reliable": quality.reliable,
        "scale": round(quality.scale, 3),
        "rotation_deg": round(quality.rotation_deg, 2),
        "shift_px": round(quality.shift_px, 1),
        "overlap": round(quality.overlap, 3),
        "chosen": quality.evidence.chosen if quality.evidence else "",
        "seconds": round(seconds, 1),
        "reasons": "; ".join(quality.reasons),
    }


def labelled(picture: NDArray[np.uint8], row: dict[str, Any]) -> Image.Image:
    """A picture of the sheet with its name and score written on it."""
    image = Image.fromarray(picture)
    text = f"{row['pair']}  score {row['score']:.2f}" + ("" if row["reliable"] else "  unreliable")
    brush = ImageDraw.Draw(image)
    brush.rectangle(brush.textbbox((4, 2), text), fill="black")
    brush.text((4, 2), text, fill="white")
    return image


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """All pictures on one, two beside each other."""
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    across = min(2, len(pictures))
    whole = Image.new("RGB", (across * width, -(-len(pictures) // across) * height))
    for index, picture in enumerate(pictures):
        whole.paste(picture, (index % across * width, index // across * height))
    return whole


def report(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    console.print(f"{sum(row['reliable'] for row in rows)} of {len(rows)} are called reliable")


def main(
    out: Annotated[Path, typer.Option(help="Folder of the pictures and the table.")],
    model: Annotated[str, typer.Option(help="As of napari_busref.register.")] = "auto",
    search: Annotated[str, typer.Option(help="near, wide or none.")] = "wide",
    refine: Annotated[str, typer.Option(help="dense, affine or none.")] = "affine",
    transform: Annotated[str, typer.Option(help="affine or homography.")] = "homography",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets (default: ../shared/data).")
    ] = None,
) -> None:
    """Register the pairs of two hand-held cameras and draw them."""
    console = Console(highlight=False)
    if not console.is_terminal:  # the table in a file or pipe is not folded at 80 columns
        console.width = max(console.width, 180)
    rows: list[dict[str, Any]] = []
    pictures = []
    options: Any = {"search": search, "refine": refine, "transform": transform}
    try:
        loaded = load_model(model, kind="registration", device=device)
        out.mkdir(parents=True, exist_ok=True)
        for name, visible, thermal in pairs(data_root, limit):
            start = time.perf_counter()
            result = register(visible, thermal, model=loaded, device=device, **options)
            row = facts(name, result, time.perf_counter() - start)
            rows.append(row)
            console.print(f"{name}: score {row['score']}, {row['seconds']} s", markup=False)
            fixed, warped = evened(visible), result.transform.apply(evened(thermal))
            whole = draw(fixed, warped, result.mask, fixed.shape[1])
            Image.fromarray(whole).save(out / f"{name}.jpg", quality=90)
            pictures.append(labelled(draw(fixed, warped, result.mask, SHEET_WIDTH), row))
            # after every pair: they are there if the run is ended early
            sheet(pictures).save(out / "all.jpg", quality=90)
            write_table(rows, out / "table.csv")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    report(rows, console)


if __name__ == "__main__":
    typer.run(main)
