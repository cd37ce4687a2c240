"""Tables of numbers as programs and spreadsheets write them: commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

__all__ = ["delimiter", "number", "rows"]


def delimiter(text: str) -> str:
    """Return what separates the columns: a semicolon or tab of the first line, else a comma.

    Lines that begin with ``#`` do not count. Commas may be decimal ones.
    """
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    first = next(lines, "")
    return next((mark for mark in ";\t" if mark in first), ",")


def rows(text: str) -> Iterator[list[str]]:
    """Return the cells of each line."""
    return csv.reader(io.StringIO(text), delimiter=delimiter(text))


def number(cell: str, separator: str = ";") -> float:
    """Return the number of a cell. Where no comma separates columns, it is a decimal comma.

    Raises
    ------
    ValueError
        When it is none.
    """
    return float(cell if separator == "," else cell.replace(",", "."))
