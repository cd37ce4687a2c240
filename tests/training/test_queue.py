"""A queue of tiny trainings: what is done, stopped, changed or lacking."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from napari_busref.models import load_model
from napari_busref.runtime.progress import Cancelled
from napari_busref.training import run, trainer
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.queue import State, load_queue, read_states, run_queue

QUEUE = """
[[train]]
recipe = "bus.toml"
[[train]]
recipe = "gaf.toml"
requires = ["bus"]
[[train]]
recipe = "gaf.toml"
name = "again"
requires = ["bus"]
start_from = "gaf"
set = {steps = 1}
"""


@pytest.fixture
def queue(recipes: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "queue.toml"
    path.write_text(QUEUE)
    return path


def states(found: list[State]) -> dict[str, str]:
    return {state.name: state.state for state in found}


def test_a_queue_trains_each_recipe_once(queue: Path, store: PairStore, tmp_path: Path) -> None:
    entries, out = load_queue(queue), tmp_path / "runs"
    found = run_queue(entries, out, device="cpu", store=store)
    assert states(found) == {"bus": "done", "gaf": "done", "again": "done"}
    assert [(one.step, one.steps) for one in found] == [(6, 6), (3, 3), (1, 1)]
    assert read_states(out) == found
    bus = load_model(out / "bus" / "bus.safetensors").state_dict()
    gaf = load_model(out / "again" / "gaf.safetensors").state_dict()
    assert all((gaf[f"bus.{name}"] == value).all() for name, value in bus.items())
    before = (out / "gaf" / "gaf.safetensors").stat().st_mtime_ns
    run_queue(entries, out, device="cpu", store=store)
    assert (out / "gaf" / "gaf.safetensors").stat().st_mtime_ns == before


def test_a_stopped_queue_continues(queue: Path, store: PairStore, tmp_path: Path) -> None:
    entries, out, cancel = load_queue(queue), tmp_path / "runs", threading.Event()

    def stop(stage: str, fraction: float) -> None:
        if "bus 3/6" in stage:
            cancel.set()

    with pytest.raises(Cancelled):
        run_queue(entries[:1], out, device="cpu", store=store, progress=stop, cancel=cancel)
    assert (read_states(out)[0].state, read_states(out)[0].step) == ("stopped", 4)
    run_queue(entries[:1], out, device="cpu", store=store)
    whole = run("bus", entries[0].recipe, output=tmp_path / "whole", device="cpu", store=store)
    stopped = (out / "bus" / "bus.safetensors").read_bytes()
    assert whole is not None
    assert stopped == whole.read_bytes()


def test_a_queue_names_only_what_comes_before(queue: Path) -> None:
    queue.write_text(QUEUE.replace('recipe = "bus.toml"', 'recipe = "bus.toml"\nname = "first"'))
    with pytest.raises(ValueError, match="gaf needs bus, which does not come before it"):
        load_queue(queue)


def test_a_changed_recipe_keeps_what_is_trained(
    queue: Path, store: PairStore, recipes: dict[str, Path], tmp_path: Path
) -> None:
    entries, out = load_queue(queue), tmp_path / "runs"
    run_queue(entries[:2], out, device="cpu", store=store)
    trained = (out / "bus" / "bus.safetensors").read_bytes()
    recipes["bus"].write_text(recipes["bus"].read_text().replace("batch = 2", "batch = 3"))
    found = run_queue(entries, out, device="cpu", store=store)
    assert states(found) == {"bus": "failed", "gaf": "failed", "again": "failed"}
    assert "batch changed from 2 to 3 since bus was trained" in found[0].message
    assert "needs bus, which is not done" in found[1].message
    assert (out / "bus" / "bus.safetensors").read_bytes() == trained


def test_a_checkpoint_of_another_recipe_is_refused(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path
) -> None:
    stop = {"output": tmp_path, "device": "cpu", "store": store}
    assert run("bus", recipes["bus"], max_minutes=0, **stop) is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"recipe: data\.crop_side changed from 32 to 40 since"):
        run("bus", recipes["bus"], resume=True, overrides={"data.crop_side": 40}, **stop)  # type: ignore[arg-type]
    assert run("bus", recipes["bus"], resume=True, overrides={"steps": 1}, **stop)  # type: ignore[arg-type]
    (tmp_path / "checkpoint.ckpt").write_bytes(b"half")
    with pytest.raises(ValueError, match="is no checkpoint"):
        run("bus", recipes["bus"], resume=True, **stop)  # type: ignore[arg-type]


def test_a_full_disk_keeps_the_last_checkpoint(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, count = trainer.Fabric.save, []

    def full(self: object, path: Path, state: object) -> None:
        count.append(path)
        if len(count) > 1:
            path.write_bytes(b"half")
            raise OSError(28, os.strerror(28))
        save(self, path, state)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.Fabric, "save", full)
    options = {"output": tmp_path, "device": "cpu", "store": store}
    with pytest.raises(OSError, match=r"output: .* step 4 .*free some space.*--resume"):
        run("bus", recipes["bus"], **options)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.undo()
    assert run("bus", recipes["bus"], resume=True, **options)  # type: ignore[arg-type]


def test_two_queues_do_not_share_a_folder(queue: Path, store: PairStore, tmp_path: Path) -> None:
    entries, out, refused = load_queue(queue)[:1], tmp_path / "runs", []

    def second(stage: str, fraction: float) -> None:
        if not refused:
            with pytest.raises(BlockingIOError, match="another run"):
                run_queue(entries, out, device="cpu", store=store)
            refused.append(stage)

    run_queue(entries, out, device="cpu", store=store, progress=second)
    assert refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[train", "cannot be read as TOML"),
        ("steps = 1", r"needs a table \[\[train\]\]"),
        ("[[train]]\nrecipe = 3", "recipe must be a path"),
        ('[[train]]\nrecipe = "bus.toml"\nstep = 3', "unknown key step; accepted are recipe"),
        ('[[train]]\nrecipe = "bus.toml"\nname = "../bus"', "name must be the name of a folder"),
        ('[[train]]\nrecipe = "bus.toml"\n' * 2, "'bus' appears twice"),
    ],
)
def test_a_wrong_queue_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "queue.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_queue(tmp_path / "queue.toml")
