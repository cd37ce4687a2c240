"""Train a list of recipes one after the other; a stopped queue continues where it was."""

from __future__ import annotations

import csv
import json
import os
import shutil
import threading
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_busref.runtime.atomic_write import holders, replacing
from napari_busref.runtime.errors import one_line
from napari_busref.runtime.holding import held
from napari_busref.runtime.progress import Cancelled, Progress, Reporter
from napari_busref.training.recipe import Recipe, changed_settings, load_recipe

if TYPE_CHECKING:
    from napari_busref.training.batches.pair_store import PairStore

__all__ = ["DASHBOARD", "Entry", "State", "load_queue", "read_states", "run_queue"]

DASHBOARD = "queue.csv"
_KEYS = ("recipe", "name", "requires", "start_from", "set")


@dataclass(frozen=True)
class Entry:
    """One training of a queue.

    Attributes
    ----------
    name : str
        Also its folder.
    recipe : path
    requires : tuple of str
        Trainings of this queue whose weights it builds on; without any, the shipped weights.
    start_from : str
        Training of this queue whose weights it continues; without one, what the recipe says.
    overrides : mapping
        Replacements in the recipe by dotted name.
    """

    name: str
    recipe: Path
    requires: tuple[str, ...] = ()
    start_from: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def earlier(self) -> set[str]:
        """Trainings that must be done first."""
        return {*self.requires, self.start_from} - {""}


@dataclass
class State:
    """One row of the dashboard.

    Attributes
    ----------
    name, stage : str
    state : str
        ``"waiting"``, ``"training"``, ``"stopped"``, ``"done"`` or ``"failed"``.
    step, steps : int
    hours : float
        Spent so far.
    cpu_hours : float
        That the recipe expects; 0 where it says nothing.
    loss : float or None
        The latest one.
    message : str
        Why it failed.
    """

    name: str
    stage: str = ""
    state: str = "waiting"
    step: int = 0
    steps: int = 0
    hours: float = 0.0
    cpu_hours: float = 0.0
    loss: float | None = None
    message: str = ""


def load_queue(path: str | os.PathLike[str]) -> list[Entry]:
    """Read a queue.

    Parameters
    ----------
    path : path-like
        TOML file with a table ``[[train]]`` for each training, in their order. ``recipe`` is a
        path relative to this file. ``name``, ``requires``, ``start_from`` and ``set`` are
        optional, see `Entry`.

    Raises
    ------
    ValueError
        For an unreadable file, an unknown key, a name twice, or one that comes later.
    """
    file = Path(path)
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"queue: {str(file)!r} cannot be read as TOML: {error}") from error
    given = tables.get("train")
    if list(tables) != ["train"] or not isinstance(given, list) or not given:
        raise ValueError(f"queue: {file.name} needs a table [[train]] for each training, only")
    entries: list[Entry] = []
    for table in given:
        entry = _entry(table, file)
        names = [one.name for one in entries]
        if entry.name in names:
            raise ValueError(f"queue: name {entry.name!r} appears twice; set name = ...")
        later = sorted(entry.earlier - set(names))
        if later:
            raise ValueError(
                f"queue: {entry.name} needs {', '.join(later)}, which does not come before it"
            )
        entries.append(entry)
    return entries


def _entry(table: Mapping[str, Any], file: Path) -> Entry:
    unknown = [key for key in table if key not in _KEYS]
    if unknown or not isinstance(table.get("recipe"), str):
        wrong = f"unknown key {', '.join(unknown)}" if unknown else "recipe must be a path"
        raise ValueError(f"queue: {wrong}; accepted are {', '.join(_KEYS)}")
    recipe = file.parent / table["recipe"]
    name = str(table.get("name", recipe.stem))
    if Path(name).name != name or name in ("", ".", "..", "weights"):
        raise ValueError(f"queue: name must be the name of a folder, got {name!r}")
    return Entry(
        name,
        recipe,
        tuple(map(str, table.get("requires", ()))),
        str(table.get("start_from", "")),
        dict(table.get("set", {})),
    )


def read_states(output: str | os.PathLike[str]) -> list[State]:
    """Read the dashboard of a queue.

    Raises
    ------
    FileNotFoundError
        Where no queue has written into `output`.
    """
    path = Path(output) / DASHBOARD
    if not path.is_file():
        raise FileNotFoundError(f"output: no queue has run in {output}: it has no {DASHBOARD}")
    with path.open(newline="") as file:
        states = [_parsed(row) for row in csv.DictReader(file)]
    for state in states:
        if state.state == "training" and not holders(path.parent):  # killed
            state.state = "stopped"
    return states


def _parsed(row: Mapping[str, str]) -> State:
    loss = float(row["loss"]) if row["loss"] else None
    numbers = int(row["step"]), int(row["steps"]), float(row["hours"]), float(row["cpu_hours"])
    return State(row["name"], row["stage"], row["state"], *numbers, loss, row["message"])


def run_queue(
    entries: Sequence[Entry],
    output: str | os.PathLike[str],
    *,
    device: str = "auto",
    gpu: bool = False,
    store: PairStore | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[State]:
    """Train each recipe that is not done yet.

    A training whose card names the same recipe is done. One with a checkpoint continues. One that
    fails does not stop those that need nothing of it.

    Parameters
    ----------
    entries : sequence of Entry
        See `load_queue`.
    output : path-like
        Folder with one folder for each training, and the dashboard ``queue.csv``.
    device, gpu, store
        As for `napari_busref.training.run`.
    progress, cancel
        A set ``cancel`` stops with a checkpoint.

    Returns
    -------
    list of State

    Raises
    ------
    BlockingIOError
        When another queue writes to `output`.
    Cancelled
        When ``cancel`` was set; checkpoint and dashboard remain.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        queue = _Queue(entries, folder, gpu)
        costs = [state.cpu_hours or 1.0 for state in queue.states.values()]
        reporter, begun = Reporter(progress, cancel), 0.0
        for entry, cost in zip(entries, costs, strict=True):
            part = reporter.part(begun / sum(costs), (begun + cost) / sum(costs))
            queue.train(entry, device, store, part)
            begun += cost
    return list(queue.states.values())


class _Queue:
    """The trainings of a queue, and what became of them."""

    def __init__(self, entries: Sequence[Entry], folder: Path, gpu: bool) -> None:
        self.folder = folder
        self.recipes = {
            one.name: load_recipe(one.recipe, one.overrides, gpu=gpu) for one in entries
        }
        self.states = {
            name: State(name, recipe.stage, steps=recipe.steps, cpu_hours=recipe.cpu_hours)
            for name, recipe in self.recipes.items()
        }
        for name in self.states:
            self._update(name)
        self.write()

    def train(
        self, entry: Entry, device: str, store: PairStore | None, reporter: Reporter
    ) -> None:
        """Train one recipe, unless it is done or lacks an earlier one."""
        from napari_busref.training.trainer import run

        state = self.states[entry.name]
        try:
            self._check(entry)
            if state.state == "done":
                return
            state.state = "training"
            recipe = self._placed(entry)
            run(
                recipe.stage,
                recipe,
                output=self.folder / entry.name,
                resume=True,
                device=device,
                store=store,
                progress=_Watch(self, entry.name, reporter),
            )
            self._update(entry.name)
        except (Cancelled, KeyboardInterrupt):
            self._update(entry.name)
            raise
        except Exception as error:
            state.state, state.message = "failed", one_line(error)
        finally:
            self.write()

    def write(self) -> None:
        """Write the dashboard."""
        rows = [asdict(state) for state in self.states.values()]
        with replacing(self.folder / DASHBOARD) as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def read_log(self, name: str) -> None:
        """Read step, hours and loss of a training from its newest log."""
        state, logs = self.states[name], self.folder.joinpath(name).glob("logs/*/metrics.csv")
        newest = max(logs, key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            return
        with newest.open(newline="") as file:
            logged = [row for row in csv.DictReader(file) if row.get("loss")]
        if logged:
            state.step, state.loss = int(logged[-1]["step"]), float(logged[-1]["loss"])
            state.hours = round(float(logged[-1]["seconds"]) / 3600, 4)

    def _update(self, name: str) -> None:
        """Whether a training is done, stopped or waiting, by its folder."""
        state = self.states[name]
        self.read_log(name)
        state.state = (
            "stopped" if (self.folder / name / "checkpoint.ckpt").is_file() else "waiting"
        )
        if card := self._card(name):
            state.state, state.step = "done", int(card["steps"])
            state.hours = round(card["seconds"] / 3600, 4)

    def _card(self, name: str) -> dict[str, Any]:
        """The card of its weights, empty before they exist."""
        if not (weights := self._weights(name)):
            return {}
        card: dict[str, Any] = json.loads(weights[0].with_suffix(".json").read_text())
        return card

    def _check(self, entry: Entry) -> None:
        """Whether the recipe is still that of its weights, and the earlier trainings are done."""
        if card := self._card(entry.name):
            changed = changed_settings(self.recipes[entry.name], card["recipe"])
            if changed:
                raise ValueError(
                    f"recipe: {changed} since {entry.name} was trained; restore it, or give the "
                    f"training another name, or remove {self.folder / entry.name}"
                )
        lacking = sorted(name for name in entry.earlier if self.states[name].state != "done")
        if lacking:
            raise ValueError(f"queue: {entry.name} needs {', '.join(lacking)}, which is not done")

    def _placed(self, entry: Entry) -> Recipe:
        """The recipe with the weights that it builds on, copied into one folder."""
        recipe = self.recipes[entry.name]
        if entry.requires:
            target = self.folder / entry.name / "requires"
            target.mkdir(parents=True, exist_ok=True)
            for path in (one for name in entry.requires for one in self._weights(name)):
                for source in (path, path.with_suffix(".json")):
                    shutil.copyfile(source, target / source.name)
            recipe = replace(recipe, requires=str(target))
        if entry.start_from:
            recipe = replace(recipe, start_from=str(self._weights(entry.start_from)[0]))
        return recipe

    def _weights(self, name: str) -> list[Path]:
        return sorted(self.folder.joinpath(name).glob("*.safetensors"))


class _Watch:
    """Carries the progress of a training into the dashboard."""

    def __init__(self, queue: _Queue, name: str, reporter: Reporter) -> None:
        self.queue, self.name, self.reporter = queue, name, reporter

    def __call__(self, stage: str, fraction: float) -> None:
        self.queue.read_log(self.name)
        self.queue.write()
        self.reporter.step(stage, fraction)
