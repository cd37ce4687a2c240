"""The terminal side of every command: output, errors, progress and Ctrl+C.

Standard output has results, standard error all else. Lines of standard error are log records of
``napari_busref``: the level decides which are printed.
"""

from __future__ import annotations

import csv
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich import markup
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from typer.core import TyperGroup

from napari_busref.runtime.durations import DURATIONS
from napari_busref.runtime.errors import is_out_of_memory, one_line
from napari_busref.runtime.pace import Pace, time_left
from napari_busref.runtime.progress import Cancelled
from napari_busref.runtime.progress import Progress as ProgressCallback

EXIT_SOME_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_CANCELLED = 130

#: Debug: steps, with --verbose. Info: notes. Errors alone with --quiet.
log = logging.getLogger("napari_busref")

_TRAINING_PACKAGES = ("lightning", "lightning_fabric", "tensorboard", "torchmetrics")


def out() -> Console:
    """Make the console of results (standard output), at each call because tests replace it."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:  # rich would cut tables in files and pipes at 80 columns
        console.width = max(console.width, 180)
    return console


def err() -> Console:
    """Make the console of progress, warnings and errors (standard error)."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def escape(text: str) -> str:
    """Escape rich's markup, and what a file name holds that is no UTF-8."""
    return markup.escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))


_PREFIXES = {logging.WARNING: "[yellow]Warning:[/] ", logging.ERROR: "[red]Error:[/] "}


class _Lines(logging.Handler):
    """Prints records to standard error, above the progress bars where there are any."""

    console: Console | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = f"{_PREFIXES.get(record.levelno, '')}{escape(record.getMessage())}"
        style = "dim" if record.levelno < logging.INFO else None
        (self.console or err()).print(text, style=style)


_lines = _Lines()


@contextmanager
def log_to_terminal() -> Iterator[None]:
    """Print the records of this package while a command runs."""
    level, propagate = log.level, log.propagate
    log.addHandler(_lines)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(_lines)
        log.setLevel(level)
        log.propagate = propagate


def set_verbosity(verbose: bool) -> None:
    """Print each step, or only errors and what programs read."""
    log.setLevel(logging.DEBUG if verbose else logging.ERROR)


def is_quiet() -> bool:
    """Whether to leave out what only people read."""
    return log.level >= logging.ERROR


def tell(text: str | Table) -> None:
    """Print results that people read; `out` prints those that programs read, too."""
    if not is_quiet():
        out().print(text)


def show(table: Table) -> None:
    """Print a table, with --quiet as CSV."""
    if not is_quiet():
        out().print(table)
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([markup.render(str(column.header)).plain for column in table.columns])
    cells = ([markup.render(str(cell)).plain for cell in column.cells] for column in table.columns)
    writer.writerows(zip(*cells, strict=True))


def fail(message: str, code: int = EXIT_BAD_INPUT) -> NoReturn:
    """Print one error line and exit with `code`."""
    err().print(f"[red]Error:[/] {escape(message)}")
    raise typer.Exit(code)


class FriendlyGroup(TyperGroup):
    """A group of commands that reports bad input in one line, with exit code 2.

    ``--traceback`` before the command shows the whole error.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Read the command line and run the command."""
        with log_to_terminal():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command and translate its errors."""
        try:
            return super().invoke(ctx)
        except (Cancelled, KeyboardInterrupt):
            fail("cancelled", EXIT_CANCELLED)
        except ModuleNotFoundError as error:
            if ctx.params.get("traceback") or not str(error.name).startswith(_TRAINING_PACKAGES):
                raise
            fail(f"this command needs {error.name}: pip install 'napari-busref[train]'")
        except (
            ValueError,
            TypeError,
            ArithmeticError,
            OSError,
            MemoryError,
            RuntimeError,
        ) as error:
            expected = not isinstance(error, RuntimeError) or is_out_of_memory(error)
            if ctx.params.get("traceback") or not expected:
                raise
            fail(one_line(error))


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Give an event that SIGTERM or the first Ctrl+C sets; a second one stops at once.

    The computation checks the event between its steps and ends with `Cancelled`. No file is
    left half written.
    """
    cancel = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # no signals there
        yield cancel
        return

    def stop(signum: int, frame: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()
        log.info("Stopping after this step (Ctrl+C again to stop at once) ...")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Paced(Progress):
    """Bars that move on between two reports of a job, see `Pace`."""

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Draw the bars as they are now; rich calls this ten times a second."""
        tasks = list(tasks)
        for task in tasks:
            pace = task.fields.get("pace")
            if isinstance(pace, Pace):
                now = pace.now()
                task.completed = now.fraction
                task.fields["left"] = time_left(now.left)
        return super().make_tasks_table(tasks)


class Bars:
    """Progress bars on a terminal; silent where standard error is a file or a pipe.

    Parameters
    ----------
    files : bool
        With --quiet, `result` prints the file of each result.
    """

    def __init__(self, *, files: bool = True) -> None:
        self._files = files
        console = err()
        self._progress = _Paced(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=is_quiet() or not console.is_terminal,
            # a redirected standard output must receive the results
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Bars:
        DURATIONS.read()
        self._progress.start()
        _lines.console = self._progress.console
        return self

    def __exit__(self, *exc: object) -> None:
        _lines.console = None
        self._progress.stop()
        DURATIONS.write()

    def result(self, text: str, file: Path) -> None:
        """Print a line to standard output, above the bars on the same terminal."""
        if is_quiet():
            if self._files:
                out().print(escape(str(file)))
            return
        console = out()
        (self._progress.console if console.is_terminal else console).print(text)

    def add(self, name: str) -> ProgressCallback:
        """Add a bar and return the callback that moves it."""
        pace = Pace()
        task = self._progress.add_task(escape(name), total=1.0, pace=pace, left="")
        start, last = time.perf_counter(), ""

        def report(stage: str, fraction: float) -> None:
            nonlocal last
            pace(stage, fraction)
            if stage != last:
                log.debug("%s: %.1f s: %s", name, time.perf_counter() - start, stage)
                last = stage
            self._progress.update(
                task, description=escape(f"{name}: {stage}"), visible=fraction < 1.0
            )

        report.expect = pace.expect  # type: ignore[attr-defined]  # see `Progress`
        return report
