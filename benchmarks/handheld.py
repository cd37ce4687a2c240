"""Register and draw real pairs of two hand-held cameras.

    python benchmarks/handheld.py --out FOLDER [--search wide] [--refine affine]
        [--transform homography] [--model auto] [--limit 3]

METU-VisTIR has no ground truth, so a person counts the correct pairs on the sheet. ``FOLDER`` gets
a picture of every pair, ``all.jpg`` with all pairs, and ``table.csv``.

The left panel has the grey visible image with its edges in green. Edges of the registered thermal
image are red, coinciding edges yellow, the border of the registered area is blue. The right panel
is a checkerboard of the visible image and the thermal one in orange. Scale, rotation and shift are
relative to the initial transform, an equal field of view.
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
from options import DataRoot, Device, Limit, data_folder
from PIL import Image, ImageDraw
from rich.console import Console
from scipy import ndimage
from skimage.exposure import equalize_adapthist
from skimage.feature import canny
from skimage.transform import resize
from tables import Row, console_table, wide_console

from napari_busref import RegistrationResult, load_model, register
from napari_busref.evaluation import write_table
from napari_busref.images.preprocess import luma

DATASET = "metu-vistir"
SHEET_WIDTH = 640  # of one panel, in px
EDGES = (0.05, 0.1)  # shares of certain and possible edge pixels
BLUR = 2.0  # px, before edge detection
TILES = 10  # columns of the checkerboard
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
        When the data is missing.
    """
    folder = data_folder(data_root) / DATASET
    files = sorted((folder / "visible").glob("*.jpg"))[:limit]
    if not files:
        raise ValueError(f"--data-root: {folder / 'visible'} holds no pictures")
    for file in files:
        thermal = imread(folder / "infrared" / file.name)
        yield file.stem, imread(file), thermal if thermal.ndim == 2 else thermal[..., 0]


def edges(grey: Grey, mask: Mask) -> Mask:
    """The strongest edges within a mask, a fixed share of its pixels."""
    inside = ndimage.binary_erosion(mask, iterations=4, border_value=1)
    if not inside.any():
        return inside
    gradient = ndimage.gaussian_gradient_magnitude(grey, BLUR, mode="nearest")[inside]
    # 8: canny applies its thresholds to a Sobel filter without normalisation
    certain, possible = (8 * float(np.quantile(gradient, 1 - share)) for share in EDGES)
    return canny(grey, BLUR, possible, certain, mask=inside, mode="nearest")


def draw(visible: Grey, thermal: Grey, mask: Mask, width: int) -> NDArray[np.uint8]:
    """Draw edges over the visible image, and a checkerboard beside it.

    Parameters
    ----------
    visible, thermal : ndarray of float32, shape (H, W)
        The fixed and the registered image in [0, 1].
    mask : ndarray of bool, shape (H, W)
        The registered area.
    width : int
        Of one of the two panels. Lines are 1 px wide.

    Returns
    -------
    ndarray of uint8, shape (h, 2 width, 3)
    """
    size = (round(width * visible.shape[0] / visible.shape[1]), width)
    visible, thermal = (
        resize(image, size, order=1, anti_aliasing=True) for image in (visible, thermal)
    )
    mask = resize(mask.astype(np.float32), size, order=1) > 0.99
    left = np.repeat(0.6 * visible[..., None], 3, 2)
    fixed, registered = edges(visible, np.ones(size, bool)), edges(thermal, mask)
    left[fixed] = GREEN
    left[registered] = RED
    left[fixed & registered] = RED + GREEN
    left[mask ^ ndimage.binary_erosion(mask)] = BLUE
    tile = max(width // TILES, 1)
    rows, cols = np.indices(size) // tile
    tiles = mask & ((rows + cols) % 2 == 1)
    right = np.repeat(visible[..., None], 3, 2)
    right[tiles] = thermal[tiles, None] * ORANGE
    panels = np.concatenate([left, right], 1)
    return np.rint(255 * np.clip(panels, 0, 1)).astype(np.uint8)


def equalised(image: NDArray[Any]) -> Grey:
    """Grey values in [0, 1] with locally equalised contrast."""
    grey = image.astype(np.float32) / 255
    return equalize_adapthist(luma(grey) if grey.ndim == 3 else grey).astype(np.float32)


def facts(name: str, result: RegistrationResult, seconds: float) -> Row:
    """One row of the table."""
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


def labelled(picture: NDArray[np.uint8], row: Row) -> Image.Image:
    """A picture with the name and score of its pair."""
    image = Image.fromarray(picture)
    text = f"{row['pair']}  score {row['score']:.2f}" + ("" if row["reliable"] else "  unreliable")
    brush = ImageDraw.Draw(image)
    brush.rectangle(brush.textbbox((4, 2), text), fill="black")
    brush.text((4, 2), text, fill="white")
    return image


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """All pictures in two columns."""
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    across = min(2, len(pictures))
    whole = Image.new("RGB", (across * width, -(-len(pictures) // across) * height))
    for index, picture in enumerate(pictures):
        whole.paste(picture, (index % across * width, index // across * height))
    return whole


def report(rows: Sequence[Row], console: Console) -> None:
    """Print the table."""
    console.print(console_table(rows[0], [[str(value) for value in row.values()] for row in rows]))
    console.print(f"{sum(row['reliable'] for row in rows)} of {len(rows)} are reliable")


def main(
    out: Annotated[Path, typer.Option(help="Folder of the pictures and the table.")],
    model: Annotated[str, typer.Option(help="As for napari_busref.register.")] = "auto",
    search: Annotated[str, typer.Option(help="near, wide or none.")] = "wide",
    refine: Annotated[str, typer.Option(help="dense, affine or none.")] = "affine",
    transform: Annotated[str, typer.Option(help="affine or homography.")] = "homography",
    device: Device = "cpu",
    limit: Limit = None,
    data_root: DataRoot = None,
) -> None:
    """Register the pairs of two hand-held cameras and draw them."""
    console = wide_console()
    rows: list[Row] = []
    pictures = []
    options: Any = {"search": search, "refine": refine, "transform": transform}
    try:
        loaded = load_model(model, kind="registration", device=device)
        out.mkdir(parents=True, exist_ok=True)
        for name, visible, thermal in pairs(data_root, limit):
            began = time.perf_counter()
            result = register(visible, thermal, model=loaded, device=device, **options)
            row = facts(name, result, time.perf_counter() - began)
            rows.append(row)
            console.print(f"{name}: score {row['score']}, {row['seconds']} s", markup=False)
            fixed, warped = equalised(visible), result.transform.apply(equalised(thermal), cval=0)
            whole = draw(fixed, warped, result.mask, fixed.shape[1])
            Image.fromarray(whole).save(out / f"{name}.jpg", quality=90)
            pictures.append(labelled(draw(fixed, warped, result.mask, SHEET_WIDTH), row))
            # after every pair, in case the run is stopped
            sheet(pictures).save(out / "all.jpg", quality=90)
            write_table(rows, out / "table.csv")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    report(rows, console)


if __name__ == "__main__":
    typer.run(main)
