"""What is done when napari uses this plugin for the first time in a session."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["OWN_FILES", "prefer_own_reader"]

#: Names of files that nobody else writes. napari's own reader takes ``*.h5`` and ``*.zarr``, too.
OWN_FILES = ("*.busref.h5", "*.busref.ome.zarr")


def prefer_own_reader(context: Any = None) -> None:
    """Let napari open the files of this plugin without asking which reader to take.

    It stands in File › Preferences › Plugins, and what the user has chosen there is kept.

    Parameters
    ----------
    context : object
        Given by npe2, not used.
    """
    if "napari" not in sys.modules:  # npe2 is also used without it
        return
    from napari.settings import get_settings

    plugins = get_settings().plugins
    # napari looks up folders with a separator at the end
    patterns = [f"{name}*" if name.endswith("zarr") else name for name in OWN_FILES]
    missing = {name: "napari-busref" for name in patterns if name not in plugins.extension2reader}
    if missing:
        plugins.extension2reader = {**plugins.extension2reader, **missing}
