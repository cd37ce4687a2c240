"""Places of images: local paths and URLs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

__all__ = [
    "exists",
    "holds_images",
    "is_ome_zarr",
    "is_url",
    "local_path",
    "open_url",
    "stem",
    "to_uri",
]

# two letters at least: C:/ is a drive; pathlib leaves one of two slashes
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}", re.IGNORECASE)


def to_uri(path: str | os.PathLike[str]) -> str:
    """Return a local path without ``file://``, or a URL, also of a `pathlib.Path` of one."""
    text = os.fspath(path)
    found = _SCHEME.match(text)
    if not found:
        return text
    scheme, rest = found[1].lower(), text[found.end() :]
    return f"/{rest}" if scheme == "file" and os.name == "posix" else f"{scheme}://{rest}"


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether fsspec must open it, because it is no local path."""
    return bool(_SCHEME.match(to_uri(path)))


def local_path(path: str | os.PathLike[str]) -> Path | None:
    """Return the local path; None for a URL."""
    return None if is_url(path) else Path(to_uri(path))


def is_ome_zarr(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an OME-Zarr image, which is a folder."""
    return to_uri(path).rstrip("/").lower().endswith(".zarr")


def exists(path: Path) -> bool:
    """Whether there is such a local path; a URL is only tried when it is opened."""
    return is_url(path) or path.exists()


def holds_images(path: Path) -> bool:
    """Whether it is a folder of images, and not an OME-Zarr, which is one."""
    return path.is_dir() and not is_ome_zarr(path)


def stem(path: Path) -> str:
    """The name without its extension: ``a`` of ``a.tif`` and of ``a.ome.zarr``."""
    return path.stem.removesuffix(".ome") if is_ome_zarr(path) else path.stem


def open_url(uri: str) -> Any:
    """Open the file at a URL, through fsspec.

    Raises
    ------
    ModuleNotFoundError
        Without fsspec (``napari-busref[large]``), or its package for such a URL.
    OSError
        When it cannot be read.
    """
    try:
        import fsspec
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"path: {uri} needs fsspec: pip install 'napari-busref[large]'", name="fsspec"
        ) from None
    try:
        return fsspec.open(uri, "rb").open()
    except ImportError as error:  # fsspec names the package, such as s3fs
        raise ModuleNotFoundError(f"path: {uri}: {error}") from None
