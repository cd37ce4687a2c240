"""Pictures that napari's own reader shows as they are stored, sideways. Needs no Qt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from napari_busref.images.pictures import JPEG
from napari_busref.images.tiff import upright

__all__ = ["stored_orientation", "turn_upright"]

_SUFFIXES = (*JPEG, ".tif", ".tiff", ".webp", ".png")
_TURNED = "turned upright"
_OWN_READERS = ("napari", "builtins")  # they ignore the tag; other plugins may not


def stored_orientation(layer: Any) -> int:
    """Return the orientation tag of a layer's file that its reader left out.

    Parameters
    ----------
    layer : napari.layers.Image

    Returns
    -------
    int
        2 to 8 as of TIFF and EXIF; 1 where there is nothing to turn.
    """
    source = layer.source
    path = Path(source.path or "")
    if (
        source.reader_plugin not in _OWN_READERS
        or path.suffix.lower() not in _SUFFIXES
        or layer.multiscale
        or _TURNED in layer.metadata
    ):
        return 1
    try:
        with Picture.open(path) as opened:
            tag = int(opened.getexif().get(0x0112, 1) or 1)
            # of TIFF, Pillow gives the size of the turned picture
            tags = getattr(opened, "tag_v2", {})
            size = (tags.get(256, opened.width), tags.get(257, opened.height))
    except Exception:  # the layer is there, whatever became of its file
        return 1
    end = layer.data.ndim - bool(layer.rgb)
    stored = tuple(layer.data.shape[end - 2 : end]) == size[::-1]
    return tag if stored and 2 <= tag <= 8 else 1


def turn_upright(layer: Any) -> None:
    """Turn a layer, and its pixel size, by the orientation tag of its file."""
    tag = stored_orientation(layer)
    if tag == 1:
        return
    rows = layer.data.ndim - bool(layer.rgb) - 2
    scale = np.array(layer.scale)
    layer.data = upright(np.asarray(layer.data), tag, rows)
    if tag > 4:
        layer.scale = [*scale[:-2], *scale[:-3:-1]]
    layer.metadata[_TURNED] = tag
