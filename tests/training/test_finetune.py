"""Fine-tuning on own pairs: results that load, stopping and resuming, and bad input."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from imageio.v3 import imwrite
from typer.testing import CliRunner, Result

from napari_busref import register
from napari_busref._cli.main import app
from napari_busref.models import card, list_models, load_model
from napari_busref.models.user_folder import list_user_models
from napari_busref.models.user_models import add_user_model
from napari_busref.runtime.progress import Cancelled
from napari_busref.training import finetune, resume_finetuning, run
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.finetuning.pairs import (
    AlignedPair,
    PreparedPair,
    pairs_in_folders,
    prepare_pair,
    split_pairs,
)
from napari_busref.training.finetuning.plan import (
    discard_finetuning,
    is_unfinished,
    logged_losses,
    read_plan,
    trainings_folder,
    unfinished_finetunings,
)
from napari_busref.training.finetuning.recipes import base_models, fine_recipe
from napari_busref.training.finetuning.result import Finetuned, Preview, TrainingCallback
from napari_busref.training.recipe import load_recipe
from napari_busref.training.stages import build_stage
from napari_busref.transforms.transform import Transform


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_BUSREF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def bases(store: PairStore, recipes: dict[str, Path], tmp_path: Path) -> tuple[str, str]:
    """Tiny models of both kinds among those of the user."""
    folder = tmp_path / "weights"
    for stage in ("bus", "gaf", "registration"):
        weights = run(
            stage,
            recipes[stage],
            output=folder / stage,
            store=store,
            device="cpu",
            overrides={"steps": 1, "requires": str(folder)},
        )
        assert weights is not None
        for suffix in (".safetensors", ".json"):
            file = weights.with_suffix(suffix)
            (folder / file.name).write_bytes(file.read_bytes())
        if stage != "bus":
            add_user_model(weights, f"tiny {stage}")
    return "tiny registration", "tiny gaf"


def images(seed: int, shape: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    """A visible and an infrared image, 8 bits."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 1, 8, 8)))
    visible = torch.nn.functional.interpolate(coarse, shape, mode="bicubic")[0, 0].clamp(0, 1)
    grey = np.asarray(visible)
    return (255 * grey).astype(np.uint8), (255 * (1 - grey**0.5)).astype(np.uint8)


PAIRS = [images(seed) for seed in range(3)]


class Notes(TrainingCallback):
    def __init__(self) -> None:
        self.losses: list[tuple[str, int, int, float]] = []
        self.previews: list[Preview] = []

    def logged(self, kind: str, step: int, steps: int, loss: float) -> None:
        self.losses.append((kind, step, steps, loss))

    def measured(self, preview: Preview) -> None:
        self.previews.append(preview)


def weights_of(name: str) -> dict[str, torch.Tensor]:
    return dict(load_model(name).state_dict())


def moved(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


def test_both_models_start_from_their_base_and_become_models_of_the_user(
    bases: tuple[str, str],
) -> None:
    notes = Notes()
    stages: list[tuple[str, float]] = []
    results = finetune(
        PAIRS,
        bases,
        name="mine",
        steps=2,
        batch=2,
        preview_every=1,
        device="cpu",
        source="/data/ours",
        callback=notes,
        progress=lambda stage, fraction: stages.append((stage, fraction)),
    )
    assert [(one.kind, one.name) for one in results] == [
        ("fusion", "mine-fusion"),
        ("registration", "mine-registration"),
    ]
    assert "mine-fusion" in list_models("fusion")
    for one, base in zip(results, ("tiny gaf", "tiny registration"), strict=True):
        assert isinstance(one, Finetuned)
        changed = moved(weights_of(base), weights_of(one.name))
        assert changed and not any(name.startswith("bus.") for name in changed)
        facts = card(one.name)
        assert facts["data"] == {"/data/ours": "2 aligned pairs"}
        assert facts["held_out"] == ["3"]
        assert facts["base"] == {"name": base, "sha256": card(base)["sha256"]}
        assert facts["steps"] == one.steps == 2
        assert facts["scores"].keys() == facts["scores_before"].keys() == one.after.keys()
    assert [note[:3] for note in notes.losses] == [
        (kind, step, 2) for kind in ("fusion", "registration") for step in (1, 2)
    ]
    assert [(p.kind, p.step) for p in notes.previews] == [
        (kind, step) for kind in ("fusion", "registration") for step in (0, 1, 2)
    ]
    first, _, last = notes.previews[3:]
    assert (first.pair, first.steps) == ("3", 2)
    np.testing.assert_allclose(first.fixed, PAIRS[2][0] / 255, atol=1e-3)
    np.testing.assert_array_equal(first.before, first.now)
    assert first.scores == first.scores_before == last.scores_before
    assert not np.array_equal(last.now, last.before)
    fractions = [fraction for _, fraction in stages]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    said = {text for text, _ in stages}
    assert {"fusion: step 1 of 2", "registration: step 2 of 2"} <= said
    assert not [text for text in said if "loss" in text or "epe" in text]
    assert not is_unfinished(trainings_folder() / "mine")
    assert logged_losses(trainings_folder() / "mine", "fusion") == [
        (step, pytest.approx(loss, rel=1e-5)) for _, step, _, loss in notes.losses[:2]
    ]
    with pytest.raises(ValueError, match="is finished"):
        resume_finetuning(trainings_folder() / "mine")
    with pytest.raises(ValueError, match="there is a model 'mine-fusion' already"):
        finetune(PAIRS, bases, name="mine", steps=1)


def test_the_default_learns_from_own_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is the base unless another is named; the result registers by its name."""
    # the measurements before and after take most of the time
    monkeypatch.setattr(
        "napari_busref.training.finetuning.held_out.register_pair",
        lambda model, pair, device: Transform.identity(pair.fixed.shape),
    )
    pairs = [images(seed, (72, 96)) for seed in range(2)]
    (result,) = finetune(pairs, name="ours", steps=1, batch=1, device="cpu")
    assert (result.kind, result.base) == ("registration", "auto")
    assert result.before.keys() == result.after.keys() == {"epe", "mncc"}
    parts = {name.split(".")[0] for name in moved(weights_of("auto"), weights_of("ours"))}
    assert parts == {"matcher", "likelihood"}
    assert base_models("registration")[0] == "auto" and "ours" in base_models("registration")
    assert fine_recipe("ours", card("ours")).learning_rate == 3e-4
    found = register(*pairs[0], model="ours", search="none", device="cpu")
    assert "refine" in found.timings


class StopAt(Notes):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.stop = step, threading.Event()

    def logged(self, kind: str, step: int, steps: int, loss: float) -> None:
        super().logged(kind, step, steps, loss)
        if step == self.step:
            self.stop.set()


def test_a_stopped_training_resumes_to_the_same_result(bases: tuple[str, str]) -> None:
    settings = {"steps": 3, "batch": 2, "device": "cpu"}
    finetune(PAIRS, bases[1], name="whole", **settings)  # type: ignore[arg-type]
    stopper = StopAt(2)
    with pytest.raises(Cancelled):
        finetune(
            PAIRS,
            bases[1],
            name="broken",
            callback=stopper,
            cancel=stopper.stop,
            **settings,  # type: ignore[arg-type]
        )
    folder = trainings_folder() / "broken"
    assert unfinished_finetunings() == [folder]
    assert read_plan(folder).steps == 3
    assert "broken" not in list_user_models()
    assert [step for step, _ in logged_losses(folder, "fusion")] == [1, 2]
    with pytest.raises(ValueError, match="resume or discard it"):
        finetune(PAIRS, bases[1], name="broken", **settings)  # type: ignore[arg-type]
    notes = Notes()
    resume_finetuning(folder, device="cpu", callback=notes)
    assert [note[1] for note in notes.losses] == [3]
    assert moved(weights_of("whole"), weights_of("broken")) == set()
    assert [step for step, _ in logged_losses(folder, "fusion")] == [1, 2, 3]
    assert unfinished_finetunings() == []


def test_what_was_learned_so_far_can_be_taken(bases: tuple[str, str]) -> None:
    stopper = StopAt(1)
    with pytest.raises(Cancelled):
        finetune(
            PAIRS,
            bases,
            name="mine",
            steps=50,
            batch=2,
            device="cpu",
            callback=stopper,
            cancel=stopper.stop,
        )
    folder = trainings_folder() / "mine"
    (result,) = resume_finetuning(folder, finish=True, device="cpu")  # fusion only was begun
    assert (result.name, result.steps) == ("mine-fusion", 1)
    assert card("mine-fusion")["steps"] == 1
    assert is_unfinished(folder)
    with pytest.raises(ValueError, match="no training step was made"):
        resume_finetuning(folder, finish=True)
    (folder / "notes.txt").write_text("mine")
    discard_finetuning(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_out_of_time_takes_what_was_learned(bases: tuple[str, str], tmp_path: Path) -> None:
    (result,) = finetune(
        PAIRS,
        bases[1],
        name="quick",
        output=tmp_path / "run",
        steps=10**6,
        max_minutes=0.01,
        batch=1,
        device="cpu",
    )
    assert 0 < result.steps < 10**6
    assert "quick" in base_models("fusion")


def test_a_loss_that_is_not_finite_says_what_to_do(
    bases: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_busref.training.stages.gaf import GafStage

    forward = GafStage.forward
    monkeypatch.setattr(
        GafStage,
        "forward",
        lambda self, batch: {"loss": forward(self, batch)["loss"] * float("inf")},
    )
    with pytest.raises(ValueError, match="learning_rate: the training has become unstable"):
        finetune(PAIRS, bases[1], name="mine", steps=1, batch=1, device="cpu")
    assert "mine" not in list_user_models()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": []}, "pairs: none given"),
        ({"pairs": [1]}, r"entry 0 is not \(fixed, moving\)"),
        ({"pairs": PAIRS[:1]}, "or give at least two pairs"),
        ({"pairs": [(PAIRS[0][0], PAIRS[0][1][:, 1:]), PAIRS[1]]}, "48 x 64 px, the infrared one"),
        ({"models": ()}, "models: none given"),
        ({"models": "average"}, "models: 'average' cannot be fine-tuned; accepted are"),
        ({"models": "matcher"}, "models: 'matcher' cannot be fine-tuned"),
        ({"models": ("gaf", "gaf")}, "are both for fusion"),
        ({"name": "gaf"}, "is a model of this package"),
        ({"name": "a/b"}, "name: got"),
        ({"steps": 0}, "steps: got 0"),
        ({"batch": 0}, "batch: got 0"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ({"max_minutes": 0.0}, "max_minutes: got 0.0"),
        ({"held_out": 3}, "held_out: got 3 of 3 pairs"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str, data_folder: Path) -> None:
    arguments: dict[str, object] = {"pairs": PAIRS, "models": "gaf", "name": "mine"} | changes
    with pytest.raises(ValueError, match=message):
        finetune(**arguments)  # type: ignore[arg-type]
    assert not data_folder.exists()


def test_the_command(bases: tuple[str, str], tmp_path: Path) -> None:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["finetune", *map(str, arguments)])

    for folder, image in (("vis", 0), ("ir", 1)):
        (tmp_path / folder).mkdir()
        for number in range(3):
            imwrite(tmp_path / folder / f"{number}.png", PAIRS[number][image])
    folders = tmp_path / "vis", tmp_path / "ir"
    settings = ["--name", "mine", "--model", "tiny gaf", "--device", "cpu"]
    result = invoke(*folders, *settings, "--steps", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("mine: Q_AB/F on held-out pairs ")
    assert card("mine")["data"] == {f"{folders[0]} and {folders[1]}": "2 aligned pairs"}
    for arguments, message in (
        ((*folders, *settings), "there is a model 'mine' already"),
        (("--resume", "--name", "mine"), "is finished"),
        (("--resume", "--name", "other"), "holds no training that can be read"),
        (("--finish",), "--finish: needs --resume"),
        ((folders[0],), "FIXED and MOVING: two folders"),
        ((folders[0], tmp_path), "infrared folder: no image"),
    ):
        refused = invoke(*arguments)
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output


def test_folders_that_hold_no_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no training that can be read"):
        resume_finetuning(tmp_path)
    (tmp_path / "finetune.json").write_text(json.dumps({"name": 3}))
    assert not is_unfinished(tmp_path)
    assert unfinished_finetunings() == []


def test_a_start_must_fit_the_recipe(bases: tuple[str, str], recipes: dict[str, Path]) -> None:
    recipe = load_recipe(recipes["gaf"], {"start_from": bases[1]})
    stage = build_stage(recipe)
    assert moved(weights_of(bases[1]), dict(stage.model.state_dict())) == set()
    wrong = load_recipe(recipes["gaf"], {"start_from": bases[1], "model.width": 12})
    with pytest.raises(ValueError, match="start_from: the weights of 'tiny gaf' do not fit"):
        build_stage(wrong)
    with pytest.raises(ValueError, match="is for registration; one for fusion"):
        build_stage(load_recipe(recipes["gaf"], {"start_from": bases[0]}))


def test_the_start_has_its_share_of_what_is_written(
    bases: tuple[str, str], recipes: dict[str, Path], store: PairStore, tmp_path: Path
) -> None:
    def trained(share: float, resume: bool = False) -> dict[str, torch.Tensor]:
        weights = run(
            "gaf",
            recipes["gaf"],
            output=tmp_path / str(share),
            store=store,
            device="cpu",
            overrides={"start_from": bases[1], "start_share": share},
            resume=resume,
        )
        return dict(load_model(weights, kind="fusion", device="cpu").state_dict())

    start, end, blend = weights_of(bases[1]), trained(0.0), trained(0.25)
    assert moved(start, end)
    for name, value in blend.items():
        torch.testing.assert_close(value, 0.75 * end[name] + 0.25 * start[name], atol=2e-3, rtol=0)
    assert moved(blend, trained(0.25, resume=True)) == set()  # averaged once, not twice
    for wrong in ({"start_share": 0.2}, {"start_from": bases[1], "start_share": 1.0}):
        with pytest.raises(ValueError, match=r"start_share must be in \[0, 1\)"):
            load_recipe(recipes["gaf"], wrong)


def test_pairs_of_folders(tmp_path: Path) -> None:
    for folder, image in (("vis", 0), ("ir", 1)):
        (tmp_path / folder).mkdir()
        for number in range(2):
            imwrite(tmp_path / folder / f"{number}.png", PAIRS[number][image])
    pairs = pairs_in_folders(tmp_path / "vis", tmp_path / "ir")
    assert [pair.name for pair in pairs] == ["0", "1"]
    np.testing.assert_array_equal(pairs[1].read()[1], PAIRS[1][1])
    with pytest.raises(ValueError, match="visible folder: none is chosen"):
        pairs_in_folders("", tmp_path)
    with pytest.raises(NotADirectoryError, match="infrared folder"):
        pairs_in_folders(tmp_path / "vis", tmp_path / "ir" / "0.png")
    with pytest.raises(FileNotFoundError, match="infrared folder: no such"):
        pairs_in_folders(tmp_path / "vis", tmp_path / "nowhere")


def test_empty_borders_are_cut_off_and_holes_filled() -> None:
    fixed, moving = images(0, (100, 120))
    lying = moving.astype(np.float32) + 1
    lying[:20] = lying[:, -30:] = 0  # as resampling leaves it
    lying[60, 40] = np.nan
    prepared = prepare_pair(AlignedPair("a", lambda: (fixed, lying)))
    assert prepared.fixed.shape == prepared.moving.shape == (80, 90)
    np.testing.assert_allclose(prepared.fixed, fixed[20:, :90] / 255, atol=1e-6)
    assert abs(prepared.moving[40, 40] - prepared.moving[40, 41]) < 0.05
    lying[:75] = 0
    with pytest.raises(ValueError, match="have 25 x 90 px in common"):
        prepare_pair(AlignedPair("a", lambda: (fixed, lying)))
    flat = np.full((100, 120), 7, np.uint8)
    with pytest.raises(ValueError, match="infrared image is constant"):
        prepare_pair(AlignedPair("a", lambda: (fixed, flat)))


def test_the_last_pairs_are_held_out() -> None:
    def pair(name: str, shape: tuple[int, int] = (40, 40)) -> PreparedPair:
        return PreparedPair(name, np.zeros(shape, np.float32), np.ones(shape, np.float32))

    many = [pair(str(number)) for number in range(12)]
    training, held_out = split_pairs(many)
    assert [one.name for one in held_out] == ["10", "11"]
    assert training == many[:10]
    assert len(split_pairs(many * 9)[1]) == 4
    assert len(split_pairs(many, 5)[1]) == 5
    training, held_out = split_pairs([pair("one", (40, 200))])
    assert [p.fixed.shape for p in (*training, *held_out)] == [(40, 150), (40, 50)]
    assert held_out[0].name == "one (last part)"
