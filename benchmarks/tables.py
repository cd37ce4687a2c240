"""Tables of results on the console and in Markdown."""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = dict[str, Any]


def cell(name: str, value: Any, decimals: int = 2) -> str:
    """The text of a value: empty for None, percent for the columns ``share_...``."""
    if value is None:
        return ""
    if name.startswith("share"):
        return f"{100 * value:.0f}"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def markdown(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without a line break at its end."""
    headings = list(headings)
    lines = (headings, ["---"] * len(headings), *rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
