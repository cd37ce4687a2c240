"""The command config show: which defaults count, and where they come from."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table

from napari_busref._cli.command import KEYS, command, file_defaults
from napari_busref._cli.console import escape, log, show
from napari_busref.batch.files import plain

app = typer.Typer(name="config", help="Show the defaults of options.", no_args_is_help=True)


def _known(value: str | None) -> str | None:
    if value is not None and value not in KEYS:
        raise ValueError(f"COMMAND: got {value!r}, need one of {', '.join(KEYS)}")
    return value


@app.command("show")
@partial(command, defaults=False)
def show_defaults(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[COMMAND]",
            help="Show every option of this command; by default what differs in any command.",
            callback=_known,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the defaults of options, and which file or variable sets them.

    The command line overrides environment variables, and these override files.
    """
    rows = []
    for each in [name] if name else KEYS:
        rows += [row for row in _rows(ctx, each) if name or row["from"] != "built-in"]
    if as_json:
        typer.echo(json.dumps(plain(rows), indent=2, ensure_ascii=False))
        return
    if not rows:
        log.info("All options have their built-in defaults")
        return
    table = Table("command", "option", "default", "from")
    for row in rows:
        table.add_row(*(escape("" if cell is None else str(cell)) for cell in row.values()))
    show(table)


def _rows(ctx: typer.Context, name: str) -> list[dict[str, Any]]:
    """The default of every option of a command, and its source."""
    group = ctx.find_root().command
    parameters = {each.name: each for each in group.commands[name].params}  # type: ignore[attr-defined]
    found = file_defaults(ctx, name)
    rows = {}
    for key, entry in KEYS[name].items():
        parameter = parameters[entry.parameter]
        default, source = parameter.default, "built-in"
        if entry.parameter in found:
            stored = found[entry.parameter]
            default, source = stored.value, f"{stored.path}: {stored.key}"
        variable = next((one for one in parameter.envvar or () if _set(one)), None)
        if variable is not None:
            default, source = _set(variable), variable
        # a shared option has two keys where its flag has another name
        rows[entry.parameter] = {
            "command": name,
            "option": key,
            "default": default,
            "from": source,
        }
    return list(rows.values())


def _set(variable: str) -> str | None:
    return os.environ.get(variable) or None
