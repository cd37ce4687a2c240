"""What fine-tuning returns and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_busref.training.finetuning.recipes import HEADLINES

__all__ = ["Finetuned", "Preview", "TrainingCallback"]


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


class TrainingCallback:
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
