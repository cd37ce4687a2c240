"""Tables of numbers as programs and spreadsheets write them: commas, semicolons or tabs."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from napari_busref.runtime.file_safety import check_file, read_text

__all__ = ["delimiter", "number", "read_table", "rows"]

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATOR = re.compile(r"\A\s*\"?sep=.\"?[^\S\n]*\r?\n", re.IGNORECASE)  # a line for Excel


def read_table(path: Path) -> str:
    """Read the text of a table, in UTF-8 or UTF-16, without the line ``sep=;`` of Excel.

    Raises
    ------
    UnicodeDecodeError
        When it is no text.
    OSError, Refused
        As `napari_busref.runtime.file_safety.check_file`.
    """
    check_file(path)
    with path.open("rb") as file:
        wide = file.read(2) in _WIDE
    return _SEPARATOR.sub("", read_text(path, "utf-16" if wide else "utf-8-sig"), count=1)


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
