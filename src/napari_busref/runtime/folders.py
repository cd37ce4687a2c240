"""Folders of the user: for models and trainings, and for what may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["VARIABLE", "cache_folder", "data_folder"]

VARIABLE = "NAPARI_BUSREF_DATA"
"""Environment variable with another data folder, for example a shared one."""


def data_folder() -> Path:
    """Folder of the user's models and unfinished trainings; it need not exist.

    The environment variable ``NAPARI_BUSREF_DATA``, or else the folder of the platform, such as
    ``~/.local/share/napari-busref``.
    """
    given = os.environ.get(VARIABLE)
    return Path(given) if given else platformdirs.user_data_path("napari-busref", appauthor=False)


def cache_folder() -> Path:
    """Folder of the learned durations; it need not exist.

    A folder of ``NAPARI_BUSREF_DATA``, or else that of the platform, such as
    ``~/.cache/napari-busref``.
    """
    if os.environ.get(VARIABLE):
        return data_folder() / "cache"
    return platformdirs.user_cache_path("napari-busref", appauthor=False)
