"""Writing files whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_busref.images.io import check_writable

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path of the same name, in a folder beside, that becomes `path` if all goes well.

    Unlike a file with another name it keeps double extensions, which programs choose formats by.
    """
    check_writable(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".napari-busref-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)
