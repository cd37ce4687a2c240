"""Whole tiny runs: weights that load, resuming, several processes, switches, bad recipes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from napari_busref.metrics.registration import WarpRanges
from napari_busref.models import load_model
from napari_busref.runtime.progress import Cancelled
from napari_busref.training import STAGES, run
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.recipe import WarpConfig, load_recipe
from napari_busref.training.stages import build_stage


@pytest.fixture
def bus(store: PairStore, recipes: dict[str, Path], tmp_path: Path) -> Path:
    """Folder with a trained tiny bus and GAF."""
    folder = tmp_path / "weights"
    run("bus", recipes["bus"], output=folder, store=store, device="cpu")
    requires = {"requires": str(folder)}
    run("gaf", recipes["gaf"], output=folder, store=store, device="cpu", overrides=requires)
    return folder


def _state(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(path).state_dict())


def test_stages_build_on_each_other(
    bus: Path, store: PairStore, recipes: dict[str, Path], tmp_path: Path
) -> None:
    """All three stages train, their weights load, and the bus is the same in each."""
    weights = run(
        "registration",
        recipes["registration"],
        output=tmp_path / "registration",
        store=store,
        device="cpu",
        overrides={"requires": str(bus)},
    )
    assert weights is not None
    trained, shared = _state(weights), _state(bus / "bus.safetensors")
    for name, value in shared.items():
        assert torch.equal(trained[f"bus.{name}"], value), name
        assert torch.equal(_state(bus / "gaf.safetensors")[f"bus.{name}"], value), name
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["steps"] == 3
    assert card["recipe"]["stage"] == "registration"
    estimate = load_model(weights, kind="registration")(
        torch.rand(1, 1, 40, 50), torch.rand(1, 1, 40, 50)
    )
    assert estimate.theta.shape == (1, 2, 3)


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_a_resumed_run_equals_an_unbroken_one(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path, average: float
) -> None:
    arguments = {"store": store, "device": "cpu", "overrides": {"average": average}}
    whole = run("bus", recipes["bus"], output=tmp_path / "whole", **arguments)
    stop = threading.Event()

    def stop_at_three(stage: str, fraction: float) -> None:
        if fraction >= 0.5:
            stop.set()

    with pytest.raises(Cancelled):
        run(
            "bus",
            recipes["bus"],
            output=tmp_path / "broken",
            progress=stop_at_three,
            cancel=stop,
            **arguments,
        )
    assert not (tmp_path / "broken" / "bus.safetensors").exists()
    resumed = run("bus", recipes["bus"], output=tmp_path / "broken", resume=True, **arguments)
    assert whole is not None and resumed is not None
    for name, value in _state(whole).items():
        assert torch.equal(value, _state(resumed)[name]), name


def test_the_result_may_be_an_average(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path
) -> None:
    """Half of the last step's weights and half of those before; the rate is zero in neither."""
    ends = []
    for average in (0.0, 0.5):
        overrides = {"steps": 2, "average": average, "warmup": 1.0}
        weights = run(
            "bus",
            recipes["bus"],
            output=tmp_path / str(average),
            store=store,
            device="cpu",
            overrides=overrides,
        )
        assert weights is not None
        ends.append(_state(weights))
    checkpoint = torch.load(tmp_path / "0.5" / "checkpoint.ckpt", weights_only=True)
    last = checkpoint["model"]
    apart = {name: (ends[1][name] - value).abs().max() for name, value in ends[0].items()}
    assert max(apart.values()) > 1e-4  # another result
    for name, value in ends[0].items():  # of the same training
        torch.testing.assert_close(last[f"model.{name}"], value, atol=1e-3, rtol=0)


def test_a_chunk_ends_with_a_checkpoint(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path
) -> None:
    arguments = {"output": tmp_path / "out", "store": store, "device": "cpu"}
    assert run("bus", recipes["bus"], max_minutes=0, **arguments) is None
    assert (tmp_path / "out" / "checkpoint.ckpt").is_file()
    assert run("bus", recipes["bus"], resume=True, **arguments) is not None


def test_losses_fall_and_are_logged(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path
) -> None:
    run(
        "bus",
        recipes["bus"],
        output=tmp_path / "out",
        store=store,
        device="cpu",
        overrides={"steps": 60, "learning_rate": 3e-3},
    )
    with (tmp_path / "out" / "logs" / "version_0" / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_tensorboard_shows_what_the_table_holds(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path
) -> None:
    """Also after a stop, in a version of its own; and no thread is left."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arguments = {"output": tmp_path, "store": store, "device": "cpu"}
    threads = threading.active_count()
    stop = threading.Event()
    with pytest.raises(Cancelled):
        run("bus", recipes["bus"], cancel=stop, progress=lambda *_: stop.set(), **arguments)
    run("bus", recipes["bus"], resume=True, **arguments)
    assert threading.active_count() == threads
    steps = []
    for version in ("version_0", "version_1"):
        board = events.EventAccumulator(str(tmp_path / "logs" / version))
        board.Reload()
        with (tmp_path / "logs" / version / "metrics.csv").open() as file:
            table = list(csv.DictReader(file))
        for name in ("loss", "lr", "seconds"):
            logged = [(float(row[name]), int(row["step"])) for row in table if row[name]]
            shown = [(event.value, event.step) for event in board.Scalars(name)]
            torch.testing.assert_close(torch.tensor(shown), torch.tensor(logged))
        steps += [step for _, step in logged]
    assert steps == list(range(1, 7))


def test_without_tensorboard_the_table_is_written(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run("bus", recipes["bus"], output=tmp_path, store=store, device="cpu")
    assert [path.name for path in (tmp_path / "logs" / "version_0").iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"loss.mask": False},
        {"loss.guide": 0},
        {"loss.matching": 0, "model.matching": False},
        {"loss.endpoint": 0, "loss.smooth": 0},
        {"train_bus": True},
    ],
    ids=["no mask", "no guide", "no matching", "paper losses only", "no bus"],
)
def test_switches_of_the_ablation(
    bus: Path, store: PairStore, recipes: dict[str, Path], overrides: dict[str, object]
) -> None:
    recipe = load_recipe(recipes["registration"], {"requires": str(bus), **overrides})
    stage = build_stage(recipe)
    torch.manual_seed(0)
    losses = stage(stage.draw(store))
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert ("guide" in losses) == bool(recipe.loss.guide)
    moved = [
        name for name, p in stage.model.named_parameters() if p.grad is not None and p.grad.any()
    ]
    assert any(name.startswith("affine_net") for name in moved)
    assert any(name.startswith("deformable_net") for name in moved)
    assert any(name.startswith("bus") for name in moved) == recipe.train_bus
    assert any(name.startswith("describe") for name in moved) == recipe.model.get("matching", True)


def test_the_mask_changes_the_loss(bus: Path, store: PairStore, recipes: dict[str, Path]) -> None:
    values = []
    for mask in (True, False):
        recipe = load_recipe(recipes["registration"], {"requires": str(bus), "loss.mask": mask})
        torch.manual_seed(0)
        stage = build_stage(recipe)
        torch.manual_seed(1)
        values.append(float(stage(stage.draw(store))["mncc"].detach()))
    assert values[0] != values[1]


def test_two_gloo_processes_train_one_model(recipes: dict[str, Path], tmp_path: Path) -> None:
    """Two processes draw different batches and end with the same weights, written once."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys, torch\n"
        "from napari_busref.training import run\n"
        "from napari_busref.training.batches.pair_store import PairStore\n"
        "torch.manual_seed(0)\n"
        "image = torch.nn.functional.interpolate(torch.rand(1, 1, 9, 9), (64, 64))[0]\n"
        "run('bus', sys.argv[1], output=sys.argv[2], store=PairStore([(image, 1 - image)]),\n"
        "    device='cpu', overrides={'processes': 2, 'steps': 2})\n"
        "import torch.distributed as dist\n"
        "assert dist.get_world_size() == 2 and dist.get_backend() == 'gloo'\n"
        "open(f'{sys.argv[2]}/rank{dist.get_rank()}.done', 'w').close()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         str(script), str(recipes["bus"]), str(tmp_path / "out")],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # a file each: lines that two processes print can run into each other
    done = sorted(path.name for path in (tmp_path / "out").glob("*.done"))
    assert done == ["rank0.done", "rank1.done"]
    assert load_model(tmp_path / "out" / "bus.safetensors").channels == 16
    assert json.loads((tmp_path / "out" / "bus.json").read_text())["recipe"]["processes"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage = 'bus'", "steps must be given"),
        ("stage = 'boat'\nsteps = 1", "stage must be one of bus, gaf, registration"),
        ("stage = 'bus'\nsteps = 1\nstep = 2", "unknown key step"),
        ("stage = 'bus'\nsteps = 'many'", "steps must be int"),
        ("stage = 'bus'\nsteps = 1\n[loss]\nmask = 3", "loss.mask must be bool"),
        ("stage = ", "cannot be read as TOML"),
        ("stage = 'bus'\nsteps = 0", "must be in"),
        ("stage = 'bus'\nsteps = 1\ngpu = 2", "gpu must be a table"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_missing_recipes_and_other_stages_are_refused(
    recipes: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="is for 'bus'"):
        run("gaf", recipes["bus"], output=tmp_path)


RECIPES = sorted((Path(__file__).resolve().parents[2] / "training" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("gpu", [False, True], ids=["CPU", "GPU"])
def test_committed_recipes_are_valid(gpu: bool) -> None:
    assert {path.stem for path in RECIPES} >= {"bus", "gaf", "registration"}
    assert {load_recipe(path, gpu=gpu).stage for path in RECIPES} == set(STAGES)
    for path in RECIPES:
        recipe = load_recipe(path, gpu=gpu)
        name = recipe.export or recipe.stage
        assert path.stem == name or path.stem.startswith(f"{name}-")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_committed_recipe_trains_longer_on_a_gpu(path: Path) -> None:
    cpu, gpu = load_recipe(path), load_recipe(path, gpu=True)
    assert cpu.threads > 0 and gpu.threads == 0
    assert cpu.steps < gpu.steps and cpu.data.crop_side < gpu.data.crop_side
    assert (cpu.stage, cpu.seed, cpu.fusion.gains) == (gpu.stage, gpu.seed, gpu.fusion.gains)


GPU = """
stage = "registration"
steps = 3
[warp]
shift = 0.2
[gpu]
steps = 9
warp.beyond = 0.5
model.affine_sides = [48]
"""


def test_the_gpu_table_is_applied_on_request_and_before_the_overrides(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(GPU)
    cpu, gpu = load_recipe(path), load_recipe(path, gpu=True)
    assert (cpu.steps, cpu.warp.shift, cpu.warp.beyond, cpu.model) == (3, 0.2, 0.3, {})
    assert (gpu.steps, gpu.warp.shift, gpu.warp.beyond) == (9, 0.2, 0.5)
    assert gpu.model == {"affine_sides": [48]}
    assert load_recipe(path, {"steps": 2}, gpu=True).steps == 2


def test_a_run_applies_the_gpu_table_where_it_is_told_to(
    store: PairStore, recipes: dict[str, Path], tmp_path: Path
) -> None:
    text = recipes["bus"].read_text()
    recipes["bus"].write_text(f"{text}[gpu]\nsteps = 2\n")
    for gpu, steps in ((None, 6), (True, 2)):
        weights = run(
            "bus", recipes["bus"], output=tmp_path / str(gpu), store=store, device="cpu", gpu=gpu
        )
        assert weights is not None
        assert json.loads(weights.with_suffix(".json").read_text())["steps"] == steps


def test_warps_are_those_of_the_protocol() -> None:
    protocol, warp = WarpRanges(), WarpConfig()
    assert (warp.rotation, warp.shear) == (protocol.rotation_deg, protocol.shear_deg)
    assert (warp.shift, warp.sigma) == (protocol.translation, protocol.smoothing)
    assert (warp.scale, warp.elastic) == (protocol.scale, protocol.elastic)
