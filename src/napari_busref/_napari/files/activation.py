"""Set-up when napari first uses this plugin in a session."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["OWN_FILES", "prefer_own_reader"]

#: Names of files that only this plugin writes; napari's reader, too, accepts the extensions.
OWN_FILES = ("*.busref.h5", "*.busref.ome.zarr")


def prefer_own_reader(context: Any = None) -> None:
    """Make napari open this plugin's files without a choice of reader.

    A choice that the user made in File › Preferences › Plugins stays.

    Parameters
    ----------
    context : object
        Given by npe2, unused.
    """
    if "napari" not in sys.modules:  # npe2 also runs without napari
        return
    from napari.settings import get_settings

    plugins = get_settings().plugins
    # napari appends a separator to the names of folders
    patterns = [f"{name}*" if name.endswith("zarr") else name for name in OWN_FILES]
    missing = {name: "napari-busref" for name in patterns if name not in plugins.extension2reader}
    if missing:
        plugins.extension2reader = {**plugins.extension2reader, **missing}
