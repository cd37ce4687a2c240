"""The fine-tuning of one model: the trainer's run, what is measured meanwhile, the result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_busref.models.registry import load_model
from napari_busref.models.user_models import add_user_model
from napari_busref.models.weights import card
from napari_busref.runtime.device import resolve_device
from napari_busref.runtime.progress import Reporter
from napari_busref.training.batches.data import PairStore, shrink
from napari_busref.training.finetuning.held_out import (
    HeldOutFusion,
    HeldOutPairs,
    HeldOutRegistration,
)
from napari_busref.training.finetuning.pairs import PreparedPair
from napari_busref.training.finetuning.plan import CHECKPOINT, RESULT, Plan
from napari_busref.training.finetuning.recipes import fine_recipe, kind_of, stored_side
from napari_busref.training.finetuning.result import Finetuned, Preview, TrainingCallback
from napari_busref.training.recipe import Recipe
from napari_busref.training.trainer import run

__all__ = ["OneFinetuning"]


class OneFinetuning:
    """The training of one model; the trainer's monitor.

    Parameters
    ----------
    folder : Path
        Of this kind of model.
    plan : Plan
    kind : str
    kept : list of PreparedPair
        That are kept back.
    watcher : Watcher
    reporter : Reporter
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        kind: str,
        kept: list[PreparedPair],
        watcher: TrainingCallback,
        reporter: Reporter,
    ) -> None:
        self.folder, self.plan, self.kind = folder, plan, kind
        self.base = plan.models[kind]
        self.card = card(self.base)
        if kind_of(self.base) != kind:
            raise ValueError(f"models: {self.base!r} is no longer there as a model for {kind}")
        self.recipe = self._recipe()
        self.side = stored_side(self.recipe)
        self.kept = [_reduced(pair, self.side) for pair in kept]
        self.watcher, self.reporter = watcher, reporter
        self.measurer: HeldOutPairs = _measurer(kind, self.kept)

    def train(
        self, pairs: list[PreparedPair], device: str, max_minutes: float | None
    ) -> Finetuned:
        """Train to the last step, or for so long, and keep the model."""
        target = resolve_device(device)
        self.reporter.step(f"{self.kind}: measuring {self.base}", 0)
        before = self.measurer(load_model(self.base, kind=self.kind, device=target), self.reporter)
        self.scores_before, self.picture_before = before.scores, before.picture
        step = _steps_done(self.folder)
        if step == 0:
            self._show(0, before.scores, before.picture)
        data = [_reduced(pair, self.side) for pair in pairs]
        recipe = _fitted(self.recipe, self.kind, data, target)
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
        """See `napari_busref.training.trainer.Monitor`."""
        self.watcher.logged(self.kind, step, self.plan.steps, losses["loss"])

    def measure(self, model: nn.Module, step: int, reporter: Reporter) -> dict[str, float]:
        """See `napari_busref.training.trainer.Monitor`."""
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


def _measurer(kind: str, kept: list[PreparedPair]) -> HeldOutPairs:
    return HeldOutRegistration(kept) if kind == "registration" else HeldOutFusion(kept)


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


def _fitted(recipe: Recipe, kind: str, pairs: list[PreparedPair], device: torch.device) -> Recipe:
    """The recipe for these pairs and this device."""
    data = recipe.data
    if kind == "fusion":
        # crops show pixels of the size that the base was trained on: what is sharp depends on it
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
