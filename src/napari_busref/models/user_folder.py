"""Where a user's own models lie, and which there are.

Nothing here imports the registry, so that the registry can list them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import platformdirs

__all__ = ["data_folder", "find_user_model", "list_user_models", "user_models_folder"]

VARIABLE = "NAPARI_BUSREF_DATA"
"""Environment variable that names another data folder, such as one that a group shares."""


NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _-]{0,62}[A-Za-z0-9])?")


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
        card = _card(weights) if NAME_PATTERN.fullmatch(weights.stem) else None
        if card is not None and kind in (None, card["kind"]):
            found.append(weights.stem)
    return found


def find_user_model(name: str) -> Path | None:
    """The weights of one of the user's models, or None when there is none of that name."""
    if not NAME_PATTERN.fullmatch(name):
        return None
    path = user_models_folder() / f"{name}.safetensors"
    return path if path.is_file() else None


def _card(weights: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(weights.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and set(content) >= _NEEDED else None
