"""The groups of this plugin in napari's Preferences. Needs neither Qt nor a viewer."""

from __future__ import annotations

from typing import Any

__all__ = ["stored_group"]

_PLUGIN = "napari-busref"


def stored_group(name: str) -> Any:
    """Return the evented model that napari makes of a group of the manifest's configurations.

    Parameters
    ----------
    name : str
        Key of the group.

    Returns
    -------
    model or None
        None where the manifest is not installed, and before napari 0.9.
    """
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        return None
    try:
        return getattr(get_plugin_settings(_PLUGIN), name, None)
    except KeyError:  # the plugin is not installed, or switched off
        return None
