"""Pictures of results: for notebooks as HTML, and axes of matplotlib for `plot`."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_busref.images.comparison import grey_picture
from napari_busref.images.preprocess import prepare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_picture", "card", "new_axes", "show_picture", "shrink"]

_CARD_PIXELS = 256  # longest side of a picture in a card
_COLOURS = 128  # of a picture in a card: it has at most 64 kB then


def as_picture(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Convert any image to uint8 RGB; NaN, infinite and missing pixels are black.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, 3 or 4)
    name : str
        What errors call it.
    """
    if image.dtype == np.uint8 and image.ndim == 3:
        return np.ascontiguousarray(image[..., :3])
    if np.ma.isMaskedArray(image) or image.dtype.kind == "f":
        missing = np.ma.getmaskarray(image) | ~np.isfinite(np.ma.getdata(image))
        if missing.all():  # outside the moving image, for example
            return np.zeros((*image.shape[:2], 3), np.uint8)
    return grey_picture(prepare(image, name, min_size=1).grey)


def shrink(picture: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Average blocks of ``step`` x ``step`` pixels; blocks at the far border are smaller."""
    return np.asarray(Image.fromarray(picture).reduce(step)) if step > 1 else picture


def card(
    title: str, lines: Iterable[str], pictures: Sequence[tuple[str, NDArray[np.uint8]]]
) -> str:
    """Describe a result as HTML, with its pictures inside.

    Parameters
    ----------
    title : str
    lines : iterable of str
        Plain text.
    pictures : sequence of (caption, picture)
        uint8 (H, W) or (H, W, 3); each becomes a PNG of at most 256 pixels along its longer side.

    Returns
    -------
    str
        HTML that fetches nothing.
    """
    figures = "".join(
        f"<figure style='display:inline-block;margin:0 8px 0 0'>"
        f"<img src='{_data_uri(picture)}' alt='{escape(caption, quote=True)}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, picture in pictures
    )
    text = "".join(f"<div>{escape(line)}</div>" for line in lines)
    return f"<div><div><b>{escape(title)}</b></div>{text}{figures}</div>"


def new_axes(count: int, axes: Any = None) -> list[Axes]:
    """Make a row of axes, or check given ones.

    Parameters
    ----------
    count : int
    axes : matplotlib.axes.Axes or sequence of them, optional
        As many as `count`.

    Raises
    ------
    ModuleNotFoundError
        Without matplotlib, naming the extra that brings it.
    TypeError, ValueError
        When `axes` are no axes, or too few or many.
    """
    try:
        from matplotlib import pyplot
        from matplotlib.axes import Axes
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "plot needs matplotlib: pip install 'napari-busref[plot]'", name="matplotlib"
        ) from None
    if axes is None:
        _, made = pyplot.subplots(
            1, count, figsize=(4.2 * count, 3.6), squeeze=False, layout="constrained"
        )
        return list(made.flat)
    given = list(np.ravel(np.asarray(axes, dtype=object)))
    if not all(isinstance(one, Axes) for one in given):
        raise TypeError(f"axes: got {type(axes).__name__}, need matplotlib's Axes")
    if len(given) != count:
        raise ValueError(f"axes: got {len(given)}, need {count}")
    return given


def show_picture(
    axes: Axes, picture: NDArray[np.uint8], title: str, shape: tuple[int, int]
) -> None:
    """Show a picture on axes in pixels of the image that it stands for.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    picture : ndarray of uint8, shape (h, w) or (h, w, 3)
    title : str
    shape : (int, int)
        Rows and columns of the image; those of the picture may be fewer.
    """
    rows, cols = shape
    axes.imshow(picture, cmap="gray", extent=(-0.5, cols - 0.5, rows - 0.5, -0.5))
    axes.set_title(title)


def _data_uri(picture: NDArray[np.uint8]) -> str:
    image = Image.fromarray(picture).convert("RGB")
    longest = max(image.size)
    if longest > _CARD_PIXELS:
        size = (max(round(side * _CARD_PIXELS / longest), 1) for side in image.size)
        image = image.resize((next(size), next(size)), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.quantize(_COLOURS).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
