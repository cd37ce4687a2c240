"""Files open only themselves, and declare no more memory than a limit."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from napari_busref.runtime.options import check_number

__all__ = [
    "Refused",
    "check_file",
    "check_inside",
    "check_size",
    "memory_budget",
    "memory_limited",
    "read_text",
]

#: Largest size that a file may declare, in GiB, unless an option or `_VARIABLE` says otherwise.
_DEFAULT = 2.0
_VARIABLE = "NAPARI_BUSREF_MEMORY"  # in GiB
_LIMIT: ContextVar[float | None] = ContextVar("memory_limit", default=None)


class Refused(ValueError):
    """A file that names another file, or declares too large a size; its text names the file."""


@contextmanager
def memory_limited(memory_limit: float | None) -> Iterator[None]:
    """Set the limit of declared sizes inside the body.

    Parameters
    ----------
    memory_limit : float, optional
        In GiB. None keeps the limit as it is.

    Raises
    ------
    ValueError
        When it is no positive number.
    """
    if memory_limit is None:
        yield
        return
    limit = check_number("memory_limit", memory_limit)
    if not limit > 0:
        raise ValueError(f"memory_limit: got {memory_limit!r}, need more than 0 GiB")
    token = _LIMIT.set(limit)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def memory_budget() -> int:
    """Return the limit in bytes: of `memory_limited`, else of NAPARI_BUSREF_MEMORY, else 2 GiB.

    Raises
    ------
    ValueError
        When the variable is no positive number of GiB.
    """
    given: float | str | None = _LIMIT.get()
    if given is None:
        given = os.environ.get(_VARIABLE, _DEFAULT)
    try:
        budget = float(given) * 2**30
    except ValueError:
        budget = 0.0
    if not budget > 0:
        raise ValueError(f"{_VARIABLE}: got {given!r}, need GiB as a positive number")
    return int(min(budget, 2.0**62))


def check_size(size: int, path: Path | str, what: str = "an array") -> None:
    """Refuse a declared size before memory is taken.

    Parameters
    ----------
    size : int
        In bytes.
    path : Path or str
        Named in the error.
    what : str
        What has this size.

    Raises
    ------
    Refused
        When it is above `memory_budget`.
    """
    budget = memory_budget()
    if not 0 <= size <= budget:
        raise Refused(
            f"path: {path} declares {what} of {size / 2**30:.3g} GiB, above the limit of "
            f"{budget / 2**30:.3g} GiB; memory_limit (--memory-limit) changes it"
        )


def check_file(path: Path, *, whole: bool = True) -> None:
    """Refuse what is no plain file of at most `memory_budget`: pipes and devices never end.

    Parameters
    ----------
    path : Path
    whole : bool
        Whether all of it is read. A file that is read in parts may have any size.

    Raises
    ------
    OSError
        When there is no such file, or it cannot be read.
    Refused
        When it is no plain file, or too large.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path} is a folder, need a file")
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"path: {path} is no plain file")
    if whole:
        check_size(status.st_size, path, "a file")


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Read the text of a plain file.

    Raises
    ------
    UnicodeDecodeError
        When it is no text.
    OSError, Refused
        As `check_file`.
    """
    check_file(path)
    return path.read_text(encoding)


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
    Refused
        When `part` is absolute, holds ``..``, or leads through a symbolic link.
    """
    names = part.split("/") if isinstance(part, str) else []
    unsafe = not names or "" in names or ".." in names or any(c in part for c in "\\:\0")
    inside = folder.joinpath(*names) if not unsafe else folder
    if unsafe or not inside.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"path: {path} names {part!r}, which lies outside the folder")
    step = folder
    for name in names:
        step = step / name
        if step.is_symlink():
            raise Refused(f"path: {path} holds a symbolic link, {part!r}, which is not followed")
    return inside
