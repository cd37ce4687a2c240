"""Tables of numbers as programs and spreadsheets write them: commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

__all__ = ["delimiter", "number", "rows"]


def delimiter(text: str) -> str:
    """Return what separates the columns: a comma, semicolon or tab, as the first line has it.

    Lines that begin with ``#`` do not count, nor does what stands in quotes.
    """
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    first = re.sub(r'"[^"]*"', "", next(lines, ""))
    marks = re.sub(r"\d,(?=\d)", "", first)  # beside other marks, these are decimal commas
    if not any(mark in marks for mark in ";\t"):
        return ","
    return max(";\t,", key=marks.count)


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
