"""The commands that measure and list models: evaluate and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from napari_busref._cli.console import Bars, escape, interruptible, out, show
from napari_busref._cli.options import Device, Overwrite
from napari_busref.batch.files import plain, refuse_existing


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
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first pairs of the split.")
    ] = None,
    device: Device = "auto",
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the rows: .csv or .json.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure models on a data set of aligned pairs and print the table.

    Registration warps aligned pairs at random and measures the error of each model. Fusion
    fuses them and computes metrics. The table is a summary; --out gets one row per pair.
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
                limit=limit,
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
                limit=limit,
                progress=progress,
                cancel=cancel,
            )
    summary = evaluation.summarise(rows)
    title = f"{what} on {dataset} {split}"
    if what == "fusion":
        pairs = summary[0]["n"]
        show(_table(_by_metric(summary), f"{title}, {pairs} pairs"))
    else:
        show(_table(summary, title))
    if output is None:
        return
    evaluation.write_table([plain(row) for row in rows], output)
    out().print(escape(str(output)))


def models(
    kind: Annotated[
        Literal["registration", "fusion", "reconstruction"] | None,
        typer.Option(help="Only models of this kind."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """List the registered models with their size and the data of their cards."""
    from napari_busref.models import list_models
    from napari_busref.models.registry import KINDS, weights_name

    rows = [
        {"model": name, "kind": each, **_facts(weights_name(name, each))}
        for each in KINDS
        if kind in (None, each)
        for name in list_models(each)
    ]
    if as_json:
        typer.echo(json.dumps(plain(rows), indent=2, ensure_ascii=False))
        return
    for row in rows:
        row["data"] = ", ".join(map(str, row["data"]))
        row["scores"] = ", ".join(f"{key} {_cell(value)}" for key, value in row["scores"].items())
    headings = ["model", "kind", "parameters", "megabytes", "data", "steps", "device", "scores"]
    show(_table([{key: row[key] for key in headings} for row in rows], "models"))


def _by_metric(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Transpose the summary of a fusion: a row for each metric, a column for each model."""
    from napari_busref.metrics.fusion import METRICS

    lines = {
        name: f"{metric.symbol} {'↑' if metric.higher_is_better else '↓'}"
        + (" (median)" if metric.summary == "median" else "")
        for name, metric in METRICS.items()
    }
    lines |= {"seconds": "seconds", "failures": "failures"}
    return [
        {"score": line, **{row["model"]: _with_deviation(row, name) for row in summary}}
        for name, line in lines.items()
    ]


def _facts(name: str) -> dict[str, Any]:
    """Read the card and the file size of weights; empty for a model without weights."""
    from napari_busref.models.weights import card, weights_path

    weights = weights_path(name)
    if not weights.with_suffix(".json").exists():
        return {"parameters": 0, "megabytes": 0.0, "data": {}, "scores": {}} | dict.fromkeys(
            ("steps", "device", "commit")
        )
    size = weights.stat().st_size / 1e6
    return {"megabytes": round(size, 2), "data": {}, "scores": {}, "steps": None, **card(name)}


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return "" if value is None else str(value)


def _with_deviation(row: dict[str, Any], name: str) -> str:
    """Write a value, with ± the standard deviation where the row has one."""
    spread = row.get(f"{name}_sd")
    return _cell(row.get(name)) + ("" if spread is None else f" ± {_cell(spread)}")


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    rows = [plain(row) for row in rows]
    headings = [
        key for key in dict.fromkeys(key for row in rows for key in row) if not key.endswith("_sd")
    ]
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_with_deviation(row, heading)) for heading in headings))
    return table
