"""Load torch in a worker thread without blocking the window. Needs neither Qt nor a viewer."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["load_libraries"]

#: Modules that a run imports.
_NAMES = (
    "torch",
    "kornia",
    "pandas",
    "napari_busref.registration._register",
    "napari_busref.fusion._fuse",
)


def load_libraries() -> None:
    """Import torch and all other modules of a run; for worker threads.

    An import holds Python's lock while it loads a shared library. Those of torch take 0.25 s, or
    several seconds from a cold disk, and would block the window for as long. A call by ctypes
    releases the lock, so this loads the libraries by such calls first. On Windows, and where that
    fails, the import loads them.

    Raises
    ------
    ImportError
        When torch is not installed or broken.
    """
    if all(sys.modules.get(name) for name in _NAMES):
        return
    if "torch" not in sys.modules and hasattr(os, "RTLD_NOW"):
        _load_shared()
    with _without_garbage_collection():
        for name in _NAMES:
            importlib.import_module(name)


def _load_shared() -> None:
    """Load libtorch as ``torch/__init__.py`` does: shared dependencies first."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return
    folder = Path(found.origin).parent / "lib"
    suffix = "dylib" if sys.platform == "darwin" else "so"
    load = ctypes.CDLL(None).dlopen
    load.argtypes, load.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for name, scope in (("global_deps", os.RTLD_GLOBAL), ("python", os.RTLD_LOCAL)):
        path = folder / f"libtorch_{name}.{suffix}"
        if path.exists() and not load(os.fsencode(path), os.RTLD_NOW | scope):
            return  # the import searches more folders


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Suspend garbage collection, and exempt the new objects from it until `gc.unfreeze`.

    The imports make so many objects that Python would search all of the process several times.
    Each search takes 0.2 s, in which no thread works.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()
