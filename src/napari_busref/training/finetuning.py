"""Going on with the training of shipped weights on a user's own aligned pairs.

A training has a folder: ``finetune.json`` says what is trained, ``pairs.npz`` holds the pairs as
they are trained on, and one folder for each kind of model the checkpoint and the log. So it can
be resumed wherever and whenever, without the images that it was started with.

Importing this needs no torch; training does.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.models.user_models import add_user_model, check_name, data_folder
from napari_busref.progress import Progress, Reporter
from napari_busref.training.aligned import (
    AlignedPair,
    PreparedPair,
    prepare_pair,
    split_pairs,
)
from napari_busref.training.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    Recipe,
    WarpConfig,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_busref.training.data import PairStore
    from napari_busref.training.held_out import HeldOut

__all__ = [
    "HEADLINES",
    "Finetuned",
    "Plan",
    "Preview",
    "Watcher",
    "base_models",
    "discard_finetuning",
    "finetune",
    "is_unfinished",
    "logged_losses",
    "read_plan",
    "resume_finetuning",
    "trainings_folder",
    "unfinished_finetunings",
]

HEADLINES = {
    "registration": ("epe", "mean error", "px", False),
    "fusion": ("qabf", "Q_AB/F", "", True),
}
"""Of each kind the score that counts: its key, its name, its unit, and whether more is better."""

_PLAN, _PAIRS = "finetune.json", "pairs.npz"
_STORED_SIDE = 512  # px of the shorter side that are kept of a pair
_SHARE_READING = 0.05  # of the progress


@dataclass(frozen=True)
class _Training:
    """How the models of an architecture are fine-tuned."""

    kind: str
    recipe: Recipe
    side: int  # px of the shorter side of the pairs while training


_TRAININGS = {
    # the guide of the full training would double the time of a step
    "BusRef": _Training(
        "registration",
        Recipe(
            "registration",
            steps=300,
            batch=8,
            learning_rate=1e-4,
            data=DataConfig(crop_side=128, crop_range=(0.5, 1.0)),
            warp=WarpConfig(12.0, (0.88, 1.14), 6.0, 0.1, (0.01, 0.04), beyond=0.5),
            loss=LossConfig(guide=0.0),
        ),
        384,
    ),
    "Gaf": _Training(
        "fusion",
        Recipe(
            "gaf",
            steps=300,
            batch=6,
            learning_rate=2e-4,
            data=DataConfig(crop_side=96),
            augment=AugmentConfig(polarity=0.0, noise=0.01, blur=0.5),
            loss=LossConfig(fuse_gradient=0.5),
        ),
        512,
    ),
}
_ORDER = ("fusion", "registration")  # of the training, the quicker one first


@dataclass(frozen=True)
class Plan:
    """What is trained, as its folder tells.

    Attributes
    ----------
    name : str
        Of the training.
    models : dict
        Kind to the model that is gone on with.
    names : dict
        Kind to the name that the result gets.
    source : str
        Where the pairs come from, for people.
    pairs, held_out : tuple of str
        Names of the pairs that are trained on and of those that are kept back.
    steps, batch, learning_rate
        Of all kinds; None stands for what suits the kind.
    seed : int
    preview_every : int
        Steps between two measurements.
    """

    name: str
    models: dict[str, str]
    names: dict[str, str]
    source: str
    pairs: tuple[str, ...]
    held_out: tuple[str, ...]
    steps: int
    batch: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    preview_every: int = 50


@dataclass(frozen=True, eq=False)
class Preview:
    """How the model does on the first pair that is kept back.

    Attributes
    ----------
    kind : str
    step, steps : int
    pair : str
    fixed, moving : ndarray of float32, shape (H, W)
        The aligned images.
    before, now : ndarray of float32, shape (H, W)
        The fused image, or the infrared one put back from a synthetic warp, by the model that was
        started from and by the present one.
    scores_before, scores : dict
        Means over all pairs that are kept back.
    """

    kind: str
    step: int
    steps: int
    pair: str
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    before: NDArray[np.float32]
    now: NDArray[np.float32]
    scores_before: dict[str, float]
    scores: dict[str, float]


class Watcher:
    """Looks on while models are trained; override what is of interest.

    Its methods are called in the thread that trains.
    """

    def logged(self, kind: str, step: int, steps: int, loss: float) -> None:
        """Called after every step with its training loss."""

    def measured(self, preview: Preview) -> None:
        """Called before the first step, every ``preview_every`` steps and after the last."""


@dataclass(frozen=True)
class Finetuned:
    """One trained model.

    Attributes
    ----------
    kind, name : str
        It is one of ``list_models(kind)`` by that name.
    base : str
        What was gone on with.
    weights : Path
    steps : int
        Steps that it was trained for.
    before, after : dict
        Scores of `base` and of the result on the pairs that were kept back.
    """

    kind: str
    name: str
    base: str
    weights: Path
    steps: int
    before: dict[str, float]
    after: dict[str, float]

    @property
    def better(self) -> bool:
        """Whether the score that counts did not get worse on the pairs that were kept back."""
        key, _, _, more = HEADLINES[self.kind]
        gain = self.after[key] - self.before[key]
        return gain >= 0 if more else gain <= 0


def base_models(kind: str) -> list[str]:
    """Names of the models of a kind that can be fine-tuned; those of the user too.

    Parameters
    ----------
    kind : str
        ``"registration"`` or ``"fusion"``.
    """
    from napari_busref.models.registry import list_models

    return [name for name in list_models(kind) if _kind_of(name) == kind]


def trainings_folder() -> Path:
    """Where trainings are kept that were given no folder."""
    return data_folder() / "trainings"


def finetune(
    pairs: Sequence[AlignedPair | tuple[Any, Any]],
    models: str | Sequence[str] = "busref",
    *,
    name: str,
    output: str | Path | None = None,
    steps: int = 300,
    batch: int | None = None,
    learning_rate: float | None = None,
    max_minutes: float | None = None,
    held_out: int | None = None,
    preview_every: int = 50,
    device: str = "auto",
    seed: int = 0,
    source: str = "",
    overwrite: bool = False,
    watcher: Watcher | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Finetuned]:
    """Fine-tune models on aligned pairs, and keep the results as models of the user.

    Parameters
    ----------
    pairs : sequence of AlignedPair or of (fixed, moving)
        The moving image of each lies on the grid of the fixed one. See
        `napari_busref.training.aligned.pairs_in_folders`. Images are reduced to 512 px on their
        shorter side.
    models : str or sequence of str
        What to go on with, of `base_models`; at most one of each kind.
    name : str
        Of the result in ``list_models``; with models of two kinds ``NAME-registration`` and
        ``NAME-fusion``.
    output : path, optional
        Folder of the training, for checkpoints and logs; by default one in `trainings_folder`.
    steps : int
        For each model.
    batch, learning_rate : optional
        Crops a step, and the largest step length; by default what suits each model and little
        data (1e-4 for ``busref``, 2e-4 for ``gaf``).
    max_minutes : float, optional
        Stop training after this time, all models together, and take what was learned so far.
    held_out : int, optional
        How many pairs, the last ones, are kept back to measure on; see
        `napari_busref.training.aligned.split_pairs`.
    preview_every : int
        Steps between two measurements.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``.
    seed : int
        Of all random draws.
    source : str
        Where the pairs come from; stands on the card.
    overwrite : bool
        Replace an unfinished training in `output`, and models of that name.
    watcher : Watcher, optional
        Sees losses and previews.
    progress, cancel
        As everywhere; a set ``cancel`` stops with a checkpoint, see `resume_finetuning`.

    Returns
    -------
    list of Finetuned
        One for each model, fusion first.

    Raises
    ------
    ValueError
        For pairs, names or numbers that will not do, and when the loss becomes infinite.
    Cancelled
        When ``cancel`` was set.
    ModuleNotFoundError
        Without the packages of the extra ``train``.

    Examples
    --------
    >>> from napari_busref.training import finetune
    >>> from napari_busref.training.aligned import pairs_in_folders
    >>> pairs = pairs_in_folders("visible", "infrared")  # doctest: +SKIP
    >>> finetune(pairs, ["busref", "gaf"], name="our camera")  # doctest: +SKIP
    >>> register(fixed, moving, model="our camera-registration")  # doctest: +SKIP
    """
    _check_packages()
    chosen = _by_kind([models] if isinstance(models, str) else models)
    names = {
        kind: name if len(chosen) == 1 else f"{name}-{kind}" for kind in _ORDER if kind in chosen
    }
    _check_numbers(steps, batch, learning_rate, max_minutes, preview_every)
    for result in (name, *names.values()):
        check_name(result)
    _check_free(names, overwrite)
    folder = trainings_folder() / name if output is None else Path(output)
    if is_unfinished(folder) and not overwrite:
        raise ValueError(
            f"output: {folder} holds a training that was stopped; resume or discard it, or choose "
            "another name"
        )
    reporter = Reporter(progress, cancel)
    training, kept = _prepare(pairs, held_out, reporter.part(0, _SHARE_READING))
    plan = Plan(
        name=name,
        models=chosen,
        names=names,
        source=source,
        pairs=tuple(pair.name for pair in training),
        held_out=tuple(pair.name for pair in kept),
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        preview_every=preview_every,
    )
    _write(folder, plan, [*training, *kept])
    return _train(folder, plan, device, max_minutes, watcher, reporter.part(_SHARE_READING, 1))


def resume_finetuning(
    output: str | Path,
    *,
    finish: bool = False,
    max_minutes: float | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Finetuned]:
    """Go on with a training that was stopped.

    Parameters
    ----------
    output : path
        Its folder, as `finetune` was given it or of `unfinished_finetunings`.
    finish : bool
        Train no further, and make models of what was learned so far.
    max_minutes, device, watcher, progress, cancel
        As of `finetune`.

    Returns
    -------
    list of Finetuned
        Of the models that were not finished yet.

    Raises
    ------
    ValueError
        When there is nothing to go on with, or nothing was learned yet.
    """
    _check_packages()
    folder = Path(output)
    plan = read_plan(folder)
    if not is_unfinished(folder):
        raise ValueError(f"output: the training in {folder} is finished")
    if finish:
        if not any((folder / kind / "checkpoint.ckpt").is_file() for kind in _open(folder, plan)):
            raise ValueError(f"output: nothing was learned yet in {folder}; resume it")
        max_minutes = 0.0
    return _train(folder, plan, device, max_minutes, watcher, Reporter(progress, cancel), finish)


def unfinished_finetunings(folder: str | Path | None = None) -> list[Path]:
    """Folders of the trainings that can be gone on with, the latest first.

    Parameters
    ----------
    folder : path, optional
        Where to look; `trainings_folder` by default.
    """
    plans = (trainings_folder() if folder is None else Path(folder)).glob(f"*/{_PLAN}")
    found = sorted(plans, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in found if is_unfinished(path.parent)]


def is_unfinished(folder: str | Path) -> bool:
    """Whether a folder holds a training that can be gone on with."""
    try:
        plan = read_plan(folder)
    except ValueError:
        return False
    return (Path(folder) / _PAIRS).is_file() and bool(_open(Path(folder), plan))


def read_plan(folder: str | Path) -> Plan:
    """What is trained in a folder.

    Raises
    ------
    ValueError
        When there is no training in it.
    """
    path = Path(folder) / _PLAN
    try:
        content = json.loads(path.read_text("utf-8"))
        return Plan(**{**content, **{key: tuple(content[key]) for key in ("pairs", "held_out")}})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"output: {folder} holds no training that can be read ({error})"
        ) from None


def discard_finetuning(folder: str | Path) -> None:
    """Delete a training: its checkpoints, its log and its copy of the pairs.

    Nothing else in the folder is touched, nor are the models that came out.
    """
    plan = read_plan(folder)
    for kind in plan.models:
        shutil.rmtree(Path(folder) / kind, ignore_errors=True)
    for name in (_PAIRS, _PLAN):
        (Path(folder) / name).unlink(missing_ok=True)
    if not any(Path(folder).iterdir()):
        Path(folder).rmdir()


def logged_losses(folder: str | Path, kind: str) -> list[tuple[int, float]]:
    """Step and loss of what has been trained so far, in the order of the steps."""
    losses: dict[int, float] = {}
    logs = sorted(
        (Path(folder) / kind / "logs").glob("version_*/metrics.csv"),
        key=lambda path: int(path.parent.name.partition("_")[2]),
    )
    for path in logs:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("loss"):
                    losses[int(row["step"])] = float(row["loss"])
    return sorted(losses.items())


# -- before training ----------------------------------------------------------------------------


def _kind_of(model: str) -> str | None:
    """What kind a model is fine-tuned as; None when it cannot be."""
    from napari_busref.models.weights import card

    try:
        training = _TRAININGS.get(card(model)["architecture"])
    except ValueError:  # without weights
        return None
    return None if training is None else training.kind


def _by_kind(models: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for model in models:
        kind = _kind_of(model)
        if kind is None:
            accepted = ", ".join(name for kind in _ORDER for name in base_models(kind))
            raise ValueError(f"models: {model!r} cannot be fine-tuned; accepted are {accepted}")
        if kind in chosen:
            raise ValueError(f"models: {chosen[kind]!r} and {model!r} are both for {kind}")
        chosen[kind] = model
    if not chosen:
        raise ValueError("models: none given; choose one for registration, fusion, or both")
    return {kind: chosen[kind] for kind in _ORDER if kind in chosen}


def _check_free(names: Mapping[str, str], overwrite: bool) -> None:
    from napari_busref.models.user_models import list_user_models

    taken = [name for name in names.values() if name in list_user_models()]
    if taken and not overwrite:
        raise ValueError(
            f"name: there is a model {taken[0]!r} already; choose another name, or remove it"
        )


def _check_numbers(
    steps: int,
    batch: int | None,
    learning_rate: float | None,
    max_minutes: float | None,
    preview_every: int,
) -> None:
    for word, number in (("steps", steps), ("batch", batch), ("preview_every", preview_every)):
        if number is not None and number < 1:
            raise ValueError(f"{word}: got {number}, need at least 1")
    if learning_rate is not None and not 0 < learning_rate <= 0.1:
        raise ValueError(f"learning_rate: got {learning_rate}, need more than 0 and at most 0.1")
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"max_minutes: got {max_minutes}, need more than 0")


def _check_packages() -> None:
    if importlib.util.find_spec("lightning_fabric") is None:
        raise ModuleNotFoundError(
            "training needs lightning-fabric: pip install 'napari-busref[train]'",
            name="lightning_fabric",
        )


def _prepare(
    pairs: Sequence[AlignedPair | tuple[Any, Any]], held_out: int | None, reporter: Reporter
) -> tuple[list[PreparedPair], list[PreparedPair]]:
    from napari_busref.training.data import shrink

    prepared = []
    for number, given in enumerate(pairs):
        reporter.step(f"reading pair {number + 1} of {len(pairs)}", number / len(pairs))
        pair = given if isinstance(given, AlignedPair) else _of_arrays(given, number)
        full = prepare_pair(pair)
        small = (shrink(image, _STORED_SIDE)[0].numpy() for image in (full.fixed, full.moving))
        prepared.append(PreparedPair(full.name, *small))
    return split_pairs(prepared, held_out)


def _of_arrays(given: tuple[Any, Any], number: int) -> AlignedPair:
    try:
        fixed, moving = given
    except (TypeError, ValueError):
        raise ValueError(f"pairs: entry {number} is not (fixed, moving)") from None
    return AlignedPair(str(number + 1), lambda: (fixed, moving))


def _write(folder: Path, plan: Plan, pairs: Sequence[PreparedPair]) -> None:
    if (folder / _PLAN).is_file():
        discard_finetuning(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for number, pair in enumerate(pairs):
        # half precision is finer than 8 bits here, and half the size
        arrays[f"fixed_{number}"] = pair.fixed.astype(np.float16)
        arrays[f"moving_{number}"] = pair.moving.astype(np.float16)
    np.savez(folder / _PAIRS, **arrays)  # type: ignore[arg-type]
    (folder / _PLAN).write_text(json.dumps(asdict(plan), indent=1) + "\n", "utf-8")


def _read(folder: Path, plan: Plan) -> tuple[list[PreparedPair], list[PreparedPair]]:
    names = [*plan.pairs, *plan.held_out]
    try:
        with np.load(folder / _PAIRS) as arrays:
            pairs = [
                PreparedPair(
                    name,
                    arrays[f"fixed_{number}"].astype(np.float32),
                    arrays[f"moving_{number}"].astype(np.float32),
                )
                for number, name in enumerate(names)
            ]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"output: the pairs in {folder} cannot be read ({error})") from None
    return pairs[: len(plan.pairs)], pairs[len(plan.pairs) :]


def _open(folder: Path, plan: Plan) -> list[str]:
    """The kinds that are not finished."""
    return [kind for kind in plan.models if not (folder / kind / "result.json").is_file()]


# -- training -----------------------------------------------------------------------------------


def _train(
    folder: Path,
    plan: Plan,
    device: str,
    max_minutes: float | None,
    watcher: Watcher | None,
    reporter: Reporter,
    only_begun: bool = False,
) -> list[Finetuned]:
    training, kept = _read(folder, plan)
    kinds = _open(folder, plan)
    if only_begun:
        kinds = [kind for kind in kinds if (folder / kind / "checkpoint.ckpt").is_file()]
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    results = []
    for number, kind in enumerate(kinds):
        minutes = None
        if end is not None:
            minutes = max(end - time.monotonic(), 0.0) / 60 / (len(kinds) - number)
        part = reporter.part(number / len(kinds), (number + 1) / len(kinds))
        one = _One(folder / kind, plan, kind, kept, watcher or Watcher(), part)
        results.append(one.train(training, device, minutes))
    return results


class _One:
    """The training of one model; the trainer's monitor."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        kind: str,
        kept: list[PreparedPair],
        watcher: Watcher,
        reporter: Reporter,
    ) -> None:
        from napari_busref.models.weights import card

        self.folder, self.plan, self.kind = folder, plan, kind
        self.base = plan.models[kind]
        self.card = card(self.base)
        training = _TRAININGS.get(self.card["architecture"])
        if training is None or training.kind != kind:
            raise ValueError(f"models: {self.base!r} is no longer a model for {kind}")
        self.training = training
        self.kept = [_reduced(pair, training.side) for pair in kept]
        self.watcher, self.reporter = watcher, reporter
        self.measurer: HeldOut = _measurer(kind, self.kept)
        self.recipe = self._recipe()

    def train(
        self, pairs: list[PreparedPair], device: str, max_minutes: float | None
    ) -> Finetuned:
        """Train to the last step, or for so long, and keep the model."""
        from napari_busref.device import resolve_device
        from napari_busref.models.registry import load_model
        from napari_busref.training.trainer import run

        target = resolve_device(device)
        self.reporter.step(f"{self.kind}: measuring {self.base}", 0)
        before = self.measurer(load_model(self.base, kind=self.kind, device=target), self.reporter)
        self.scores_before, self.picture_before = before.scores, before.picture
        step = _steps_done(self.folder)
        if step == 0:
            self._show(0, before.scores, before.picture)
        data = [_reduced(pair, self.training.side) for pair in pairs]
        recipe = _fitted(self.recipe, data, target)
        arguments: dict[str, Any] = {
            "output": self.folder,
            "device": str(target),
            "store": _store(data),
            "resume": True,
            "monitor": self,
            "progress": self.reporter.step,
        }
        weights = None
        if max_minutes is None or max_minutes > 0:
            with _divergence_explained():
                weights = run(recipe.stage, recipe, max_minutes=max_minutes, **arguments)
        if weights is None:  # out of time: make the model of what there is
            steps = max(_steps_done(self.folder), 1)
            recipe = replace(recipe, steps=steps)
            weights = run(recipe.stage, recipe, **arguments)
            assert weights is not None
        return self._keep(weights)

    def logged(self, step: int, losses: Mapping[str, float]) -> None:
        """See `napari_busref.training.monitor.Monitor`."""
        self.watcher.logged(self.kind, step, self.plan.steps, losses["loss"])

    def measure(self, model: nn.Module, step: int, reporter: Reporter) -> dict[str, float]:
        """See `napari_busref.training.monitor.Monitor`."""
        measured = self.measurer(model, reporter)
        self.scores = measured.scores
        self.steps = step
        self._show(step, measured.scores, measured.picture)
        return measured.scores

    def _show(self, step: int, scores: dict[str, float], picture: NDArray[np.float32]) -> None:
        first = self.kept[0]
        self.watcher.measured(
            Preview(
                kind=self.kind,
                step=step,
                steps=self.plan.steps,
                pair=first.name,
                fixed=first.fixed,
                moving=first.moving,
                before=self.picture_before,
                now=picture,
                scores_before=self.scores_before,
                scores=scores,
            )
        )

    def _keep(self, weights: Path) -> Finetuned:
        plan, name = self.plan, self.plan.names[self.kind]
        where = plan.source or "arrays"
        facts = {
            "data": {where: f"{len(plan.pairs)} aligned pairs"},
            "held_out": list(plan.held_out),
            "base": {"name": self.base, "sha256": self.card["sha256"]},
            "scores": {key: round(value, 4) for key, value in self.scores.items()},
            "scores_before": {key: round(value, 4) for key, value in self.scores_before.items()},
        }
        kept = add_user_model(weights, name, facts=facts, overwrite=True)
        result = Finetuned(
            self.kind, name, self.base, kept, self.steps, self.scores_before, self.scores
        )
        # says that this kind is finished, so it comes last
        text = json.dumps(asdict(result) | {"weights": str(kept)}, indent=1) + "\n"
        (self.folder / "result.json").write_text(text, "utf-8")
        return result

    def _recipe(self) -> Recipe:
        plan, recipe = self.plan, self.training.recipe
        return replace(
            recipe,
            steps=plan.steps,
            batch=plan.batch or recipe.batch,
            learning_rate=plan.learning_rate or recipe.learning_rate,
            seed=plan.seed,
            start_from=self.base,
            model=self.card["config"],
            log_every=1,  # a stop takes at most one step
            checkpoint_every=50,
            validate_every=plan.preview_every,
        )


@contextmanager
def _divergence_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "non-finite" not in str(error):  # what clipping the gradients says
            raise
        raise ValueError(
            "learning_rate: the training has become unstable; take what was learned so far, or "
            "start again with a smaller learning rate"
        ) from error


def _measurer(kind: str, kept: list[PreparedPair]) -> HeldOut:
    from napari_busref.training.held_out import HeldOutFusion, HeldOutRegistration

    return HeldOutRegistration(kept) if kind == "registration" else HeldOutFusion(kept)


def _reduced(pair: PreparedPair, side: int) -> PreparedPair:
    from napari_busref.training.data import shrink

    return PreparedPair(
        pair.name, *(shrink(image, side)[0].numpy() for image in (pair.fixed, pair.moving))
    )


def _store(pairs: list[PreparedPair]) -> PairStore:
    import torch

    from napari_busref.training.data import PairStore

    return PairStore(
        [
            (torch.from_numpy(pair.moving)[None], torch.from_numpy(pair.fixed)[None])
            for pair in pairs
        ]
    )


def _fitted(recipe: Recipe, pairs: list[PreparedPair], device: torch.device) -> Recipe:
    """The recipe for these pairs: the fusion network sees pixels of about the size they have."""
    changes: dict[str, Any] = {
        "precision": "bf16-mixed" if device.type == "cuda" else "32-true",
        "data": recipe.data,
    }
    if recipe.stage == "gaf":
        side = float(np.median([min(pair.fixed.shape) for pair in pairs]))
        smallest = min(recipe.data.crop_side / side, 1.0)
        changes["data"] = replace(recipe.data, crop_range=(smallest, min(2.4 * smallest, 1.0)))
    return replace(recipe, **changes)


def _steps_done(folder: Path) -> int:
    import torch

    path = folder / "checkpoint.ckpt"
    if not path.is_file():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True)["step"])
