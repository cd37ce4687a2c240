"""Measure batches: one process against workers, and runs that are killed and resumed.

    python benchmarks/batches.py workers [--pairs 200] [--workers 2]
    python benchmarks/batches.py kills [--pairs 200] [--kills 10] [--workers 2]
    python benchmarks/batches.py costs

Pairs are parts of the built-in thermal scene, 128 x 128 pixels, registered by the command line
with one thread. ``workers`` compares CPU time (all processes), wall time and the results.
``kills`` sends SIGKILL at random moments, by turns to a run without and with workers, then
resumes it. After each kill, every file under a final name must be whole, and what the manifest
calls done must stay untouched. ``costs`` measures what a process, a pair and a batch cost.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from napari_busref.batch.cluster import connected, on_cluster
from napari_busref.batch.manifest import Manifest, last_events
from napari_busref.batch.results import ResultWriter
from napari_busref.batch.run import process_rows
from napari_busref.data.pairing import Pair

SIDE = 128
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
COMMAND = (sys.executable, "-m", "napari_busref", "--quiet", "register")

Pairs = Annotated[int, typer.Option(min=1, help="Number of pairs.")]
Workers = Annotated[int, typer.Option(min=1, help="Workers of --scheduler local.")]

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False)
console = Console()


class Cost(NamedTuple):
    """Seconds of a command and of all processes that it started."""

    cpu: float
    wall: float


def make_pairs(folder: Path, count: int) -> tuple[Path, Path]:
    """Write the two folders of a batch."""
    from napari_busref import load_sample, write_image

    sample, rng = load_sample("thermal"), random.Random(0)
    for side in ("visible", "infrared"):
        (folder / side).mkdir()
    rows, cols = sample.aligned.shape
    for number in range(count):
        row, col = rng.randrange(8, rows - SIDE - 8), rng.randrange(8, cols - SIDE - 8)
        down, right = row + rng.randint(-8, 8), col + rng.randint(-8, 8)
        parts = {
            "visible": sample.fixed[row : row + SIDE, col : col + SIDE],
            "infrared": sample.aligned[down : down + SIDE, right : right + SIDE],
        }
        for side, part in parts.items():
            write_image(folder / side / f"{number:03}.png", part)
    return folder / "visible", folder / "infrared"


def command(folders: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    """The command of a batch."""
    return [*COMMAND, *map(str, folders), "-o", str(out), "--device", "cpu", *more]


def measure(arguments: list[str]) -> Cost:
    """Run a command to its end.

    Raises
    ------
    RuntimeError
        When it fails.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(arguments, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, wall)


def digests(out: Path) -> dict[str, str]:
    """The images of a batch; other files hold times."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.png")}


@app.command()
def workers(pairs: Pairs = 200, workers: Workers = 2) -> None:
    """Compare one process with several workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders, found = make_pairs(folder, pairs), {}
        for label, more in {"one": (), "workers": ("--scheduler", f"local:{workers}")}.items():
            found[label] = measure(command(folders, folder / label, *more))
            cost = found[label]
            console.print(
                f"{label}: {cost.cpu:.0f} CPU s, {cost.wall:.0f} s, {pairs / cost.wall:.2f} pairs "
                f"a second, load {os.getloadavg()[0]:.1f}"
            )
        equal = digests(folder / "one") == digests(folder / "workers")
    one, several = found["one"], found["workers"]
    console.print(
        f"{workers} workers: {several.cpu / one.cpu:.2f} x the CPU time, "
        f"{one.wall / several.wall:.2f} x the pairs a second, results "
        f"{'equal to the last bit' if equal else 'DIFFER'}"
    )


def partial_files(out: Path) -> list[str]:
    """Files under a final name that are not whole."""
    from napari_busref import Transform, read_image

    broken = []
    readers = {
        ".png": read_image,
        ".h5": Transform.load,
        ".json": lambda p: json.loads(p.read_text()),
    }
    for path in out.iterdir():
        reader = readers.get(path.suffix)
        try:
            if reader is not None:
                reader(path)
        except ValueError:
            broken.append(path.name)
    return broken


def done_files(out: Path) -> dict[Path, int]:
    """The results of all pairs that the manifest calls done, and when they were written."""
    events = last_events(out) if out.is_dir() else {}
    names = [name for event in events.values() for name in event.get("outputs", {})]
    return {out / name: (out / name).stat().st_mtime_ns for name in names}


def kill_once(arguments: list[str], delay: float, *, group: bool) -> bool:
    """Start a command and kill it; whether it still ran.

    Parameters
    ----------
    arguments : list of str
    delay : float
        Seconds from its start.
    group : bool
        Whether to kill its workers, too. Without it they have to notice alone.
    """
    process = subprocess.Popen(
        arguments,
        env=os.environ | ONE_THREAD,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


@app.command()
def kills(
    pairs: Pairs = 200,
    kills: Annotated[int, typer.Option(min=1, help="Number of kills.")] = 10,
    workers: Workers = 2,
    longest: Annotated[float, typer.Option(help="Latest kill, in s from the start.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Kill a batch again and again, resume it, and check what it leaves."""
    rng, problems, kept = random.Random(seed), [], dict[Path, int]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders, out = make_pairs(folder, pairs), folder / "out"
        for number in range(kills):
            more = ("--scheduler", f"local:{workers}", "--retries", "1") if number % 2 else ()
            delay = rng.uniform(0.5, longest)
            arguments = command(folders, out, *more, "--resume")
            killed = kill_once(arguments, delay, group=number % 4 < 2)
            problems += [
                f"partial: {file}" for file in (partial_files(out) if out.is_dir() else ())
            ]
            found = done_files(out)
            problems += [
                f"done again: {file}" for file, at in kept.items() if found.get(file) != at
            ]
            kept |= found
            end = f"killed after {delay:.1f} s" if killed else "ended"
            who = "workers" if more else "one process"
            console.print(f"{number + 1}: {who}, {end}, {len(kept) // 4} pairs done")
        cost = measure(command(folders, out, "--resume"))
        found = done_files(out)
        problems += [f"done again: {file}" for file, at in kept.items() if found.get(file) != at]
        problems += [f"partial: {file}" for file in partial_files(out)]
        problems += [f"left: {path.name}" for path in out.glob(".*")]
        rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
        good = sum(row["status"] in ("ok", "doubtful") for row in rows)
    console.print(f"last run: {cost.cpu:.0f} CPU s; summary: {len(rows)} rows, {good} done")
    for problem in problems:
        console.print(problem)
    if problems or good != pairs:
        raise typer.Exit(1)


@app.command()
def costs(pairs: Pairs = 8) -> None:
    """Measure the start of a process, a pair, and what a batch adds to each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders = make_pairs(folder, pairs)
        whole = measure(command(folders, folder / "all"))
        few = measure(command((folders[0] / "000.png", folders[1] / "000.png"), folder / "one"))
    each = (whole.cpu - few.cpu) / max(pairs - 1, 1)
    console.print(f"a pair: {each:.2f} CPU s; a process and its first pair: {few.cpu:.2f} CPU s")
    console.print(f"a pair without work: {idle_pair():.2f} CPU ms of scheduler and client")


def idle_pair(count: int = 500) -> float:
    """CPU milliseconds of scheduler, client, manifest and summary for each pair."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [Pair(str(number), folder / "a", folder / "b") for number in range(count)]
        with connected("local:2", folder, {}) as client:
            execute = on_cluster(client, nothing, 0, Event())
            rows = process_rows(
                ResultWriter(folder),
                found,
                nothing,
                {},
                execute=execute,
                manifest=Manifest(folder),
            )
            next(rows)
            before = sum(os.times()[:2])
            left = len(list(rows))
            return 1000 * (sum(os.times()[:2]) - before) / left


def nothing(pair: Pair) -> dict[str, object]:
    """Process a pair in no time."""
    return {}


if __name__ == "__main__":
    app()
