"""The package: its page shows README.md away from the repository, and it runs as a module."""

from __future__ import annotations

import configparser
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://example.org/someone/napari-busref"


@pytest.fixture
def setup_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("busref_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUSREF_REPOSITORY", "GITHUB_REPOSITORY", "GITHUB_SERVER_URL", "GITHUB_SHA"):
        monkeypatch.delenv(name, raising=False)


def test_every_link_and_picture_of_the_package_page_is_absolute(
    setup_script: ModuleType, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSREF_REPOSITORY", f"{ADDRESS}/")
    page = setup_script.metadata()["long_description"]
    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert targets and all(target.startswith(("https://", "#")) for target in targets)
    assert f"({ADDRESS}/raw/main/docs/images/thermal.jpg)" in page
    assert f"({ADDRESS}/blob/main/docs/index.md)" in page


def test_github_names_the_repository_and_the_commit(
    setup_script: ModuleType, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://example.org")
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/napari-busref")
    monkeypatch.setenv("GITHUB_SHA", "abc123")
    metadata = setup_script.metadata()
    assert f"({ADDRESS}/raw/abc123/docs/images/napari.jpg)" in metadata["long_description"]
    assert metadata["project_urls"]["Source"] == ADDRESS


def test_without_a_repository_setup_cfg_alone_counts(
    setup_script: ModuleType, nowhere: None
) -> None:
    assert setup_script.metadata() == {}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["long_description"] == "file: README.md"


def test_the_module_runs_the_command_line() -> None:
    command = [sys.executable, "-m", "napari_busref", "--version"]
    done = subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("napari-busref ")


def test_every_dependency_has_a_floor_and_every_action_a_hash() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    tools = ("all", "benchmarks", "dev", "docs", "testing")
    lists = [config["options"]["install_requires"]]
    lists += [text for name, text in extras.items() if name not in tools]
    names = [line for text in lists for line in text.split()]
    assert names and all(re.fullmatch(r"[A-Za-z0-9-]+>=[\d.]+", name) for name in names), names
    for workflow in (ROOT / ".github" / "workflows").iterdir():
        uses = re.findall(r"uses: (.+)", workflow.read_text())
        assert uses and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", one) for one in uses)
