"""Read Carl Zeiss CZI with czifile: channels, pages and the pixel size."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

from napari_busref.images.declared import check_array
from napari_busref.images.selection import Stored

__all__ = ["read_czi"]


def read_czi(file: Path) -> Stored:
    """Read the whole mosaic; axes of length one are removed."""
    from napari_busref.images.pictures import Unsupported

    try:
        import czifile
    except ImportError:
        raise Unsupported("CZI needs czifile: pip install 'napari-busref[czi]'") from None
    with czifile.CziFile(str(file)) as opened:
        check_array(opened.shape, opened.dtype, file)
        data = np.asarray(opened.asarray())
        axes = str(opened.axes)
        text = opened.metadata()
    axes = axes.replace("S", "I").replace("B", "I").replace("0", "S")  # B, S: block, scene
    keep = [i for i, n in enumerate(data.shape) if n > 1 or axes[i] in "YX"]
    data = data.reshape([data.shape[i] for i in keep])
    axes = "".join(axes[i] for i in keep)
    if axes.endswith("S") and data.shape[-1] in (3, 4):
        data = data[..., [2, 1, 0]]  # stored as blue, green, red
    return Stored(data, axes, _spacing(text))


def _spacing(text: Any) -> dict[str, Any]:
    """Pixel size in µm; the metadata hold metres."""
    sizes = {}
    try:
        for distance in ElementTree.fromstring(text).iter("Distance"):
            value = distance.find("Value")
            if value is not None and value.text:
                sizes[distance.get("Id")] = float(value.text) * 1e6
    except (ElementTree.ParseError, TypeError, ValueError):
        return {}
    if sizes.get("X", 0) > 0 and sizes.get("Y", 0) > 0:
        return {"spacing": (sizes["Y"], sizes["X"]), "unit": "µm"}
    return {}
