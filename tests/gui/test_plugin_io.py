"""Sample data, reader and writer, the way napari itself calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import napari_busref
from napari_busref.transform import Transform

KEY = "napari-busref"


@pytest.mark.parametrize("key", ["thermal", "stain"])
def test_samples_open_and_are_guessed_right(viewer, panel, key):
    viewer.open_sample("napari-busref", key)
    fixed, moving = viewer.layers
    assert (panel.moving.value, panel.fixed.value) == (moving, fixed)
    truth = moving.metadata[KEY]["truth"]
    assert truth.fixed_shape == fixed.data.shape[:2]
    assert truth.moving_shape == moving.data.shape[:2]


def test_a_transform_goes_through_the_menus_and_back(viewer, panel, fake, qtbot, tmp_path):
    viewer.add_image(np.zeros((24, 36), np.uint8), name="vis", scale=(2, 3))
    viewer.add_image(np.ones((24, 36), np.uint8), name="ir", scale=(2, 3))
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        panel.run()
    for name in ("ir displacement", "ir warped"):
        path = tmp_path / f"{name}.busref.h5"
        layer = viewer.layers[name]
        assert layer.save(str(path), plugin="napari-busref") == [str(path)]
        assert Transform.load(path) == panel.result.registration.transform
    (opened,) = viewer.open(tmp_path / "ir displacement.busref.h5", plugin="napari-busref")
    original = viewer.layers["ir displacement"]
    assert opened != original
    np.testing.assert_array_equal(opened.scale, (2, 3))
    np.testing.assert_allclose(opened.data, original.data, atol=1e-4)
    assert opened.metadata[KEY]["transform"] == panel.result.registration.transform
    assert opened.metadata[KEY]["quality"] == panel.result.registration.quality


def test_a_file_of_another_program_is_refused_in_words(viewer, tmp_path):
    path = tmp_path / "other.busref.h5"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="no HDF5 file"):
        viewer.open(path, plugin="napari-busref")
    assert not viewer.layers


def test_opening_the_panel_does_not_load_torch(tmp_path):
    code = """
import sys
import napari
from npe2 import PluginManager, PluginManifest
manager = PluginManager.instance()
if "napari-busref" not in manager:
    manager.register(PluginManifest.from_file(sys.argv[1]))
viewer = napari.Viewer(show=False)
viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
print("torch" in sys.modules)
viewer.close()
"""
    source = Path(napari_busref.__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", code, str(source / "napari.yaml")],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(source.parent),
            "NAPARI_CONFIG": str(tmp_path / "settings.yaml"),
        },
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "False"
