"""Which fusion model, with which weights, serves which kind of image pair."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from napari_busref.runtime.options import check_choice

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TASKS", "model_for"]

#: For each task, from the model's name to the registered name of its weights for this task. The
#: first is the default. A model that is not listed for a task is used as it is.
TASKS: dict[str, dict[str, str]] = {
    "infrared-visible": {"gaf": "gaf"},
    "medical": {"refusion": "refusion-medical"},
    "multi-focus": {"refusion": "refusion-multi-focus"},
    "multi-exposure": {"laplacian": "laplacian", "refusion": "refusion-multi-exposure"},
}


def model_for(
    task: str, model: str | os.PathLike[str] | nn.Module | None
) -> str | os.PathLike[str] | nn.Module:
    """What to load for a task.

    Parameters
    ----------
    task : str
        A key of `TASKS`.
    model : str, path, torch.nn.Module or None
        As `napari_busref.fuse` takes it; None is the task's default.

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
