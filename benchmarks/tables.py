"""Tables of results: CSV files that runs append to, Markdown, and the console."""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = dict[str, Any]


def read_rows(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, if it exists. An incomplete last line is removed from the file."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return list(csv.DictReader(whole.splitlines()))


def append_row(file: Path, row: Row, columns: Sequence[str]) -> None:
    """Append one row to a CSV file. The first one also writes the header."""
    first = not file.exists() or not file.stat().st_size
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerow(row)


def cell(name: str, value: Any, decimals: int = 2) -> str:
    """The text of a value: empty for None, percent for the columns ``share_...``."""
    if value is None:
        return ""
    if name.startswith("share"):
        return f"{100 * value:.0f}"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def cell_with_deviation(row: Row, name: str, decimals: int = 2) -> str:
    """The text of a value, with ± its standard deviation where the row has one."""
    spread = row.get(f"{name}_sd")
    text = cell(name, row[name], decimals)
    return text if spread is None else f"{text} ± {cell(name, spread, decimals)}"


def markdown(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without a line break at its end."""
    headings = list(headings)
    lines = (headings, ["---"] * len(headings), *rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(text: str, file: Path) -> None:
    """Write a Markdown page and print it."""
    file.write_text(text, encoding="utf-8")
    Console().print(text, markup=False, soft_wrap=True)


def console_table(
    headings: Iterable[str], rows: Iterable[Sequence[str]], title: str | None = None
) -> Table:
    """A table to print."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for cells in rows:
        table.add_row(*map(escape, cells))
    return table


def wide_console(**options: Any) -> Console:
    """A console that does not fold tables at 80 columns in a file or pipe."""
    console = Console(highlight=False, **options)
    if not console.is_terminal:
        console.width = max(console.width, 180)
    return console
