"""Loading torch and its like beside a window. Needs neither Qt nor a viewer."""

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

#: What a run imports sooner or later.
_NAMES = (
    "torch",
    "kornia",
    "pandas",
    "napari_busref.registration._register",
    "napari_busref.fusion._fuse",
)


def load_libraries() -> None:
    """Import torch and all else that a run needs, while the window works; for worker threads.

    Python lets no other thread work while an import loads a shared library. Those of torch take a
    quarter of a second, and several from a cold disk, in which the window would stand still. A
    call by ctypes lets others work, so they are loaded by such calls, and the import then finds
    them. On Windows, and where this fails, the import loads them itself.

    Raises
    ------
    ImportError
        When torch is not installed or broken.
    """
    if all(sys.modules.get(name) for name in _NAMES):
        return
    if "torch" not in sys.modules and hasattr(os, "RTLD_NOW"):
        _load_shared()
    with _no_search():
        for name in _NAMES:
            importlib.import_module(name)


def _load_shared() -> None:
    """Load libtorch as ``torch/__init__.py`` does: first what the others need, for all of them."""
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
            return  # the import looks in more places


@contextmanager
def _no_search() -> Iterator[None]:
    """Spare Python the search for garbage among objects that are made to stay.

    An import makes so many that all objects of the process would be searched several times, a
    fifth of a second each, in which no thread works; nor need what it has made be searched after
    it, until somebody calls `gc.unfreeze`.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()
