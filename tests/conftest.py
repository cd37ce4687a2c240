from __future__ import annotations

import faulthandler
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the tests that run a network")
    parser.addoption(
        "--require-gui",
        action="store_true",
        help="fail, rather than skip, where the gui tests cannot run (for CI)",
    )


def _why_no_gui() -> str | None:
    """The reason why tests that open windows cannot run here, or None."""
    if importlib.util.find_spec("napari") is None:
        return "napari is not installed (pip install 'napari-busref[all]')"
    bindings = ("PyQt6", "PySide6", "PyQt5", "PySide2")
    if not any(importlib.util.find_spec(name) for name in bindings):
        return "no Qt binding is installed (pip install 'napari-busref[all]')"
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "no display (run the tests under xvfb-run)"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gui = [item for item in items if "gui" in item.keywords]
    reason = _why_no_gui()
    if not gui or reason is None:
        return
    if config.getoption("--require-gui"):
        raise pytest.UsageError(f"--require-gui: {reason}")
    for item in gui:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Durations that a test learns do not get into the user's cache."""
    name = "napari_busref.runtime.durations.cache_folder"
    monkeypatch.setattr(name, lambda: tmp_path / "cache")


@pytest.fixture
def no_hang() -> Iterator[None]:
    """A test that takes over five minutes prints where it is, and ends the run."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device given by --device; skips where this machine has none such."""
    import torch

    name = str(request.config.getoption("--device"))
    kind = torch.device(name).type
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    if kind == "mps" and not torch.backends.mps.is_available():
        pytest.skip("torch finds no MPS device")
    return name


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of research data beside the checkout; skips where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the research data in {folder}, which is not part of the repository")
    return folder
