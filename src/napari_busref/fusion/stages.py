"""The stages of a fusion and their expected durations. Imports no torch."""

from __future__ import annotations

import os
from typing import Any

from napari_busref.fusion.tasks import model_for
from napari_busref.runtime.durations import Stage, pixels_of, stage

__all__ = ["fusion_stages"]


def fusion_stages(
    fixed: Any, model: Any = None, task: str = "infrared-visible", device: Any = "auto"
) -> list[Stage]:
    """The stages of `napari_busref.fuse`.

    Parameters
    ----------
    fixed : array_like or tuple of int
        The fixed image, or its shape.
    model, task, device
        As given to `napari_busref.fuse`.
    """
    named = model is None or isinstance(model, str | os.PathLike)
    try:
        name = str(model_for(task, model)) if named else type(model).__name__
    except ValueError:  # `fuse` says what is wrong
        name = str(model)
    place = "" if str(device) == "auto" else str(device)
    pixels = pixels_of(fixed)
    return [
        stage("fusion read", pixels),
        stage("fusion load", kind=f"{name} {place}".strip()),
        stage(f"fuse {name}", pixels, kind=place),
        stage("compose", pixels),
    ]
