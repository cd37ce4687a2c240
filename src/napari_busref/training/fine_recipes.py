"""How the models of each architecture are fine-tuned. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from napari_busref.training.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    Recipe,
    WarpConfig,
)

__all__ = ["HEADLINES", "KINDS", "TRAININGS", "Training", "base_models", "kind_of"]

HEADLINES = {
    "registration": ("epe", "mean error", "px", False),
    "fusion": ("qabf", "Q_AB/F", "", True),
}
"""Of each kind the score that counts: its key, its name, its unit, and whether more is better."""


@dataclass(frozen=True)
class Training:
    """How the models of an architecture are fine-tuned.

    Attributes
    ----------
    kind : str
    recipe : Recipe
        With what suits little data and a CPU.
    side : int
        Pixels of the pairs' shorter side while training.
    """

    kind: str
    recipe: Recipe
    side: int


TRAININGS = {
    # the guide of the full training would double the time of a step
    "BusRef": Training(
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
    "Gaf": Training(
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
KINDS = ("fusion", "registration")
"""In the order of the training, the quicker one first."""


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
        training = TRAININGS.get(card(model)["architecture"])
    except ValueError:  # without weights
        return None
    return None if training is None else training.kind
