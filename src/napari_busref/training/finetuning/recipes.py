"""How models are fine-tuned: as they were trained, but gently. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from napari_busref.training.recipe import Recipe, recipe_from_card

__all__ = ["HEADLINES", "KINDS", "base_models", "fine_recipe", "kind_of", "stored_side"]

HEADLINES = {
    "registration": ("epe", "mean error", "px", False),
    "fusion": ("qabf", "Q_AB/F", "", True),
}
"""Of each kind the score that counts: its key, its name, its unit, and whether more is better."""

KINDS = ("fusion", "registration")
"""In the order of the training, the quicker one first."""

_GENTLE = 0.05  # of the learning rate that a model was trained with


@dataclass(frozen=True)
class _Stage:
    kind: str
    batch: int
    side: int  # px of the pairs' shorter side while training


_STAGES = {
    "registration": _Stage("registration", 8, 384),
    "superfusion": _Stage("registration", 4, 384),
    "gaf": _Stage("fusion", 4, 512),
    "superfusion-fusion": _Stage("fusion", 4, 512),
}


def base_models(kind: str) -> list[str]:
    """Names of the models of a kind that can be fine-tuned; those of the user too.

    Parameters
    ----------
    kind : str
        ``"registration"`` or ``"fusion"``.
    """
    from napari_busref.models.registry import list_models

    return [name for name in list_models(kind) if kind_of(name) == kind]


def kind_of(model: str) -> str | None:
    """What kind a model is fine-tuned as; None when it cannot be."""
    from napari_busref.models.weights import card

    try:
        stage = _STAGES.get(_stage_of(card(model)))
    except ValueError:  # without weights
        return None
    return None if stage is None else stage.kind


def fine_recipe(model: str, content: Mapping[str, Any]) -> Recipe:
    """The recipe that a model was trained with, made gentle, and starting from the model.

    Parameters
    ----------
    model : str
        Its name, with a `kind_of`.
    content : mapping
        Its card.

    Returns
    -------
    Recipe
        The same losses, warps and augmentation; of the learning rate a twentieth, or all of it
        for a model that was fine-tuned itself; batches for little data and a CPU.
    """
    recipe = recipe_from_card(content["recipe"])
    return replace(
        recipe,
        batch=_STAGES[recipe.stage].batch,
        learning_rate=recipe.learning_rate * (1 if "base" in content else _GENTLE),
        start_from=model,
        start_share=0.0,
        model=dict(content["config"]),
        requires="",
        export="",
        train_bus=False,
        processes=1,
        threads=0,
        log_every=1,  # a stop takes at most one step
        checkpoint_every=50,
    )


def stored_side(recipe: Recipe) -> int:
    """To how many pixels, on their shorter side, pairs are reduced while training."""
    return _STAGES[recipe.stage].side


def _stage_of(content: Mapping[str, Any]) -> str:
    recipe = content.get("recipe")
    return str(recipe.get("stage")) if isinstance(recipe, Mapping) else ""
