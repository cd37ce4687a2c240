"""The command finetune: fine-tune models on aligned pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_busref._cli.console import Bars, escape, interruptible, is_quiet, out, tell
from napari_busref._cli.options import Device, Match


def finetune(
    fixed: Annotated[
        Path | None,
        typer.Argument(metavar="[FIXED]", help="Folder of fixed (visible) images."),
    ] = None,
    moving: Annotated[
        Path | None,
        typer.Argument(metavar="[MOVING]", help="Folder of moving images, aligned with them."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the result, for --model, and of the training.")
    ] = "my model",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to start from; twice for one of each kind (default: auto)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for checkpoint and log."),
    ] = None,
    match: Match = "name",
    steps: Annotated[int, typer.Option(help="Steps for each model.")] = 300,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Default: a twentieth of the model's own training, 3e-4 for auto."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", help="Stop after this time, and export the models."),
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Number of held-out pairs (default: a fifth, at most 4).")
    ] = None,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training of this name or --output.")
    ] = False,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="With --resume: export the models without more training."),
    ] = False,
) -> None:
    """Fine-tune models on your own aligned pairs. Needs the packages of the extra `train`.

    Ctrl+C stops with a checkpoint; --resume needs no folders. Use the result as --model NAME, or
    choose it in the panels of napari.
    """
    from napari_busref import training
    from napari_busref.training.finetuning.pairs import pairs_in_folders
    from napari_busref.training.finetuning.plan import trainings_folder
    from napari_busref.training.finetuning.recipes import HEADLINES

    folder = output if output is not None else trainings_folder() / name
    if finish and not resume:
        raise ValueError("--finish: needs --resume")
    if not resume and (fixed is None or moving is None):
        raise ValueError("FIXED and MOVING: two folders must be given, except with --resume")
    bars = Bars()
    with interruptible() as cancel, bars:
        progress = bars.add("finetune")
        if resume:
            results = training.resume_finetuning(
                folder,
                finish=finish,
                max_minutes=minutes,
                device=device,
                progress=progress,
                cancel=cancel,
            )
        else:
            assert fixed is not None and moving is not None
            results = training.finetune(
                pairs_in_folders(fixed, moving, match),
                model or ["auto"],
                name=name,
                output=folder,
                steps=steps,
                learning_rate=learning_rate,
                max_minutes=minutes,
                held_out=held_out,
                device=device,
                source=f"{fixed.absolute()} and {moving.absolute()}",
                progress=progress,
                cancel=cancel,
            )
    for one in results:
        key, word, unit, _ = HEADLINES[one.kind]
        change = f"{one.before[key]:.3g} → {one.after[key]:.3g} {unit}".strip()
        worse = "" if one.better else " (not better)"
        tell(escape(f"{one.name}: {word} on held-out pairs {change}{worse}"))
        if is_quiet():
            out().print(escape(one.name))
