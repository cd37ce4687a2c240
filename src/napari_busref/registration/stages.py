"""The stages of a registration and their expected durations. Imports no torch."""

from __future__ import annotations

import os
from typing import Any

from napari_busref.models.registry import is_auto
from napari_busref.runtime.durations import Stage, pixels_of, stage

__all__ = ["registration_stages"]


def registration_stages(
    fixed: Any,
    model: Any = "auto",
    search: str | None = None,
    refine: str | None = None,
    device: Any = "auto",
) -> list[Stage]:
    """The stages that `napari_busref.register` is expected to have.

    Parameters
    ----------
    fixed : array_like or tuple of int
        The fixed image, or its shape.
    model, search, refine, device
        As given to `napari_busref.register`.
    """
    auto = is_auto(model)
    search = search or ("auto" if auto else "none")
    refine = refine or ("dense" if auto else "none")
    place = "" if str(device) == "auto" else str(device)
    names = [("read", ""), ("load", place)]
    if search == "wide":
        names.append(("search wide", place))
    else:
        if search == "near":  # "auto" searches only where its first proposal is not confirmed
            names.append(("search near", place))
        names.append(("propose", place if auto else f"{_name(model)} {place}".strip()))
        if auto or search != "none":
            names.append(("compare", place))
    if refine != "none":
        names.append(("refine", place if refine == "dense" else f"{refine} {place}".strip()))
    names += [("cross-check", place), ("assess", ""), ("resample", "")]
    pixels = pixels_of(fixed)
    return [stage(name, pixels, kind=kind) for name, kind in names]


def _name(model: Any) -> str:
    return str(model) if isinstance(model, str | os.PathLike) else type(model).__name__
