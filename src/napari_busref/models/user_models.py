"""A user's own models: weights and cards in the data folder of the platform.

They are listed and loaded by name like the shipped models.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_busref.models.registry import list_models
from napari_busref.models.user_folder import (
    NAME_PATTERN,
    find_user_model,
    list_user_models,
    user_models_folder,
)
from napari_busref.models.weights import FOLDER, card, read_weights

__all__ = ["add_user_model", "check_name", "remove_user_model"]


def check_name(name: str) -> None:
    """Check the name of a user's model.

    Raises
    ------
    ValueError
        For a name that is not a valid file name everywhere, or that a shipped model has.
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"name: got {name!r}, need 1 to 64 letters, digits, blanks, - or _, "
            "a letter or a digit first and last"
        )
    if (FOLDER / f"{name}.safetensors").exists() or (
        name in list_models() and name not in list_user_models()
    ):
        raise ValueError(f"name: {name!r} is a model of this package; choose another")


def add_user_model(
    weights: str | Path,
    name: str,
    *,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Copy trained weights to the user's models.

    Parameters
    ----------
    weights : path
        A ``.safetensors`` file with its card beside it.
    name : str
        Name to list and load it by.
    facts : mapping, optional
        Entries to add to its card, or to replace there.
    overwrite : bool
        Replace a model of the same name.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    ValueError
        For an invalid or taken name, and for weights that lack or do not match their card.
    """
    check_name(name)
    content = card(Path(weights))
    read_weights(Path(weights), content)
    if find_user_model(name) is not None and not overwrite:
        raise ValueError(f"name: there is a model {name!r} already; remove it or choose another")
    folder = user_models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.safetensors"
    partial = target.with_suffix(".partial")
    shutil.copyfile(weights, partial)
    # the card last: without a matching card, weights are not listed or do not load
    partial.replace(target)
    text = json.dumps(content | dict(facts or {}) | {"name": name}, indent=1) + "\n"
    partial.write_text(text, "utf-8")
    partial.replace(target.with_suffix(".json"))
    return target


def remove_user_model(name: str) -> None:
    """Delete one of the user's models.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    path = find_user_model(name)
    if path is None:
        known = ", ".join(list_user_models()) or "none"
        raise ValueError(f"name: got {name!r}, your models are: {known}")
    path.unlink()
    path.with_suffix(".json").unlink(missing_ok=True)
