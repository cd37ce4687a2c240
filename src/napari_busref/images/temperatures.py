"""Read the table of temperatures that the programs of thermal cameras export."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.declared import check_array
from napari_busref.images.pictures import Unsupported
from napari_busref.images.selection import Stored
from napari_busref.runtime.tables import delimiter, number, read_table

__all__ = ["read_temperatures"]

_SMALLEST = 8  # rows and columns of an image
_MISSING = ("", "-", "--", "---", "nan")
#: Words of the lines above the table, with the value of 0 and the size of 1 degree in °C.
_UNITS = (
    (re.compile(r"°\s*C\b|\bcelsius\b|[\[(]C[\])]", re.IGNORECASE), 0.0, 1.0),
    (re.compile(r"°\s*F\b|\bfahrenheit\b|[\[(]F[\])]", re.IGNORECASE), -32 / 1.8, 1 / 1.8),
    (re.compile(r"\bkelvin\b|[\[(]K[\])]", re.IGNORECASE), -273.15, 1.0),
)


def read_temperatures(file: Path) -> Stored:
    """Read the longest table of numbers in a text file, one image row a line.

    Lines with words may stand above it. Columns are separated by commas, semicolons or tabs, and
    beside the last two, commas are decimal. A first row or column that only counts is left out.
    Empty cells are NaN.

    Parameters
    ----------
    file : Path
        In UTF-8 or UTF-16.

    Returns
    -------
    Stored
        float32. In °C with ``value_unit`` where the lines above name °C, °F or K.

    Raises
    ------
    Unsupported
        When there is no table of 8 rows and columns.
    """
    try:
        text = read_table(file)
    except UnicodeDecodeError:
        text = file.read_text("latin-1")  # whose words have °, and whose numbers are the same
    lines = text.splitlines()
    mark = delimiter(next((line for line in reversed(lines) if line.strip()), ""))
    widths = [_width(line, mark) for line in lines]
    runs = [
        (width, list(run))
        for width, run in itertools.groupby(range(len(lines)), widths.__getitem__)
    ]
    width, numbers = max(runs, key=lambda run: run[0] * len(run[1]), default=(0, []))
    if min(width, len(numbers)) < _SMALLEST:
        raise Unsupported(
            "a table of temperatures has at least 8 rows and 8 columns of numbers, "
            f"found {len(numbers)} and {width}"
        )
    check_array((len(numbers), width), np.float32, file)
    table = np.array([_values(lines[at], mark) for at in numbers])
    return _in_celsius(_without_counts(table), "\n".join(lines[: numbers[0]]))


def _cells(line: str, mark: str) -> list[str]:
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=mark))]
    return cells if cells[-1] else cells[:-1]  # some programs end each line by a mark


def _width(line: str, mark: str) -> int:
    """The number of cells of a line of numbers; 0 for other lines."""
    if not line.strip(f"{mark} "):
        return 0
    try:
        return len(_values(line, mark))
    except (ValueError, csv.Error):
        return 0


def _values(line: str, mark: str) -> list[float]:
    return [
        np.nan if cell.lower() in _MISSING else number(cell, mark) for cell in _cells(line, mark)
    ]


def _without_counts(table: NDArray[Any]) -> NDArray[Any]:
    """The table without a first row and column that counts its cells, from 0 or 1."""
    rest = table
    for _ in range(2):
        first = table[0, 1:] if _counts(table[0, 1:]) else None
        rest = rest if first is None else rest[1:]
        table, rest = table.T, rest.T
    return rest


def _counts(values: NDArray[Any]) -> bool:
    return bool((np.diff(values) == 1).all()) and values[0] in (0, 1)


def _in_celsius(table: NDArray[Any], above: str) -> Stored:
    for words, zero, degree in _UNITS:
        if words.search(above):
            data = (table * degree + zero).astype(np.float32)
            return Stored(data, "YX", {"value_unit": "°C"})
    return Stored(table.astype(np.float32), "YX")
