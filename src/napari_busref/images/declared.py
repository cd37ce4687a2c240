"""Sizes that pictures declare, checked before a decoder takes the memory."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from napari_busref.runtime.file_safety import Refused, check_size, memory_budget

__all__ = [
    "check_array",
    "check_inflated",
    "check_jpeg2000",
    "check_picture",
    "check_tiff_files",
    "check_tiff_page",
    "segments",
]

_DEEP = {"I": 4, "F": 4, "I;16": 2, "I;16B": 2, "I;16L": 2, "L": 1, "1": 1}
#: TIFF compressions whose segments are pictures with sizes of their own: JPEG, JPEG 2000, PNG,
#: WebP. The decoders of all others stop at the size that the TIFF declares.
_JPEG = (6, 7, 34892, 33007)
_PICTURES = (33003, 33004, 33005, 34712, 34933, 50001, 34927)
_JPEG_XL, _JPEG_XR, _LERC = (50002, 52546), (22610, 34934), (34887,)


def check_array(shape: Iterable[int], dtype: Any, file: Path | str) -> None:
    """Check the size of an array that a file declares; Python's integers do not overflow."""
    count = math.prod(int(n) for n in shape)
    check_size(count * np.dtype(dtype).itemsize, file, "an image")


def check_picture(opened: Image.Image, file: Path) -> None:
    """Check the size of a picture that Pillow has opened and not yet decoded."""
    width, height = opened.size
    check_size(width * height * _DEEP.get(opened.mode, 4), file, "an image")


def check_jpeg2000(content: bytes, file: Path) -> None:
    """Check the size in the codestream, which Pillow reads from a box that may differ.

    ISO 15444-1, A.5.1: SIZ holds Xsiz and Ysiz at 4 and 8, the offsets at 12 and 16 and the
    number of components at 36, counted from its length field.
    """
    at = content.find(b"\xff\x4f\xff\x51") + 4
    if at < 4:
        return
    width, height, left, top = (
        int.from_bytes(content[at + i : at + i + 4], "big") for i in (4, 8, 12, 16)
    )
    components = int.from_bytes(content[at + 36 : at + 38], "big")
    depths = content[at + 38 : at + 38 + 3 * components : 3]
    wide = 1 + (max((depth & 0x7F for depth in depths), default=0) + 1) // 9
    check_size((width - left) * (height - top) * components * wide, file, "an image")


def segments(content: bytes) -> list[tuple[int, bytes]]:
    """The markers and contents of the segments before the pixels of a JPEG."""
    found: list[tuple[int, bytes]] = []
    at = 2
    if content[:2] != b"\xff\xd8":
        return found
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA:  # the pixels follow
            break
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        found.append((marker, content[at + 4 : at + 2 + length]))
        at += 2 + max(length, 2)
    return found


def check_inflated(content: bytes, file: Path) -> None:
    """Check the size of raw deflated content, without keeping it."""
    inflater, size, left = zlib.decompressobj(-15), 0, content
    while left and not inflater.eof and size <= memory_budget():
        size += len(inflater.decompress(left, 1 << 20))
        left = inflater.unconsumed_tail
    check_size(size, file, "content")


# -- TIFF ---------------------------------------------------------------------------------------


def check_tiff_files(tiff: Any, file: Path) -> str:
    """Refuse an OME-TIFF whose planes are in other files.

    Returns
    -------
    str
        The name of the file in its metadata. It had this one before someone renamed it.
    """
    if not tiff.is_ome or not tiff.ome_metadata:
        return file.name
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return file.name
    named = {one.text: one.get("FileName", "") for one in root.iter() if one.tag.endswith("}UUID")}
    own = root.get("UUID")
    others = {key: name for key, name in named.items() if key != own}
    if len(others) > 1 or (others and own is not None):
        names = ", ".join(repr(name) for name in list(others.values())[:3])
        raise Refused(f"path: {file} has planes in other files, {names}, which are not opened")
    return next(iter(others.values()), file.name)


def check_tiff_page(page: Any, tiff: Any, file: Path) -> None:
    """Check the size of a page's tiles or strips, and what pictures inside them declare."""
    tile = page.tile or (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    depth = max(1, page.bitspersample // 8 if isinstance(page.bitspersample, int) else 8)
    declared = math.prod(int(n) for n in tile) * int(samples) * depth
    check_size(declared, file, "a tile")
    compression = int(page.compression)
    if compression not in (*_JPEG, *_PICTURES, *_JPEG_XL, *_JPEG_XR, *_LERC):
        return
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        tiff.filehandle.seek(offset)
        _check_segment(tiff.filehandle.read(min(count, 1 << 20)), compression, file)


def _check_segment(content: bytes, compression: int, file: Path) -> None:
    if compression in _JPEG:
        for marker, data in segments(content):
            # start of frame (ITU-T T.81, B.2.2): rows at 1, columns at 3, components at 5
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(data) > 5:
                rows, columns = (int.from_bytes(data[i : i + 2], "big") for i in (1, 3))
                check_size(rows * columns * data[5] * (1 + data[0] // 9), file, "a tile")
    elif compression in _PICTURES:
        check_jpeg2000(content, file)
        try:
            with Image.open(io.BytesIO(content)) as opened:
                check_picture(opened, file)
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, Refused):
                raise
    else:
        size = {_JPEG_XL: _jpeg_xl, _JPEG_XR: _jpeg_xr, _LERC: _lerc}
        reader = next(read for kinds, read in size.items() if compression in kinds)
        check_size(8 * math.prod(reader(content)), file, "a tile")


def _jpeg_xl(content: bytes) -> tuple[int, int]:
    """Rows and columns of the codestream (ISO 18181-1, size header); 0 where there is none."""
    at = 0 if content[:2] == b"\xff\x0a" else content.find(b"\xff\x0a")
    bits = int.from_bytes(content[at + 2 : at + 14], "little") if at >= 0 else 1

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def side() -> int:
        return 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    rows = 8 * (1 + take(5)) if small else side()
    ratio = take(3)
    if ratio:
        over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return rows, rows * over // under
    return rows, 8 * (1 + take(5)) if small else side()


def _jpeg_xr(content: bytes) -> tuple[int, int]:
    """Rows and columns of the container (ISO 29199-2, tags BC81 and BC80)."""
    start = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[start : start + 2], "little")
    sides = {0xBC80: 0, 0xBC81: 0}
    for entry in range(min(count, 64)):
        at = start + 2 + 12 * entry
        tag = int.from_bytes(content[at : at + 2], "little")
        if tag in sides:
            sides[tag] = int.from_bytes(content[at + 8 : at + 12], "little")
    return sides[0xBC81], sides[0xBC80]


def _lerc(content: bytes) -> tuple[int, int]:
    """Rows and columns of Lerc2; its checksum comes first from version 3 on."""
    at = content.find(b"Lerc2 ")
    if at < 0:
        return 0, 0
    at += 14 if int.from_bytes(content[at + 6 : at + 10], "little") >= 3 else 10
    rows, columns = (int.from_bytes(content[i : i + 4], "little") for i in (at, at + 4))
    return rows, columns
