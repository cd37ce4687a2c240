"""Loading torch without blocking the window."""

from __future__ import annotations

import subprocess
import sys

import pytest

from napari_busref._napari.register import loading


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_the_libraries_are_there_before_the_import():
    code = """
import sys
from pathlib import Path
from napari_busref._napari.register import loading
def loaded():
    return "libtorch_python" in Path("/proc/self/maps").read_text()
print(loaded(), "torch" in sys.modules)
loading._load_shared()
print(loaded(), "torch" in sys.modules)
loading.load_libraries()
import torch
print(float(torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)).sum()))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["False", "False", "True", "False", "36.0"]


def test_without_libraries_the_import_does_it(monkeypatch, tmp_path):
    class Elsewhere:
        origin = str(tmp_path / "torch" / "__init__.py")

    (tmp_path / "torch" / "lib").mkdir(parents=True)
    (tmp_path / "torch" / "lib" / "libtorch_global_deps.so").write_text("no library")
    for spec in (None, Elsewhere):
        monkeypatch.setattr(loading.importlib.util, "find_spec", lambda _, spec=spec: spec)
        loading._load_shared()
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ImportError):
        loading.load_libraries()
