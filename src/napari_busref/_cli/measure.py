"""The commands about models: evaluate, train and models."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from napari_busref._cli.console import Bars, interruptible, out
from napari_busref._cli.files import plain, refuse_existing, write_json
from napari_busref._cli.process import Device, Overwrite


def evaluate(
    what: Annotated[
        Literal["registration", "fusion"],
        typer.Argument(metavar="WHAT", help="registration or fusion."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model or .safetensors file; repeat for more (default: all)."),
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="Folder under --data-root, such as roadscene or vis-nir.")
    ] = "roadscene",
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets (default: ../shared/data)."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "val",
    seeds: Annotated[
        int, typer.Option(min=1, help="Registration: random warps drawn for each pair.")
    ] = 3,
    device: Device = "auto",
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the rows: .csv or .json.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure models on a data set by the protocol in docs/protocol.md and print the table.

    Registration: aligned pairs are warped at random and the models have to find the warp.
    Fusion: aligned pairs are fused. One row a pair goes to --out, the table shows the summary.
    """
    from napari_busref import evaluation
    from napari_busref.models import list_models

    if output is not None:
        if output.suffix.lower() not in (".csv", ".json"):
            raise ValueError(f"--out: got {output.name}, accepted extensions: .csv, .json")
        refuse_existing([output], overwrite)
        output.parent.mkdir(parents=True, exist_ok=True)
    names = model or list_models(what)
    with interruptible() as cancel, Bars() as bars:
        progress = bars.add(f"{what} on {dataset}")
        if what == "registration":
            rows = evaluation.evaluate_registration(
                names,
                dataset=dataset,
                data_root=data_root,
                split=split,
                seeds=tuple(range(seeds)),
                device=device,
                progress=progress,
                cancel=cancel,
            )
        else:
            rows = evaluation.evaluate_fusion(
                names,
                dataset=dataset,
                data_root=data_root,
                split=split,
                device=device,
                progress=progress,
                cancel=cancel,
            )
    summary = evaluation.summarise(rows)
    out().print(_table(summary, f"{what} on {dataset} {split}"))
    if output is None:
        return
    if output.suffix.lower() == ".json":
        write_json(output, {"summary": summary, "rows": rows})
    else:
        _write_csv(output, rows)
    out().print(escape(str(output)))


def train(
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help="Stage to train: bus, gaf or registration.")
    ],
    recipe: Annotated[Path, typer.Option(help="Recipe file (TOML), see the folder training/.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for checkpoints, logs and weights.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --output.")
    ] = False,
    device: Device = "auto",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting of the recipe, KEY=VALUE; repeatable."),
    ] = None,
) -> None:
    """Train one stage by its recipe. Needs the packages of the extra `train`."""
    from napari_busref import training

    if not recipe.is_file():
        raise FileNotFoundError(f"--recipe: no such file: {recipe}")
    training.run(
        stage, recipe, output=output, resume=resume, device=device, overrides=_settings(override)
    )


def models(
    kind: Annotated[
        Literal["registration", "fusion", "reconstruction"] | None,
        typer.Option(help="Only models of this kind."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """List the registered models with their size and what their cards say."""
    from napari_busref.models import card, list_models

    cards = {name: card(name) for name in list_models(kind)}
    if as_json:
        import json

        typer.echo(json.dumps(plain(cards), indent=2, ensure_ascii=False))
        return
    out().print(_table([{"model": name, **facts} for name, facts in cards.items()], "models"))


def _settings(given: list[str] | None) -> dict[str, str]:
    settings = {}
    for item in given or []:
        key, separator, value = item.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"--set: got {item!r}, need KEY=VALUE")
        settings[key.strip()] = value.strip()
    return settings


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return "" if value is None else str(value)


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    rows = [plain(row) for row in rows]
    headings = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading.replace("_", " "))
    for row in rows:
        table.add_row(*(escape(_cell(row.get(heading))) for heading in headings))
    return table


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    rows = [plain(row) for row in rows]
    headings = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, headings)
        writer.writeheader()
        writer.writerows(rows)
