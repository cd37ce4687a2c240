"""One run at a time writes to a folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_busref.runtime.atomic_write import holders, process_name

__all__ = ["held"]

_BEAT = 20.0  # s between two signs of life of a run


@contextmanager
def held(folder: Path, label: str = "all", argument: str = "--output") -> Iterator[None]:
    """Hold an output folder: no second run of the same work may write into it.

    What a killed run held is free again: at once on the same computer, after 2 minutes elsewhere.

    Parameters
    ----------
    folder : Path
    label : str
        ``"all"``, or a part such as ``"2of8"``; different parts of one division may share it.
    argument : str
        Named in the error.

    Raises
    ------
    BlockingIOError
        When another run holds it.
    """
    own = folder / f"{process_name()}lock-{label}"
    taken = f"{argument}: another run ({{}}) writes to {folder}; wait, or choose another name"
    try:
        own.mkdir()
    except FileExistsError:  # in another thread
        raise BlockingIOError(taken.format(_owner(own))) from None
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(own, stop), daemon=True)
    try:
        for other in holders(folder):
            theirs = other.name.rpartition("-")[2]
            if other != own and not _may_share(label, theirs):
                raise BlockingIOError(taken.format(_owner(other)))
        beat.start()
        yield
    finally:
        stop.set()
        own.rmdir()


def _owner(lock: Path) -> str:
    host, number = lock.name.split("-")[-4:-2]
    return f"process {number} of {host}"


def _beat(own: Path, stop: threading.Event) -> None:
    while not stop.wait(_BEAT):
        try:
            os.utime(own)
        except OSError:  # removed, or out of reach for a while
            continue


def _may_share(one: str, other: str) -> bool:
    return one != other and "of" in one and one.partition("of")[2] == other.partition("of")[2]
