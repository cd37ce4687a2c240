"""Going on with the training of shipped weights on a user's own aligned pairs.

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

_STORED_SIDE = 512  # px of the shorter side that are kept of a pair
_SHARE_READING = 0.05  # of the progress


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
    watcher: TrainingCallback | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Finetuned]:
    """Fine-tune models on aligned pairs, and keep the results as models of the user.

    Parameters
    ----------
    pairs : sequence of AlignedPair or of (fixed, moving)
        The moving image of each lies on the grid of the fixed one. See
        `napari_busref.training.finetuning.pairs.pairs_in_folders`. Images are reduced to 512 px on their
        shorter side.
    models : str or sequence of str
        What to go on with, at most one of each kind; of
        `napari_busref.training.finetuning.recipes.base_models`.
    name : str
        Of the result in ``list_models``; with models of two kinds ``NAME-registration`` and
        ``NAME-fusion``.
    output : path, optional
        Folder of the training, for checkpoints and logs; by default one in
        `napari_busref.training.finetuning.plan.trainings_folder`.
    steps : int
        For each model.
    batch, learning_rate : optional
        Crops a step, and the largest step length; by default a few, and a
        twentieth of what the model was trained with (7.5e-5 for ``busref``, 2e-4 for ``gaf``).
    max_minutes : float, optional
        Stop training after this time, all models together, and take what was learned so far.
    held_out : int, optional
        How many pairs, the last ones, are kept back to measure on; see
        `napari_busref.training.finetuning.pairs.split_pairs`.
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
    >>> from napari_busref.training.finetuning.pairs import pairs_in_folders
    >>> pairs = pairs_in_folders("visible", "infrared")  # doctest: +SKIP
    >>> finetune(pairs, ["busref", "gaf"], name="our camera")  # doctest: +SKIP
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
    write_plan(folder, plan, [*training, *kept])
    return _train(folder, plan, device, max_minutes, watcher, reporter.part(_SHARE_READING, 1))


def resume_finetuning(
    output: str | Path,
    *,
    finish: bool = False,
    max_minutes: float | None = None,
    device: str = "auto",
    watcher: TrainingCallback | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> list[Finetuned]:
    """Go on with a training that was stopped.

    Parameters
    ----------
    output : path
        Its folder, as `finetune` was given it, or one of
        `napari_busref.training.finetuning.plan.unfinished_finetunings`.
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
        if not any((folder / kind / CHECKPOINT).is_file() for kind in open_kinds(folder, plan)):
            raise ValueError(f"output: nothing was learned yet in {folder}; resume it")
        max_minutes = 0.0
    return _train(folder, plan, device, max_minutes, watcher, Reporter(progress, cancel), finish)


# -- before training ----------------------------------------------------------------------------


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
    from napari_busref.training.batches.data import shrink

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


# -- training -----------------------------------------------------------------------------------


def _train(
    folder: Path,
    plan: Plan,
    device: str,
    max_minutes: float | None,
    watcher: TrainingCallback | None,
    reporter: Reporter,
    only_begun: bool = False,
) -> list[Finetuned]:
    from napari_busref.training.finetuning.train_one import OneFinetuning

    training, kept = read_pairs(folder, plan)
    kinds = open_kinds(folder, plan)
    if only_begun:
        kinds = [kind for kind in kinds if (folder / kind / CHECKPOINT).is_file()]
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    results = []
    for number, kind in enumerate(kinds):
        minutes = None
        if end is not None:
            minutes = max(end - time.monotonic(), 0.0) / 60 / (len(kinds) - number)
        part = reporter.part(number / len(kinds), (number + 1) / len(kinds))
        one = OneFinetuning(folder / kind, plan, kind, kept, watcher or TrainingCallback(), part)
        results.append(one.train(training, device, minutes))
    return results
