"""The fusion models and weights of each task."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from napari_busref.runtime.options import check_choice

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TASKS", "model_for"]

#: For each task: model name -> registered name of its weights for this task. The first is the
#: default. A model that a task does not list keeps its own weights.
TASKS: dict[str, dict[str, str]] = {
    "infrared-visible": {"gaf": "gaf"},
    "medical": {"refusion": "refusion-medical"},
    "multi-focus": {"refusion": "refusion-multi-focus"},
    "multi-exposure": {"laplacian": "laplacian", "refusion": "refusion-multi-exposure"},
}


def model_for(
    task: str, model: str | os.PathLike[str] | nn.Module | None
) -> str | os.PathLike[str] | nn.Module:
    """Return the model to load for a task.

    Parameters
    ----------
    task : str
        A key of `TASKS`.
    model : str, path, torch.nn.Module or None
        ``model`` of `napari_busref.fuse`; None is the task's default.

    Raises
    ------
    ValueError
        For an unknown task.
    """
    check_choice("task", task)
    choices = TASKS[task]
    if model is None:
        return next(iter(choices.values()))
    return choices.get(model, model) if isinstance(model, str) else model
