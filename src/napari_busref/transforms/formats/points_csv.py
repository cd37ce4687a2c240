"""Points of one image as a table with commas: read, mapped and written with all their columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.tables import delimiter, number, read_table
from napari_busref.runtime.tables import rows as rows_of

__all__ = ["SUFFIXES", "map_points_file"]

#: Extensions of tables of points.
SUFFIXES = (".csv", ".tsv")

_ROWS = ("row", "rows", "r", "y", "axis-0")
_COLUMNS = ("col", "column", "columns", "cols", "c", "x", "axis-1")
_AXIS = re.compile(r"^axis-(\d+)$")  # napari's columns, of which the last two are row and column
_UNIT = re.compile(r"\s*[(\[].*[)\]]\s*$")

_LONGEST = 100  # letters of the name of a column

_Points = NDArray[np.float64]


def map_points_file(path: Path, output: Path, mapping: Callable[[_Points], _Points]) -> _Points:
    """Map the points of a table and write the same table with their new positions.

    Parameters
    ----------
    path : Path
        A table with commas, semicolons or tabs. Its first line names the columns: ``row`` and
        ``col``, ``y`` and ``x``, or napari's ``axis-0`` and ``axis-1``; others are kept. Without
        such a line there are two columns, row and column.
    output : Path
        File to write; a file of this name is replaced.
    mapping : callable
        From (row, col) positions (N, 2) to new ones.

    Returns
    -------
    ndarray of float64, shape (N, 2)
        The new positions.

    Raises
    ------
    ValueError
        When the table holds no such columns, or a position is no finite number.
    """
    try:
        text = read_table(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path} holds no points: it is not text") from None
    separator = delimiter(text)
    try:
        lines = [row for row in rows_of(text) if any(row)]
    except csv.Error as error:
        raise ValueError(f"{path} is no table: {error}") from None
    header = bool(lines) and not all(map(_is_number, lines[0]))
    at = _columns(path, lines[0]) if header else (0, 1)
    rows = lines[1:] if header else lines
    if not header and any(len(row) != 2 for row in rows):
        raise ValueError(
            f"{path} has more than two columns and no line with their names, need row and col, "
            "or x and y"
        )
    points = np.empty((len(rows), 2))
    for index, row in enumerate(rows):
        try:
            points[index] = [number(row[column], separator) for column in at]
        except (ValueError, IndexError):
            points[index] = np.nan
        if not np.isfinite(points[index]).all():
            shown = ", ".join(row)[:_LONGEST]
            raise ValueError(f"{path}: point {index + 1} has no finite position: {shown}")
    moved = mapping(points)
    for row, position in zip(rows, moved, strict=True):
        for column, value in zip(at, position, strict=True):
            row[column] = f"{round(value, 6) + 0.0:.10g}"
    written = "\t" if output.suffix.lower() == ".tsv" else ","
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, delimiter=written, lineterminator="\n").writerows(lines)
    return moved


def _is_number(cell: str) -> bool:
    try:
        number(cell)
    except ValueError:
        return False
    return True


def _columns(path: Path, header: list[str]) -> tuple[int, int]:
    """Find the columns of row and column by their names."""
    # the pattern takes the square of the time of a long name
    names = [_UNIT.sub("", name[:_LONGEST]).strip().lower() for name in header]
    axes = sorted(
        (int(found[1]), at) for at, name in enumerate(names) if (found := _AXIS.match(name))
    )
    if len(axes) >= 2:
        return axes[-2][1], axes[-1][1]
    rows = [at for wanted in _ROWS for at, name in enumerate(names) if name == wanted]
    columns = [at for wanted in _COLUMNS for at, name in enumerate(names) if name == wanted]
    if not rows or not columns:
        raise ValueError(
            f"{path} has the columns {', '.join(header)[:_LONGEST]}, need row and col, or y and "
            "x, or axis-0 and axis-1"
        )
    return rows[0], columns[0]
