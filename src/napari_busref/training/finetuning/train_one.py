"""Fine-tune one model: run the trainer, measure on held-out pairs, store the result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_busref.models.registry import load_model
from napari_busref.models.user_models import add_user_model
from napari_busref.runtime.device import resolve_device
from napari_busref.runtime.progress import Reporter
from napari_busref.training.batches.pair_store import PairStore, shrink
from napari_busref.training.finetuning.held_out import (
    HeldOutFusion,
    HeldOutPairs,
    HeldOutRegistration,
)
from napari_busref.training.finetuning.pairs import PreparedPair
from napari_busref.training.finetuning.plan import CHECKPOINT, RESULT, Plan
from napari_busref.training.finetuning.recipes import base_card, fine_recipe, kind_of, stored_side
from napari_busref.training.finetuning.result import Finetuned, Preview, TrainingCallback
from napari_busref.training.recipe import Recipe
from napari_busref.training.trainer import run

__all__ = ["ModelTraining"]


class ModelTraining:
    """The fine-tuning of one model, and the callback of the trainer's run.

    Parameters
    ----------
    folder : Path
        Of this kind of model.
    plan : Plan
    kind : str
    held_out : list of PreparedPair
    callback : TrainingCallback
    reporter : Reporter
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        kind: str,
        held_out: list[PreparedPair],
        callback: TrainingCallback,
        reporter: Reporter,
    ) -> None:
        self.folder, self.plan, self.kind = folder, plan, kind
        self.base = plan.models[kind]
        self.card = base_card(self.base)
        if kind_of(self.base) != kind:
            raise ValueError(f"models: there is no model {self.base!r} for {kind} any more")
        self.recipe = self._recipe()
        self.side = stored_side(self.recipe)
        self.held_out = [_reduced(pair, self.side) for pair in held_out]
        self.callback, self.reporter = callback, reporter
        self.evaluate: HeldOutPairs = (
            HeldOutRegistration(self.held_out)
            if kind == "registration"
            else HeldOutFusion(self.held_out)
        )

    def _report_step(self, steps: int, text: str, fraction: float) -> None:
        """Report in plain words; `text` holds the names of losses and scores."""
        self.reporter.step(f"{self.kind}: step {round(fraction * steps)} of {steps}", fraction)

    def train(
        self, pairs: list[PreparedPair], device: str, max_minutes: float | None
    ) -> Finetuned:
        """Train to the last step or for `max_minutes`, and store the model."""
        target = resolve_device(device)
        self.reporter.step(f"{self.kind}: measuring {self.base}", 0)
        before = self.evaluate(load_model(self.base, kind=self.kind, device=target), self.reporter)
        self.scores_before, self.picture_before = before.scores, before.picture
        if _steps_done(self.folder) == 0:
            self._report(0, before.scores, before.picture)
        data = [_reduced(pair, self.side) for pair in pairs]
        recipe = _adapted(self.recipe, self.kind, data, target)
        arguments: dict[str, Any] = {
            "output": self.folder,
            "device": str(target),
            "store": _store(data),
            "resume": True,
            "callback": self,
            "progress": partial(self._report_step, recipe.steps),
        }
        weights = None
        if max_minutes is None or max_minutes > 0:
            with _explained_divergence():
                weights = run(recipe.stage, recipe, max_minutes=max_minutes, **arguments)
        if weights is None:  # out of time: export the model as it is
            steps = max(_steps_done(self.folder), 1)
            recipe = replace(recipe, steps=steps)
            weights = run(recipe.stage, recipe, **arguments)
            assert weights is not None
        return self._store_result(weights)

    def logged(self, step: int, losses: Mapping[str, float]) -> None:
        """See `napari_busref.training.trainer.RunCallback`."""
        self.callback.logged(self.kind, step, self.plan.steps, losses["loss"])

    def measure(self, model: nn.Module, step: int, reporter: Reporter) -> dict[str, float]:
        """See `napari_busref.training.trainer.RunCallback`."""
        measured = self.evaluate(model, reporter)
        self.scores = measured.scores
        self.steps = step
        self._report(step, measured.scores, measured.picture)
        return measured.scores

    def _report(self, step: int, scores: dict[str, float], picture: NDArray[np.float32]) -> None:
        first = self.held_out[0]
        self.callback.measured(
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

    def _store_result(self, weights: Path) -> Finetuned:
        plan, name = self.plan, self.plan.names[self.kind]
        facts = {
            "data": {plan.source or "arrays": f"{len(plan.pairs)} aligned pairs"},
            "held_out": list(plan.held_out),
            "base": {"name": self.base, "sha256": self.card["sha256"]},
            "scores": {key: round(value, 4) for key, value in self.scores.items()},
            "scores_before": {key: round(value, 4) for key, value in self.scores_before.items()},
        }
        stored = add_user_model(weights, name, facts=facts, overwrite=True)
        result = Finetuned(
            self.kind, name, self.base, stored, self.steps, self.scores_before, self.scores
        )
        # written last, because this file marks the kind as finished
        text = json.dumps(asdict(result) | {"weights": str(stored)}, indent=1) + "\n"
        (self.folder / RESULT).write_text(text, "utf-8")
        return result

    def _recipe(self) -> Recipe:
        plan, recipe = self.plan, fine_recipe(self.base, self.card)
        return replace(
            recipe,
            steps=plan.steps,
            batch=plan.batch or recipe.batch,
            learning_rate=plan.learning_rate or recipe.learning_rate,
            seed=plan.seed,
            validate_every=plan.preview_every,
        )


@contextmanager
def _explained_divergence() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "non-finite" not in str(error):  # the message of gradient clipping
            raise
        raise ValueError(
            "learning_rate: the training has become unstable; take what was learned so far, or "
            "restart with a smaller learning rate"
        ) from error


def _reduced(pair: PreparedPair, side: int) -> PreparedPair:
    return PreparedPair(
        pair.name, *(shrink(image, side)[0].numpy() for image in (pair.fixed, pair.moving))
    )


def _store(pairs: list[PreparedPair]) -> PairStore:
    return PairStore(
        [
            (torch.from_numpy(pair.moving)[None], torch.from_numpy(pair.fixed)[None])
            for pair in pairs
        ]
    )


def _adapted(recipe: Recipe, kind: str, pairs: list[PreparedPair], device: torch.device) -> Recipe:
    """Adapt the recipe to the size of the pairs and to the device."""
    data = recipe.data
    if kind == "fusion":
        # crops keep the resolution of the base's training, because sharpness depends on it
        side = float(np.median([min(pair.fixed.shape) for pair in pairs]))
        low, high = (min(share * data.store_side / side, 1.0) for share in data.crop_range)
        data = replace(data, crop_range=(low, high))
    precision = "bf16-mixed" if device.type == "cuda" else "32-true"
    return replace(recipe, precision=precision, data=data)


def _steps_done(folder: Path) -> int:
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True)["step"])
