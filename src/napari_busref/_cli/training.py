"""The commands train and train-queue: train stages by their recipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from napari_busref._cli.console import (
    EXIT_SOME_FAILED,
    Bars,
    err,
    escape,
    interruptible,
    log,
    out,
    show,
    tell,
)
from napari_busref._cli.options import Device
from napari_busref.runtime.atomic_write import holders, own_process
from napari_busref.training.stage_names import STAGES

if TYPE_CHECKING:
    from napari_busref.training.queue import State

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


def train_queue(
    queue: Annotated[
        Path | None,
        typer.Argument(metavar="[QUEUE]", help="List of recipes (TOML): training/queue.toml."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder with one folder for each training.")
    ] = Path("runs"),
    background: Annotated[
        bool,
        typer.Option("--background", help="Return at once, and train at the lowest priority."),
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show how far the queue in --output is.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the queue in --output, with a checkpoint.")
    ] = False,
    device: Device = "auto",
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Apply the recipes' tables for a GPU.")
    ] = False,
) -> None:
    """Train a list of recipes, and continue where a stopped queue was.

    What is done is not trained again. --output gets queue.csv, one row for each training. Exit
    code 1: a training failed. Needs the packages of the extra `train`.
    """
    from napari_busref.training import queue as trainings

    if status or stop:
        if stop:
            _stop(output)
        show(_queue_table(trainings.read_states(output)))
        return
    if queue is None:
        raise ValueError("QUEUE: need a list of recipes, such as training/queue.toml")
    entries = trainings.load_queue(queue)
    if background:
        options = ["--device", device, *(["--gpu"] if gpu else [])]
        process = _start(["train-queue", str(queue), "-o", str(output), *options], output)
        tell(f"trains in the background (process {process}); see --status and --stop")
        return
    with interruptible() as cancel, _Display("queue") as display:
        states = trainings.run_queue(
            entries, output, device=device, gpu=gpu, progress=display, cancel=cancel
        )
    show(_queue_table(states))
    if any(state.state == "failed" for state in states):
        raise typer.Exit(EXIT_SOME_FAILED)


def _start(arguments: list[str], output: Path) -> int:
    """Start this program in the background; its output goes to ``queue.log``."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / "queue.log").open("ab") as log_file:
        child = subprocess.Popen(
            [sys.executable, "-m", "napari_busref", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_lower_priority if os.name == "posix" else None,
        )
    return child.pid


def _lower_priority() -> None:
    """Give way to all other work of this computer.

    Linux shares the processor among sessions first: ``nice`` alone has no effect on another one.
    """
    os.nice(19)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def _stop(output: Path) -> None:
    """Interrupt the queue that writes to a folder, and wait for its checkpoint."""
    running = holders(output)
    if not running:
        raise ProcessLookupError(f"--stop: no queue runs in {output}")
    number = own_process(running[0])
    if number is None:
        raise ProcessLookupError(f"--stop: the queue in {output} runs on another computer")
    os.kill(number, signal.SIGTERM)
    while holders(output):
        time.sleep(0.5)


def _queue_table(states: list[State]) -> Table:
    columns = ("training", "state", "step", "of", "hours", "of", "loss", "")
    table = Table(*columns)
    for one in states:
        loss = "" if one.loss is None else f"{one.loss:.4g}"
        hours = f"{one.hours:.2f}", f"{one.cpu_hours:g}" if one.cpu_hours else ""
        row = (one.name, one.state, str(one.step), str(one.steps), *hours, loss, one.message)
        table.add_row(*map(escape, row))
    return table


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
