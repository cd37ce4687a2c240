"""A user's own models: weights with their cards in a folder of the platform's data directory.

Their names are offered and loaded like those of the shipped models.
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
    """Refuse a name that a user's model cannot have.

    Raises
    ------
    ValueError
        When it could not be a file's name everywhere, or a model of this package has it.
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
    """Keep a copy of trained weights as one of the user's models.

    Parameters
    ----------
    weights : path
        A ``.safetensors`` file with its card beside it.
    name : str
        By which it is then offered and loaded.
    facts : mapping, optional
        What its card is to say beyond, or instead of, what it says.
    overwrite : bool
        Replace one of the same name.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    ValueError
        For a name that is taken or cannot be, weights without a card or not those of their card.
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
    # the card last: without the right one, weights are not offered or refused
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
        When there is none of that name.
    """
    path = find_user_model(name)
    if path is None:
        known = ", ".join(list_user_models()) or "none"
        raise ValueError(f"name: got {name!r}, your models are: {known}")
    path.unlink()
    path.with_suffix(".json").unlink(missing_ok=True)
