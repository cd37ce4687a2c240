"""The folder and the list of a user's own models.

The registry imports this module, which therefore does not import the registry.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from napari_busref.runtime.file_safety import read_text
from napari_busref.runtime.folders import VARIABLE, data_folder

__all__ = [
    "VARIABLE",
    "data_folder",
    "find_user_model",
    "list_user_models",
    "read_card",
    "user_models_folder",
]

NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _-]{0,62}[A-Za-z0-9])?")

REQUIRED_FIELDS: dict[str, Any] = {"kind": str, "architecture": str, "config": dict, "sha256": str}
"""Fields that every card has, and their types."""
_OPTIONAL_FIELDS: dict[str, Any] = {"data": (dict, list), "scores": dict}


def user_models_folder() -> Path:
    """Folder of the user's models, each a ``NAME.safetensors`` and a ``NAME.json``."""
    return data_folder() / "models"


def list_user_models(kind: str | None = None) -> list[str]:
    """Names of the user's models; files without a readable card are skipped.

    Parameters
    ----------
    kind : str, optional
        One of ``napari_busref.models.registry.KINDS``; all by default.
    """
    found = []
    for weights in sorted(user_models_folder().glob("*.safetensors")):
        card = _card(weights) if NAME_PATTERN.fullmatch(weights.stem) else None
        if card is not None and kind in (None, card["kind"]):
            found.append(weights.stem)
    return found


def find_user_model(name: str) -> Path | None:
    """Path of the weights of a user's model, or None for an unknown name."""
    if not NAME_PATTERN.fullmatch(name):
        return None
    path = user_models_folder() / f"{name}.safetensors"
    return path if path.is_file() else None


def read_card(path: Path) -> dict[str, Any]:
    """Read a card and check the fields that this package uses.

    Raises
    ------
    OSError, ValueError
        When it cannot be read, is no JSON, or lacks a field or its type.
    """
    try:
        content = json.loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if missing := set(REQUIRED_FIELDS) - set(content):
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    for name, types in (REQUIRED_FIELDS | _OPTIONAL_FIELDS).items():
        if name in content and not isinstance(content[name], types):
            raise ValueError(f"its {name} is {content[name]!r:.60}")
    return content


def _card(weights: Path) -> dict[str, Any] | None:
    try:
        return read_card(weights.with_suffix(".json"))
    except (OSError, ValueError):
        return None
