"""Files open only themselves, and no more memory than a budget."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["MEMORY_BUDGET", "check_inside", "check_size", "memory_budget"]

#: Largest array that a file may declare, in bytes, unless NAPARI_BUSREF_MEMORY says otherwise.
MEMORY_BUDGET = 2 << 30
_VARIABLE = "NAPARI_BUSREF_MEMORY"  # in GiB


def memory_budget() -> int:
    """Return the budget in bytes; the environment variable NAPARI_BUSREF_MEMORY sets GiB.

    Raises
    ------
    ValueError
        When the variable is no positive number.
    """
    given = os.environ.get(_VARIABLE)
    if given is None:
        return MEMORY_BUDGET
    try:
        budget = float(given) * 2**30
    except ValueError:
        budget = 0.0
    if not budget > 0:
        raise ValueError(f"{_VARIABLE}: got {given!r}, need GiB as a positive number")
    return int(min(budget, 2.0**62))


def check_size(size: int, path: Path, what: str = "an array") -> None:
    """Refuse a declared size before memory is taken.

    Parameters
    ----------
    size : int
        In bytes.
    path : Path
        Named in the error.
    what : str
        What has this size.

    Raises
    ------
    ValueError
        When it is above `memory_budget`.
    """
    budget = memory_budget()
    if not 0 <= size <= budget:
        raise ValueError(
            f"path: {path} declares {what} of {size / 2**30:.3g} GiB, above the budget of "
            f"{budget / 2**30:.3g} GiB, which the environment variable {_VARIABLE} changes"
        )


def check_inside(folder: Path, part: str, path: Path) -> Path:
    """Return a path within a folder that a file names, and refuse any other.

    Parameters
    ----------
    folder : Path
        Its absolute path may hold symbolic links; nothing below may.
    part : str
        Relative path, with ``/``.
    path : Path
        The file, named in the error.

    Raises
    ------
    ValueError
        When `part` is absolute, holds ``..``, or leads through a symbolic link.
    """
    names = part.split("/") if isinstance(part, str) else []
    unsafe = not names or "" in names or ".." in names or "\\" in part or ":" in part
    inside = folder.joinpath(*names) if not unsafe else folder
    if unsafe or not inside.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"path: {path} names {part!r}, which lies outside the folder")
    step = folder
    for name in names:
        step = step / name
        if step.is_symlink():
            raise ValueError(
                f"path: {path} holds a symbolic link, {part!r}, which is not followed"
            )
    return inside
