"""Recipes for fine-tuning: those of the base model, at a low rate. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from napari_busref.training.recipe import Recipe, recipe_from_card

__all__ = [
    "HEADLINES",
    "KINDS",
    "base_card",
    "base_models",
    "fine_recipe",
    "kind_of",
    "stored_side",
]

HEADLINES = {
    "registration": ("epe", "mean error", "px", False),
    "fusion": ("qabf", "Q_AB/F", "", True),
}
"""Headline score of each kind: key, name, unit, and whether more is better."""

KINDS = ("fusion", "registration")
"""Kinds in the order of training, the quicker one first."""

_RATE_FACTOR = 0.05  # times the learning rate of the base model


@dataclass(frozen=True)
class _Stage:
    kind: str
    batch: int
    side: int  # px, largest shorter side of the pairs
    rate: float | None = None  # instead of a share of the base model's


_STAGES = {
    "auto": _Stage("registration", 4, 384, 3e-4),
    "registration": _Stage("registration", 8, 384),
    "superfusion": _Stage("registration", 4, 384),
    "gaf": _Stage("fusion", 4, 512),
    "superfusion-fusion": _Stage("fusion", 4, 512),
}


def base_models(kind: str) -> list[str]:
    """Names of the models of a kind that can be fine-tuned, user models included.

    Parameters
    ----------
    kind : str
        ``"registration"`` or ``"fusion"``.
    """
    from napari_busref.models.registry import list_models

    return [name for name in list_models(kind) if kind_of(name) == kind]


def kind_of(model: str) -> str | None:
    """Kind of a model that can be fine-tuned, else None."""
    try:
        content = base_card(model)
    except ValueError:  # it has no weights
        return None
    stage = _STAGES.get(_stage_of(content))
    return None if stage is None or stage.kind != content["kind"] else stage.kind


def base_card(model: str) -> dict[str, Any]:
    """Card of a model to continue from; the default's is made from those of its networks."""
    from napari_busref.models.weights import card

    if model != "auto":
        return card(model)
    matcher, likelihood = card("matcher"), card("likelihood")
    return {
        **matcher,
        "kind": "registration",
        "config": {},
        "sha256": f"{matcher['sha256']}+{likelihood['sha256']}",
        "recipe": {**matcher["recipe"], "stage": "auto"},
    }


def fine_recipe(model: str, content: Mapping[str, Any]) -> Recipe:
    """Recipe that fine-tunes a model, from the recipe on its card.

    Parameters
    ----------
    model : str
        Name of a model for which `kind_of` is not None.
    content : mapping
        Its card.

    Returns
    -------
    Recipe
        The same losses, warps and augmentation, with small batches for few pairs and a CPU. The
        learning rate is 3e-4 for the default, else a twentieth, or the same for a model that was
        itself fine-tuned.
    """
    recipe = recipe_from_card(content["recipe"])
    stage = _STAGES[recipe.stage]
    share = recipe.learning_rate * (1 if "base" in content else _RATE_FACTOR)
    return replace(
        recipe,
        batch=stage.batch,
        learning_rate=share if stage.rate is None else stage.rate,
        average=0.0,
        data=replace(recipe.data, realign=""),
        start_from=model,
        start_share=0.0,
        model=dict(content["config"]),
        requires="",
        export="",
        train_bus=False,
        processes=1,
        threads=0,
        log_every=1,  # cancelling takes at most one step
        checkpoint_every=50,
    )


def stored_side(recipe: Recipe) -> int:
    """Largest shorter side of the pairs in training, in pixels."""
    return _STAGES[recipe.stage].side


def _stage_of(content: Mapping[str, Any]) -> str:
    recipe = content.get("recipe")
    return str(recipe.get("stage")) if isinstance(recipe, Mapping) else ""
