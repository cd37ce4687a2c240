"""The documentation points at files that exist and shows code that runs."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npe2 import PluginManifest
from typer.main import get_command
from typer.testing import CliRunner

from napari_busref._cli.main import app
from napari_busref._napari.register.settings import PANEL_OPTIONS
from napari_busref.runtime.options import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "training" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_shown_exist_with_their_options(page: Path) -> None:
    group = get_command(app)
    shown = [
        line
        for _, block in BLOCK.findall(page.read_text("utf-8"))
        for line in block.splitlines()
        if line.startswith("napari-busref ")
    ]
    for line in shown:
        name, *arguments = shlex.split(line)[1:]
        if name.isupper() or name.startswith("-"):
            continue
        command = group.commands[name]  # type: ignore[attr-defined]
        known = {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word for word in arguments if word.startswith("-")}
        assert used <= known, line


def test_every_panel_has_its_calls_in_the_docs() -> None:
    page = (ROOT / "docs" / "reference" / "napari.md").read_text("utf-8")
    table = page.split("\n## From a script")[1].split("|---|---|---|\n")[1].split("\n\n")[0]
    rows = {row.split("|")[1].strip(): row.split("|")[3] for row in table.splitlines()}
    manifest = PluginManifest.from_file(ROOT / "src" / "napari_busref" / "napari.yaml")
    assert set(rows) == {widget.display_name for widget in manifest.contributions.widgets or ()}
    for cell in rows.values():
        names = re.findall(r"`([\w.]+)`", cell)
        assert names
        for name in names:
            module, _, function = name.rpartition(".")
            assert callable(getattr(import_module(module), function))


def test_make_targets_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    used = set(re.findall(r"make (demo|test|setup|pictures|\w+-\w+)", PAGES[0].read_text("utf-8")))
    assert {"demo", "test"} <= used <= targets


def test_the_model_of_the_docs_works(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_busref.models import registry

    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))  # forgotten afterwards
    page = (ROOT / "docs" / "how-to" / "add_a_model.md").read_text("utf-8")
    (code,) = [block for language, block in BLOCK.findall(page) if language == "python"]
    rng = np.random.default_rng(0)
    visible, infrared = rng.integers(0, 256, (2, 32, 40), dtype=np.uint8)
    visible[0, :2], infrared[0, :2] = (0, 255), (255, 0)  # both span the range
    names = {"visible": visible, "infrared": infrared}
    exec(code, names)
    np.testing.assert_allclose(
        names["fused"].astype(int), np.maximum(visible, infrared).astype(int), atol=1
    )


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for language, block in BLOCK.findall(PAGES[0].read_text("utf-8")) if language]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["found"].mask.shape == names["result"].fusion.fused.shape[:2]
    assert (tmp_path / "pair.busref.h5").is_file()


def test_unknown_commands_are_refused() -> None:
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2


def test_the_table_of_metrics_has_the_texts_of_the_panel() -> None:
    """The tooltips and the table of Compare explain each metric by the same line."""
    from napari_busref.metrics.alignment import ALIGNMENT_METRICS

    page = (ROOT / "docs" / "reference" / "napari.md").read_text("utf-8")
    for metric in ALIGNMENT_METRICS.values():
        better = "higher" if metric.higher_is_better else "lower"
        assert f"| {metric.title} | {better} | {metric.meaning} |" in page


def test_the_command_line_page_names_every_option_with_its_choices() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for command in get_command(app).commands.values():  # type: ignore[attr-defined]
        for one in getattr(command, "commands", {"": command}).values():
            names = [name for parameter in one.params for name in parameter.opts]
            missing = [
                name
                for name in names
                if name.startswith("--") and not re.search(rf"{name}(?![\w-])", page)
            ]
            assert not missing
    for option in OPTIONS.values():
        described = [row for row in rows if f"`--{option.name.replace('_', '-')}`" in row]
        for row in described:
            assert all(f"`{value}`" in row for value in option.values), option.name


def test_the_page_of_the_panels_has_a_row_for_every_setting() -> None:
    page = (ROOT / "docs" / "reference" / "napari.md").read_text("utf-8")
    table = page.split("\n### Settings")[1].split("\n### ")[0]
    for option in PANEL_OPTIONS:
        row = option.label if option.label[0].isupper() else "Outputs"
        assert f"\n| {row} |" in table, option.name


def test_menu_paths_of_panels_are_those_of_napari() -> None:
    """Several panels of a plugin are in a menu of its own."""
    manifest = PluginManifest.from_file(ROOT / "src" / "napari_busref" / "napari.yaml")
    assert len(manifest.contributions.widgets or ()) > 1
    titles = [widget.display_name for widget in manifest.contributions.widgets or ()]
    for page in PAGES:
        text = page.read_text("utf-8")
        for title in titles:
            assert f"Plugins › {title}" not in text, page.name
        for shown in re.findall(rf"Plugins › {manifest.display_name} › ([^*]+)\*\*", text):
            assert shown in titles
