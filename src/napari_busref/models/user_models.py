"""A user's own models: weights with their cards in a folder of the platform's data directory.

Their names are offered and loaded like those of the shipped models.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

__all__ = [
    "add_user_model",
    "check_name",
    "data_folder",
    "find_user_model",
    "list_user_models",
    "remove_user_model",
    "user_models_folder",
]

VARIABLE = "NAPARI_BUSREF_DATA"
"""Environment variable that names another data folder, such as one that a group shares."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _-]{0,62}[A-Za-z0-9])?")
_NEEDED = {"kind", "architecture", "config", "sha256"}


def data_folder() -> Path:
    """Where this package keeps what a user made: models and unfinished trainings.

    The folder of the platform, such as ``~/.local/share/napari-busref``, or what the environment
    variable ``NAPARI_BUSREF_DATA`` says. It need not exist.
    """
    given = os.environ.get(VARIABLE)
    return Path(given) if given else platformdirs.user_data_path("napari-busref", appauthor=False)


def user_models_folder() -> Path:
    """The folder of the user's models: ``NAME.safetensors`` and ``NAME.json`` each."""
    return data_folder() / "models"


def list_user_models(kind: str | None = None) -> list[str]:
    """Names of the user's models; files without a readable card are passed over.

    Parameters
    ----------
    kind : str, optional
        One of ``napari_busref.models.registry.KINDS``; all by default.
    """
    found = []
    for weights in sorted(user_models_folder().glob("*.safetensors")):
        card = _card(weights) if _NAME.fullmatch(weights.stem) else None
        if card is not None and kind in (None, card["kind"]):
            found.append(weights.stem)
    return found


def find_user_model(name: str) -> Path | None:
    """The weights of one of the user's models, or None when there is none of that name."""
    if not _NAME.fullmatch(name):
        return None
    path = user_models_folder() / f"{name}.safetensors"
    return path if path.is_file() else None


def check_name(name: str) -> None:
    """Refuse a name that a user's model cannot have.

    Raises
    ------
    ValueError
        When it could not be a file's name everywhere, or a model of this package has it.
    """
    from napari_busref.models.registry import list_models
    from napari_busref.models.weights import FOLDER

    if not isinstance(name, str) or not _NAME.fullmatch(name):
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
    from napari_busref.models.weights import card, read_weights

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


def _card(weights: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(weights.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and set(content) >= _NEEDED else None
