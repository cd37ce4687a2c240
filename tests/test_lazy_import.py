from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import napari_busref

HEAVY = ("torch", "napari", "qtpy", "PyQt6", "scipy", "skimage", "h5py", "numpy", "kornia")


def loaded_after(code):
    """Which of the heavy packages a fresh interpreter has loaded after running code."""
    probe = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return ast.literal_eval(run.stdout.splitlines()[-1])


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))


def test_import_loads_nothing_heavy():
    assert loaded_after("import napari_busref") == []
    assert (
        loaded_after("import napari_busref; napari_busref.__version__; dir(napari_busref)") == []
    )


@pytest.mark.parametrize(
    "name",
    [
        "transforms.transform",
        "images.preprocess",
        "runtime.progress",
        "registration.quality",
        "registration",
        "fusion",
        "pipeline",
        "runtime.device",
    ],
)
def test_modules_without_torch(name):
    loaded = loaded_after(f"import napari_busref.{name}")
    assert not {"torch", "napari", "qtpy", "PyQt6", "kornia"} & set(loaded)


def test_the_table_of_options_loads_nothing_heavy():
    assert loaded_after("import napari_busref.runtime.options") == []


@pytest.mark.parametrize("name", napari_busref.__all__)
def test_every_public_name_is_there(name):
    value = getattr(napari_busref, name)
    assert name in dir(napari_busref)
    if name != "__version__":
        assert value.__module__.startswith("napari_busref.")
        assert value.__doc__


def test_all_names_without_napari():
    code = (
        "import importlib.util as u, sys; find = u.find_spec; sys.modules['napari'] = None\n"
        "u.find_spec = lambda name, *rest: None if name == 'napari' else find(name, *rest)\n"
        "from napari_busref import *; register, fuse, Transform"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name():
    with pytest.raises(AttributeError, match="No napari_busref attribute nonsense"):
        napari_busref.nonsense  # noqa: B018
