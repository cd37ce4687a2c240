"""Damaged files: twenty kinds of damage, drawn by a seed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

Rng = np.random.Generator
Change = Callable[[Rng, bytearray], bytes]


def _flip(rng: Rng, content: bytearray, count: int, end: int | None = None) -> bytes:
    for at in rng.integers(0, max(1, min(len(content), end or len(content))), count):
        content[at] ^= 1 << int(rng.integers(8))
    return content


def _fill(rng: Rng, content: bytearray, count: int, start: float, value: int | None) -> bytes:
    at = int(start * len(content))
    count = min(count, len(content) - at)
    content[at : at + count] = rng.bytes(count) if value is None else bytes([value]) * count
    return content


def _cut(rng: Rng, content: bytearray, low: float, high: float) -> bytes:
    return content[: int(len(content) * rng.uniform(low, high))]


#: Changes of the content, by name.
CHANGES: dict[str, Change] = {
    "empty": lambda rng, c: b"",
    "one byte": lambda rng, c: c[:1],
    "head only": lambda rng, c: c[: int(rng.integers(4, 64))],
    "first part": lambda rng, c: _cut(rng, c, 0.05, 0.5),
    "most": lambda rng, c: _cut(rng, c, 0.5, 0.99),
    "last byte missing": lambda rng, c: c[:-1],
    "start missing": lambda rng, c: c[int(rng.integers(1, 16)) :],
    "byte missing": lambda rng, c: c[: (at := int(rng.integers(len(c))))] + c[at + 1 :],
    "byte inserted": lambda rng, c: c[: (at := int(rng.integers(len(c))))] + b"\x7f" + c[at:],
    "bit flipped in head": lambda rng, c: _flip(rng, c, 1, 128),
    "bits flipped in head": lambda rng, c: _flip(rng, c, 8, 512),
    "bits flipped": lambda rng, c: _flip(rng, c, 1 + len(c) // 500),
    "head zeroed": lambda rng, c: _fill(rng, c, int(rng.integers(1, 64)), 0, 0),
    "head ones": lambda rng, c: _fill(rng, c, int(rng.integers(1, 64)), rng.uniform(0, 0.1), 255),
    "middle zeroed": lambda rng, c: _fill(rng, c, 64, rng.uniform(0.1, 0.9), 0),
    "middle noise": lambda rng, c: _fill(rng, c, 64, rng.uniform(0.1, 0.9), None),
    "noise": lambda rng, c: rng.bytes(len(c)),
    "halves exchanged": lambda rng, c: c[len(c) // 2 :] + c[: len(c) // 2],
    "line ends": lambda rng, c: c.replace(b"\n", b"\r\n") if b"\n" in c else c + b"\n",
    "text": lambda rng, c: b"<html><body>404 not found</body></html>\n",
    "deep": lambda rng, c: b"[" * 100_000,
}
#: With those that need no content.
KINDS = (*CHANGES, "folder", "other content")


def damage(source: Path, target: Path, kind: str, rng: Rng, other: Path) -> None:
    """Write a damaged copy of a file or folder.

    Parameters
    ----------
    source, target : Path
    kind : str
        One of `KINDS`. In a folder it concerns one of its files.
    rng : numpy.random.Generator
    other : Path
        A file of another format, for "other content".
    """
    if source.is_dir():
        shutil.copytree(source, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        target = files[int(rng.integers(len(files)))]
        content = target.read_bytes()
        target.unlink()
    elif kind not in ("folder", "other content"):
        content = source.read_bytes()
    if kind == "folder":
        target.mkdir()
    elif kind == "other content":
        shutil.copyfile(other, target)
    else:
        target.write_bytes(CHANGES[kind](rng, bytearray(content)))
