"""Fine-tune shipped weights on a user's own aligned pairs.

Importing this needs no torch; training does.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_busref.models.user_folder import list_user_models
from napari_busref.models.user_models import check_name
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.training.finetuning.pairs import (
    AlignedPair,
    PreparedPair,
    prepare_pair,
    split_pairs,
)
from napari_busref.training.finetuning.plan import (
    CHECKPOINT,
    Plan,
    is_unfinished,
    open_kinds,
    read_pairs,
    read_plan,
    trainings_folder,
    write_plan,
)
from napari_busref.training.finetuning.recipes import KINDS, base_models, kind_of
from napari_busref.training.finetuning.result import Finetuned, TrainingCallback

__all__ = ["finetune", "resume_finetuning"]

_STORED_SIDE = 512  # px, largest shorter side of the stored pairs
_READING_FRACTION = 0.05  # of the progress


def finetune(
    pairs: Sequence[AlignedPair | tuple[Any, Any]],
    models: str | Sequence[str] = "auto",
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
    callback: TrainingCallback | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Finetuned]:
    """Fine-tune models on aligned pairs, and keep the results as user models.

    Parameters
    ----------
    pairs : sequence of AlignedPair or of (fixed, moving)
        The moving image of each lies on the grid of the fixed one, see
        `napari_busref.training.finetuning.pairs.pairs_in_folders`. Images are reduced to 512 px
        on their shorter side.
    models : str or sequence of str
        Models to start from, at most one of each kind, see
        `napari_busref.training.finetuning.recipes.base_models`. ``"auto"`` trains the matcher and
        the likelihood of the default; the result searches and refines as the default does.
    name : str
        Of the result in ``list_models``. Two kinds give ``NAME-registration`` and
        ``NAME-fusion``.
    output : path, optional
        Folder for checkpoints and logs; by default one in
        `napari_busref.training.finetuning.plan.trainings_folder`.
    steps : int
        For each model.
    batch, learning_rate : optional
        Crops per step (by default 4 or 8), and the largest learning rate. The default is a
        twentieth of the model's own (7.5e-5 for ``busref``, 2e-4 for ``gaf``), and 3e-4 for
        ``auto``.
    max_minutes : float, optional
        Stop training after this time, all models together, and export the models as they are.
    held_out : int, optional
        Number of pairs at the end to hold out for measuring, see
        `napari_busref.training.finetuning.pairs.split_pairs`.
    preview_every : int
        Steps between two measurements.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``.
    seed : int
        Of all random draws.
    source : str
        Origin of the pairs, for the card.
    overwrite : bool
        Replace an unfinished training in `output`, and models of that name.
    callback : TrainingCallback, optional
        Receives losses and previews.
    progress, cancel
        See `napari_busref.register`. A set ``cancel`` stops with a checkpoint, see
        `resume_finetuning`.

    Returns
    -------
    list of Finetuned
        One for each model, fusion first.

    Raises
    ------
    ValueError
        For unusable pairs, names or numbers, and when the loss becomes infinite.
    Cancelled
        When ``cancel`` was set.
    ModuleNotFoundError
        Without the packages of the extra ``train``.

    Examples
    --------
    >>> from napari_busref.training import finetune
    >>> from napari_busref.training.finetuning.pairs import pairs_in_folders
    >>> pairs = pairs_in_folders("visible", "infrared")  # doctest: +SKIP
    >>> finetune(pairs, ["auto", "gaf"], name="our camera")  # doctest: +SKIP
    >>> register(fixed, moving, model="our camera-registration")  # doctest: +SKIP
    """
    _check_packages()
    chosen = _by_kind([models] if isinstance(models, str) else models)
    names = {
        kind: name if len(chosen) == 1 else f"{name}-{kind}" for kind in KINDS if kind in chosen
    }
    _check_numbers(steps, batch, learning_rate, max_minutes, preview_every)
    for result in (name, *names.values()):
        check_name(result)
    _check_free(names, overwrite)
    folder = trainings_folder() / name if output is None else Path(output)
    if is_unfinished(folder) and not overwrite:
        raise ValueError(
            f"output: {folder} holds an unfinished training; resume or discard it, or choose "
            "another name"
        )
    reporter = Reporter(progress, cancel)
    training, kept = _prepare(pairs, held_out, reporter.part(0, _READING_FRACTION))
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
    write_plan(folder, plan, [*training, *kept])
    return _train(folder, plan, device, max_minutes, callback, reporter.part(_READING_FRACTION, 1))


def resume_finetuning(
    output: str | Path,
    *,
    finish: bool = False,
    max_minutes: float | None = None,
    device: str = "auto",
    callback: TrainingCallback | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Finetuned]:
    """Continue an unfinished training.

    Parameters
    ----------
    output : path
        The ``output`` of `finetune`, or one of
        `napari_busref.training.finetuning.plan.unfinished_finetunings`.
    finish : bool
        Stop training, and export the models as they are.
    max_minutes, device, callback, progress, cancel
        See `finetune`.

    Returns
    -------
    list of Finetuned
        One for each unfinished model.

    Raises
    ------
    ValueError
        If the folder holds no unfinished training, or no step was made yet.
    """
    _check_packages()
    folder = Path(output)
    plan = read_plan(folder)
    if not is_unfinished(folder):
        raise ValueError(f"output: the training in {folder} is finished")
    if finish:
        if not any((folder / kind / CHECKPOINT).is_file() for kind in open_kinds(folder, plan)):
            raise ValueError(f"output: no training step was made in {folder}; resume it")
        max_minutes = 0.0
    return _train(folder, plan, device, max_minutes, callback, Reporter(progress, cancel), finish)


def _by_kind(models: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for model in models:
        kind = kind_of(model)
        if kind is None:
            accepted = ", ".join(name for kind in KINDS for name in base_models(kind))
            raise ValueError(f"models: {model!r} cannot be fine-tuned; accepted are {accepted}")
        if kind in chosen:
            raise ValueError(f"models: {chosen[kind]!r} and {model!r} are both for {kind}")
        chosen[kind] = model
    if not chosen:
        raise ValueError("models: none given; choose one for registration, fusion, or both")
    return {kind: chosen[kind] for kind in KINDS if kind in chosen}


def _check_free(names: Mapping[str, str], overwrite: bool) -> None:
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
    from napari_busref.training.batches.pair_store import shrink

    prepared = []
    for number, given in enumerate(pairs):
        reporter.step(f"reading pair {number + 1} of {len(pairs)}", number / len(pairs))
        pair = given if isinstance(given, AlignedPair) else _from_arrays(given, number)
        full = prepare_pair(pair)
        small = (shrink(image, _STORED_SIDE)[0].numpy() for image in (full.fixed, full.moving))
        prepared.append(PreparedPair(full.name, *small))
    return split_pairs(prepared, held_out)


def _from_arrays(given: tuple[Any, Any], number: int) -> AlignedPair:
    try:
        fixed, moving = given
    except (TypeError, ValueError):
        raise ValueError(f"pairs: entry {number} is not (fixed, moving)") from None
    return AlignedPair(str(number + 1), lambda: (fixed, moving))


def _train(
    folder: Path,
    plan: Plan,
    device: str,
    max_minutes: float | None,
    callback: TrainingCallback | None,
    reporter: Reporter,
    only_started: bool = False,
) -> list[Finetuned]:
    from napari_busref.training.finetuning.train_one import ModelTraining

    training, kept = read_pairs(folder, plan)
    kinds = open_kinds(folder, plan)
    if only_started:
        kinds = [kind for kind in kinds if (folder / kind / CHECKPOINT).is_file()]
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    results = []
    for number, kind in enumerate(kinds):
        minutes = None
        if end is not None:
            minutes = max(end - time.monotonic(), 0.0) / 60 / (len(kinds) - number)
        part = reporter.part(number / len(kinds), (number + 1) / len(kinds))
        training_run = ModelTraining(
            folder / kind, plan, kind, kept, callback or TrainingCallback(), part
        )
        results.append(training_run.train(training, device, minutes))
    return results
