"""Results, previews and callbacks of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_busref.training.finetuning.recipes import HEADLINES

__all__ = ["Finetuned", "Preview", "TrainingCallback"]


@dataclass(frozen=True, eq=False)
class Preview:
    """Output and scores of the model on held-out pairs.

    Attributes
    ----------
    kind : str
    step, steps : int
    pair : str
        Name of the first held-out pair.
    fixed, moving : ndarray of float32, shape (H, W)
        Its aligned images.
    before, now : ndarray of float32, shape (H, W)
        The fused image, or the infrared image registered after a synthetic warp: by the base
        model, and by the present one.
    scores_before, scores : dict
        Means over all held-out pairs.
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
    """Receives losses and previews; override what you need.

    The training thread calls the methods.
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
        Kind and name in ``list_models(kind)``.
    base : str
        The model that training started from.
    weights : Path
    steps : int
        Training steps made.
    before, after : dict
        Scores of `base` and of the result on the held-out pairs.
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
        """Whether the headline score on the held-out pairs is at least as good as before."""
        key, _, _, more = HEADLINES[self.kind]
        gain = self.after[key] - self.before[key]
        return gain >= 0 if more else gain <= 0
