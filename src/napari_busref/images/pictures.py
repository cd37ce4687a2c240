"""Read PNG, JPEG, BMP, WebP, GIF, JPEG 2000 and PGM, upright and in full depth."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_busref.images import flir
from napari_busref.images.arrays import picture_array
from napari_busref.images.declared import check_array, check_jpeg2000, check_picture
from napari_busref.images.dtypes import native
from napari_busref.images.selection import Stored
from napari_busref.images.tiff import upright

__all__ = ["JPEG", "Unsupported", "read_picture"]

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
"""Extensions of JPEG."""

_ORIENTATION = 0x0112


class Unsupported(Exception):
    """A sound file whose content cannot be read without loss."""


def read_picture(file: Path) -> Stored:
    """Read the first picture of a file; `Stored.pages` reads the others."""
    if file.suffix.lower() in JPEG:
        thermal = flir.find_thermal(file)
        if thermal is not None:
            return _thermal(file, thermal)
    if _is_jpeg2000(file):
        return _jpeg2000(file)
    with Image.open(file) as opened:
        check_picture(opened, file)
        format_, frames = opened.format, getattr(opened, "n_frames", 1)
        orientation = int(opened.getexif().get(_ORIENTATION, 1) or 1)
        if format_ == "PNG" and _is_deep_colour_png(file):
            check_array((*opened.size, 4), np.uint16, file)
            data, valid = _deep_png(file)
            valid = None if valid is None else upright(valid, orientation)
            data = upright(data, orientation)
            return Stored(data, "YXS"[: data.ndim], valid=valid)
        data = _array(opened)
        key = opened.info.get("transparency") if data.dtype == np.uint16 else None
    if format_ == "PPM" and data.dtype == np.uint16:
        data = _counts(file, data)
    pages: list[Callable[[], NDArray[Any]]]
    pages = [partial(_frame, file, number) for number in range(1, frames)]
    note = ""
    if flir.is_dji_thermal(file, format_):
        counts = flir.dji_counts(file)
        note = flir.NOTE_DJI if counts is None else flir.NOTE_DJI_COUNTS
        pages += [] if counts is None else [counts.copy]
    valid = data != key if isinstance(key, int) else None
    return Stored(data, "YXS"[: data.ndim], valid=valid, pages=pages, note=note)


def _array(picture: Image.Image) -> NDArray[Any]:
    if picture.mode in ("L", "RGB") and "transparency" in picture.info:
        orientation = int(picture.getexif().get(_ORIENTATION, 1) or 1)
        return upright(np.array(picture.convert("RGBA")), orientation)
    data = picture_array(picture)
    if data.dtype == np.int32 and data.min() >= 0 and data.max() <= 65535:
        data = data.astype(np.uint16)  # some Pillow versions open 16-bit grey as mode I
    return native(data)


def _counts(file: Path, stretched: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The counts of a PGM of 9 to 16 bits, which Pillow stretches to 65535."""
    with file.open("rb") as stream:
        header = re.sub(rb"#[^\n]*", b"", stream.read(4096)).split()
    largest = int(header[3])  # after the magic number, width and height
    return np.rint(stretched * (largest / 65535)).astype(np.uint16)


def _frame(file: Path, number: int) -> NDArray[Any]:
    with Image.open(file) as opened:
        opened.seek(number)
        check_picture(opened, file)
        return _array(opened)


def _thermal(file: Path, thermal: flir.Thermal) -> Stored:
    pages: list[Callable[[], NDArray[Any]]] = [partial(_frame, file, 0)]
    if thermal.visible is not None:
        pages.insert(0, thermal.read_visible)
    metadata = {"value_unit": "°C", "thermal": thermal.parameters}
    held = " its visible picture is page 2," if thermal.visible is not None else ""
    note = f"temperatures in °C;{held} the picture as displayed page {len(pages) + 1}"
    return Stored(thermal.celsius, "YX", metadata, pages=pages, note=note)


def _is_deep_colour_png(file: Path) -> bool:
    with file.open("rb") as stream:
        header = stream.read(26)
    # the IHDR chunk comes first: bit depth at byte 24, colour type (2: RGB, 4, 6: alpha) at 25
    return header[24] == 16 and header[25] != 0


def _deep_png(file: Path) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Colour or alpha of 16 bits, which Pillow would cut to 8."""
    codecs = _codecs("16-bit colour PNG")
    data = np.asarray(codecs.png_decode(file.read_bytes()))
    if data.ndim == 3 and data.shape[-1] == 2:
        return data[..., 0], data[..., 1] > 0
    return data, None


def _is_jpeg2000(file: Path) -> bool:
    """Whether it begins as a JP2 file or as a codestream."""
    with file.open("rb") as stream:
        head = stream.read(12)
    return head == b"\0\0\0\x0cjP  \r\n\x87\n" or head.startswith(b"\xff\x4f\xff\x51")


def _jpeg2000(file: Path) -> Stored:
    """JPEG 2000; its fourth channel is alpha only where a channel definition says so."""
    content = file.read_bytes()
    check_jpeg2000(content, file)
    data = np.asarray(_codecs("JPEG 2000").jpeg2k_decode(content))
    if data.dtype == np.uint8 and (data.ndim == 2 or data.shape[-1] == 3):
        with Image.open(file) as opened:  # which knows no more than four channels
            check_picture(opened, file)
            if opened.mode in ("L", "RGB"):
                data = _array(opened)  # also converts other colour spaces
    if data.ndim == 2 or data.shape[-1] == 3:
        return Stored(data, "YXS"[: data.ndim])
    start = content.find(b"cdef", 0, content.find(b"jp2c"))
    alpha = _alpha_channel(content, start) if start > 0 else None
    if alpha == data.shape[-1] - 1 and data.shape[-1] in (2, 4):
        if data.shape[-1] == 4:
            return Stored(data, "YXS")
        return Stored(data[..., 0], "YX", valid=data[..., 1] > 0)
    bands = np.moveaxis(data, -1, 0)
    if data.shape[-1] >= 3:
        return Stored(np.ascontiguousarray(data[..., :3]), "YXS", extra_bands=bands)
    return Stored(bands, "SYX")


def _alpha_channel(content: bytes, start: int) -> int | None:
    """The opacity channel of a channel definition box (ISO 15444-1, I.5.3.6)."""
    count = int.from_bytes(content[start + 4 : start + 6], "big")
    for entry in range(min(count, 64)):
        at = start + 6 + 6 * entry
        index, kind = (int.from_bytes(content[at + i : at + i + 2], "big") for i in (0, 2))
        if kind in (1, 2):
            return index
    return None


def _codecs(what: str) -> Any:
    try:
        import imagecodecs
    except ImportError:
        raise Unsupported(f"{what} needs imagecodecs: pip install imagecodecs") from None
    return imagecodecs
