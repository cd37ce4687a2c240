"""The documentation site builds strictly and without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import napari_busref

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(r'<(?:link|script|img)\b[^>]*(?:href|src)="(https?://[^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs napari-busref[docs]")
    pytest.importorskip("material", reason="needs napari-busref[docs]")
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs napari-busref[docs]")
    folder = tmp_path_factory.mktemp("site")
    unreachable = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    unknown = {"BUSREF_REPOSITORY": "", "GITHUB_REPOSITORY": ""}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **unreachable, **unknown, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def html(site: Path, page: str) -> str:
    return (site / page / "index.html").read_text("utf-8")


@pytest.mark.slow
def test_every_page_of_docs_is_built(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        made = page.relative_to(ROOT / "docs").with_suffix("")
        folder = made.parent if made.name in ("index", "README") else made
        assert (site / folder / "index.html").is_file(), page


@pytest.mark.slow
def test_every_public_name_has_its_docstring(site: Path) -> None:
    page = html(site, "reference/api")
    for name in set(napari_busref.__all__) - {"__version__", "carry_over"}:
        assert f'id="napari_busref.{name}"' in page, name
    assert "Parameters" in page and "Raises" in page


@pytest.mark.slow
def test_every_example_is_in_the_gallery(site: Path) -> None:
    page = html(site, "gallery")
    for script in (ROOT / "examples").glob("*.py"):
        assert f'id="{script.stem}"' in page and script.name in page


@pytest.mark.slow
def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not FETCHED.findall(page.read_text("utf-8")), page


@pytest.mark.slow
def test_changelog_and_contributing_are_pages(site: Path) -> None:
    assert "Set up" in html(site, "contributing") and "0.1.0" in html(site, "changelog")
