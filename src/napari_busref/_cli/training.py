"""The command train: train one stage by its recipe, and show loss and validation."""

from __future__ import annotations

import os
import time
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_busref._cli.console import Bars, err, escape, interruptible, log, out, tell
from napari_busref._cli.options import Device
from napari_busref.training.stage_names import STAGES

_SECONDS_BETWEEN_LINES = 30.0  # where there is no terminal


def train(
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help=f"Stage to train: {', '.join(STAGES)}.")
    ],
    recipe: Annotated[Path, typer.Option(help="Recipe file (TOML), see training/recipes/.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for checkpoint, log and weights.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in --output.")
    ] = False,
    device: Device = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(
            "--max-minutes", help="Stop with a checkpoint after this time; --resume continues."
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change the recipe: KEY=VALUE, such as loss.guide=0."),
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option(
            "--gpu/--no-gpu",
            help="Apply the recipe's table for a GPU (default: on a CUDA device).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train one stage by its recipe. Needs the packages of the extra `train`.

    Ctrl+C stops with a checkpoint. Use the resulting weights as --model FILE.
    """
    from napari_busref import training

    if not recipe.is_file():
        raise FileNotFoundError(f"--recipe: no such file: {recipe}")
    settings = parse_settings(override or [])
    if not resume and (output / "checkpoint.ckpt").exists():
        raise FileExistsError(
            f"--output: {output} holds a checkpoint; use --resume, or name another folder"
        )
    with interruptible() as cancel, _Display(stage) as display:
        weights = training.run(
            stage,
            recipe,
            output=output,
            resume=resume,
            device=device,
            overrides=settings,
            max_minutes=minutes,
            progress=display,
            cancel=cancel,
            gpu=gpu,
        )
    if weights is None:
        tell(f"stopped after {minutes:g} minutes; continue with --resume")
    else:
        out().print(escape(str(weights)))


def parse_settings(given: list[str]) -> dict[str, Any]:
    """Parse ``["loss.guide=0", "precision=bf16-mixed"]``; values are TOML, else text."""
    settings: dict[str, Any] = {}
    for item in given:
        key, separator, text = item.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"--set: got {item!r}, need KEY=VALUE")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = text.strip()
    return settings


class _Display:
    """A bar with the loss, and one lasting line per validation."""

    def __init__(self, stage: str) -> None:
        self._bars = Bars()
        self._update = self._bars.add(stage)
        self._terminal = err().is_terminal
        self._main = os.environ.get("LOCAL_RANK", "0") == "0"  # one of several processes prints
        self._last = 0.0

    def __enter__(self) -> _Display:
        if self._main:
            self._bars.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._main:
            self._bars.__exit__(*exc)

    def __call__(self, stage: str, fraction: float) -> None:
        if not self._main:
            return
        due = time.monotonic() - self._last > _SECONDS_BETWEEN_LINES
        if " val " in stage or (due and not self._terminal):
            log.info(stage)
            self._last = time.monotonic()
        self._update(stage, fraction)
