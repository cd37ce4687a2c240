"""The version of the installed package."""

from __future__ import annotations

from functools import cache


@cache
def package_version(distribution: str = "napari-busref") -> str:
    """Return the version of an installed distribution, else ``"unknown"``.

    Imported on demand: ``importlib.metadata`` is slow to import.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


__version__ = package_version()
