"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "check_writable",
    "holders",
    "own_process",
    "process_name",
    "remove_leftovers",
    "replacing",
]

_PREFIX = ".napari-busref-"
_DAY = 86_400.0  # seconds
_FULL = 65_536  # bytes; a disk with less room is full
_SILENT = 120.0  # seconds without a sign of life of another computer


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written, before the work that makes its content.

    Parameters
    ----------
    path : path-like
        A file to write, or an existing folder to write files into. Nothing is left behind.

    Raises
    ------
    OSError
        ``FileNotFoundError``, ``NotADirectoryError`` or ``PermissionError`` that names the
        folder or the file.
    """
    target = Path(path)
    folder = target if target.is_dir() else target.parent
    if not folder.exists():
        raise FileNotFoundError(f"folder {folder} of {target.name} does not exist")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, need a folder to write {target.name} into")
    if target.is_file() and not os.access(target, os.W_OK):
        raise PermissionError(f"file {target} exists and cannot be written")
    try:
        # permissions alone do not reveal a read-only or full file system
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(f"folder {folder} cannot be written: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that replaces `path` when the body ends without an error.

    It has the same name, in a temporary folder beside `path`: programs choose a format by the
    whole extension, such as ``.nii.gz``.

    Raises
    ------
    OSError
        When there is no space left, in the same words from every library.
    """
    check_writable(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=process_name()) as folder:
        temporary = Path(folder) / path.name
        try:
            yield temporary
        except (OSError, RuntimeError) as error:
            # numpy says "9216 requested and 7936 written", HDF5 a page of text
            if shutil.disk_usage(folder).free > _FULL:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        temporary.replace(path)


def process_name() -> str:
    """How the names of temporary folders begin: with this computer and this process."""
    return f"{_PREFIX}{_host()}-{os.getpid()}-"


def holders(folder: Path) -> list[Path]:
    """The folders ``…lock-*`` in `folder` whose processes still run, and touch them."""
    return [path for path in folder.glob(f"{_PREFIX}*-lock-*") if _in_use(path, _SILENT)]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders that killed processes left in a folder.

    Those of a process that may still run stay: of this computer as long as it has that number,
    of others for a day.
    """
    for left in folder.glob(f"{_PREFIX}*"):
        if not left.is_symlink() and not _in_use(left):
            shutil.rmtree(left, ignore_errors=True)


def _host() -> str:
    return re.sub("[^A-Za-z0-9]", "", platform.node())


def own_process(left: Path) -> int | None:
    """Number of the process of this computer that a temporary folder's name names, if any."""
    host, _, rest = left.name.removeprefix(_PREFIX).partition("-")
    number = rest.partition("-")[0]
    return int(number) if host == _host() and number.isdecimal() else None


def _in_use(left: Path, silent: float = _DAY) -> bool:
    number = own_process(left)
    if number is not None and os.name == "posix":
        try:
            os.kill(number, 0)  # only finds out whether there is one
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:
            return True
        return True
    try:
        return time.time() - left.stat().st_mtime < silent
    except OSError:
        return False
