"""The plugin manifest, without Qt."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

npe2 = pytest.importorskip("npe2")
pytest.importorskip("napari")

import napari_busref  # noqa: E402

MANIFEST = Path(napari_busref.__file__).with_name("napari.yaml")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def manifest():
    return npe2.PluginManifest.from_file(MANIFEST)


def test_manifest_is_valid_and_named_like_the_distribution(manifest):
    assert manifest.name == "napari-busref"
    assert manifest.categories[0] == "Registration"
    result = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", str(MANIFEST)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "valid" in result.stdout


def test_top_level_manifest_is_the_packaged_one():
    assert (ROOT / "napari.yaml").read_text() == MANIFEST.read_text()


def test_every_command_is_prefixed_and_can_be_imported(manifest):
    commands = manifest.contributions.commands
    assert len({command.id for command in commands}) == len(commands) >= 5
    for command in commands:
        assert command.id.startswith("napari-busref.")
        module, name = command.python_name.split(":")
        assert callable(getattr(importlib.import_module(module), name)), command.python_name


def test_every_command_is_used_and_every_use_is_a_command(manifest):
    contributions = manifest.contributions
    used = {
        item.command
        for kind in ("widgets", "readers", "writers", "sample_data")
        for item in getattr(contributions, kind)
    }
    for items in contributions.menus.values():
        used |= {item.command for item in items}
    assert used == {command.id for command in contributions.commands}


def test_menus_are_open_to_plugins(manifest):
    from napari._app_model.constants import MenuId

    # npe2 and napari silently drop items of other menus
    allowed = {str(menu.value) for menu in MenuId.contributables()}
    assert set(manifest.contributions.menus) <= allowed
    assert "napari/layers/register" in manifest.contributions.menus


def test_reader_and_writers_leave_the_files_of_others_alone(manifest):
    from napari_busref._napari.files.activation import OWN_FILES
    from napari_busref.transforms.formats.files import WRITABLE

    reader, images = manifest.contributions.readers
    assert reader.filename_patterns == list(OWN_FILES)
    # a pattern that napari's reader also claims makes napari ask which one to take
    assert images.filename_patterns == ["*.czi"]
    for writer in manifest.contributions.writers:
        extensions = set(writer.filename_extensions)
        if writer.command.startswith("napari-busref.write_ome_"):
            assert extensions == {".ome.tif", ".ome.tiff"}
        elif writer.layer_types == ["vectors"]:
            assert extensions <= set(WRITABLE)
        else:  # an image layer would be saved in these as an image
            assert extensions == {".busref.h5"}


def test_every_command_is_found_without_qt(manifest):
    """Readers, writers and samples import without Qt; panels are checked by their source."""
    contributions = manifest.contributions
    panels = {widget.command for widget in contributions.widgets}
    names = {command.id: command.python_name for command in contributions.commands}
    code = """
import importlib, sys
class NoQt:
    def find_spec(self, name, path=None, target=None):
        if name in ("qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6"):
            raise ModuleNotFoundError(f"no Qt here: {name}", name=name)
sys.meta_path.insert(0, NoQt())
for name in sys.argv[1:]:
    module, attribute = name.split(":")
    assert callable(getattr(importlib.import_module(module), attribute)), name
"""
    imported = [name for command, name in names.items() if command not in panels]
    result = subprocess.run(
        [sys.executable, "-c", code, *imported],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert result.returncode == 0, result.stderr
    for command in panels:
        module, attribute = names[command].split(":")
        path = MANIFEST.parents[1].joinpath(*module.split(".")).with_suffix(".py")
        defined = {
            node.name
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert attribute in defined, names[command]


def test_discovering_the_manifest_loads_nothing_heavy():
    code = (
        "import sys; from npe2 import PluginManifest; import napari_busref;"
        f"PluginManifest.from_file({str(MANIFEST)!r});"
        "print([m for m in ('torch', 'napari', 'qtpy') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
    ).stdout
    assert output.strip() == "[]"


def test_layers_and_files_need_neither_qt_nor_torch():
    code = (
        "import sys;"
        "import napari_busref._napari.layers.pair, napari_busref._napari.register.result_layers;"
        "import napari_busref._napari.files.transform_io, napari_busref._napari.files.sample_data;"
        "print([m for m in ('torch', 'qtpy') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
    ).stdout
    assert output.strip() == "[]"


def _environment():
    import os

    source = str(Path(napari_busref.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source}


def test_napari_need_not_ask_which_reader_to_take(monkeypatch, manifest):
    """napari's own reader also takes ``*.h5``; the user's choices stay."""
    from napari import settings

    from napari_busref._napari.files.activation import prefer_own_reader

    own = settings.NapariSettings(config_path=None)
    monkeypatch.setattr(settings, "_SETTINGS", own)
    own.plugins.extension2reader = {"*.busref.ome.zarr*": "napari", "*.tif": "other"}
    prefer_own_reader()
    assert own.plugins.extension2reader == {
        "*.busref.h5": "napari-busref",
        "*.busref.ome.zarr*": "napari",
        "*.tif": "other",
    }
    assert str(manifest.on_activate) == f"{prefer_own_reader.__module__}:prefer_own_reader"
