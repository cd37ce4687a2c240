"""The version of the installed package."""

from __future__ import annotations

from functools import cache


@cache
def package_version(distribution: str = "napari-busref") -> str:
    """Version of an installed distribution, ``"unknown"`` when it is not installed.

    Read on demand: ``importlib.metadata`` is slow to import.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


__version__ = package_version()
