"""Sample data, reader and writer, as napari calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import napari_busref
from napari_busref import ImageGrid, read_image, read_transform, write_transform
from napari_busref._napari.widgets.pair_chooser import PairChooser
from napari_busref.transforms.transform import Transform

KEY = "napari-busref"


@pytest.mark.parametrize("key", ["thermal", "stain"])
def test_samples_open_and_are_guessed_right(viewer, panel, key):
    viewer.open_sample("napari-busref", key)
    fixed, moving = viewer.layers
    assert (panel.moving.value, panel.fixed.value) == (moving, fixed)
    truth = moving.metadata[KEY]["truth"]
    assert truth.fixed_shape == fixed.data.shape[:2]
    assert truth.moving_shape == moving.data.shape[:2]


@pytest.fixture
def readers_of_napari(npe2pm):
    """napari's own readers, which take ``*.h5`` and ``*.zarr`` too."""
    import napari_builtins
    from npe2 import PluginManifest

    path = Path(napari_builtins.__file__).with_name("builtins.yaml")
    with npe2pm.tmp_plugin(manifest=PluginManifest.from_file(path)):
        yield


@pytest.fixture
def pair(viewer):
    """A fixed and a moving layer in micrometres, and the transform between them."""
    fixed = viewer.add_image(
        np.arange(24 * 36, dtype=np.uint8).reshape(24, 36),
        name="vis",
        scale=(2, 3),
        translate=(5, -7),
        units=("um", "um"),
    )
    moving = viewer.add_image(
        np.ones((16, 24), np.uint8), name="ir", scale=(3, 4.5), units=("um", "um")
    )
    field = np.random.default_rng(0).normal(size=(2, 24, 36))
    affine = [[0.5, 0.05, 0.5], [-0.05, 0.5, 1.0], [0, 0, 1]]
    return fixed, moving, Transform(affine, field, fixed_shape=(24, 36), moving_shape=(16, 24))


GRIDS = {
    "fixed": ImageGrid((24, 36), (2.0, 3.0), (5.0, -7.0), unit="um"),
    "moving": ImageGrid((16, 24), (3.0, 4.5), unit="um"),
}


def drop(viewer, path):
    """Drop a file onto the canvas, as from a file browser."""
    from qtpy.QtCore import QMimeData, QPoint, Qt, QUrl
    from qtpy.QtGui import QDropEvent
    from qtpy.QtWidgets import QApplication

    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPoint(5, 5).toPointF(),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    (target,) = (one for one in QApplication.allWidgets() if type(one).__name__ == "QtViewer")
    target.dropEvent(event)


@pytest.mark.parametrize("name", ["pair.busref.h5", "pair.busref.ome.zarr"])
def test_transforms_go_through_open_save_and_drop(
    viewer, panel, pair, readers_of_napari, name, tmp_path, notes
):
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="needs napari-busref[large]")
    fixed, _, transform = pair
    path = tmp_path / name
    write_transform(path, transform, **GRIDS, metadata={"fixed": "vis", "moving": "ir"})
    (opened,) = viewer.open(path, plugin=None)
    drop(viewer, path)
    assert len(viewer.layers) == 4
    assert opened.name == "pair"
    np.testing.assert_allclose(
        opened.metadata[KEY]["transform"].displacement, transform.displacement, atol=1e-5
    )
    transform = opened.metadata[KEY]["transform"]
    for layer in (opened, viewer.layers[-1]):
        assert layer.metadata[KEY]["transform"] == transform
        np.testing.assert_allclose(layer.data_to_world((3, 4)), fixed.data_to_world((3, 4)))
        assert layer.units == fixed.units
    for name in ("a.busref.h5", "a.tfm", "a.nrrd", "a.nii.gz", "a.csv"):
        if name not in ("a.busref.h5", "a.csv"):
            pytest.importorskip("SimpleITK")
        assert opened.save(str(tmp_path / name)) == [str(tmp_path / name)]
        found = read_transform(tmp_path / name, **GRIDS).transform
        wanted = transform.points((3, 4))
        if name == "a.csv":
            wanted = (transform.affine @ (3, 4, 1))[:2]
        np.testing.assert_allclose(found.points((3, 4)), wanted, atol=1e-4)
    assert read_transform(tmp_path / "a.busref.h5").moving == GRIDS["moving"]
    assert [text for severity, text in notes if "displacement field is left out" in text]


def test_results_are_saved_with_their_grids(viewer, pair, panel, fake, qtbot, tmp_path):
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        panel.run()
    transform = panel.result.registration.transform
    for name in ("ir displacement", "ir warped"):
        path = tmp_path / f"{name}.busref.h5"
        layer = viewer.layers[name]
        assert layer.save(str(path), plugin="napari-busref") == [str(path)]
        stored = read_transform(path)
        assert stored.transform == transform
        assert (stored.fixed, stored.moving) == (GRIDS["fixed"], GRIDS["moving"])
        assert (stored.metadata["fixed"], stored.metadata["moving"]) == ("vis", "ir")
        assert stored.metadata["versions"]["napari-busref"]
    (opened,) = viewer.open(tmp_path / "ir displacement.busref.h5", plugin="napari-busref")
    original = viewer.layers["ir displacement"]
    assert opened != original
    np.testing.assert_array_equal(opened.scale, (2, 3))
    np.testing.assert_allclose(opened.data, original.data, atol=1e-4)
    assert opened.metadata[KEY]["quality"] == panel.result.registration.quality
    image = tmp_path / "warped.ome.tif"
    assert viewer.layers["ir warped"].save(str(image)) == [str(image)]
    found = read_image(image)
    np.testing.assert_array_equal(found.data, viewer.layers["ir warped"].data)
    assert (found.metadata["spacing"], found.metadata["unit"]) == ((2.0, 3.0), "µm")


def test_import_panel(viewer, pair, tmp_path, notes):
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    from napari_busref._napari.layers.initial_transform import INITIAL_KEY

    fixed, moving, transform = pair
    _, panel = viewer.window.add_plugin_dock_widget("napari-busref", "Import transform")
    assert (panel.fixed.value, panel.moving.value) == (fixed, moving)
    panel.fixed.value = moving  # always two layers
    assert (panel.fixed.value, panel.moving.value) == (moving, fixed)
    panel.fixed.value = fixed
    assert not panel.run()
    assert "choose the transform file" in panel.stage.text()
    (tmp_path / "bad.tfm").write_text("hello")
    panel.path.value = tmp_path / "bad.tfm"
    assert panel.run()
    panel.wait()
    assert "no ITK transform" in panel.stage.text() and len(viewer.layers) == 2
    assert [text for severity, text in notes if severity == "error"]
    path = write_transform(tmp_path / "a.tfm", transform, **GRIDS, affine_only=True)
    panel.path.value, panel.start.value = path, True
    assert panel.run()
    panel.wait()
    layer = viewer.layers[-1]
    found = layer.metadata[KEY]["transform"]
    np.testing.assert_allclose(found.affine, transform.affine, atol=1e-9)
    np.testing.assert_allclose(layer.data_to_world((3, 4)), fixed.data_to_world((3, 4)))
    assert moving.metadata[INITIAL_KEY]["transform"] == found
    panel.undo_button.click()
    assert layer not in viewer.layers and INITIAL_KEY not in moving.metadata
    assert panel.run()
    panel.wait()
    assert moving.metadata[INITIAL_KEY]["transform"] == found
    # a layer and then the panel are removed while a file is read
    assert panel.run()
    viewer.layers.remove(moving)
    panel.wait()
    assert len(viewer.layers) == 3
    assert not panel.run()
    assert "open the two images" in panel.stage.text()
    viewer.add_image(np.ones((16, 24), np.uint8), name="ir 2")
    assert panel.run()
    viewer.window.remove_dock_widget(panel)
    panel.deleteLater()
    QApplication.sendPostedEvents(panel, QEvent.Type.DeferredDelete)


def test_a_file_of_another_program_is_refused_in_words(viewer, tmp_path, notes):
    from napari.errors import ReaderPluginError

    path = tmp_path / "other.busref.h5"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="no HDF5 file"):
        viewer.open(path, plugin="napari-busref")
    with pytest.raises(ReaderPluginError):
        drop(viewer, path)
    assert len([text for kind, text in notes if kind == "error" and "no HDF5 file" in text]) == 2
    assert not viewer.layers


def test_the_first_panel_opens_without_the_slow_libraries(tmp_path):
    code = """
import sys
import napari
from npe2 import PluginManager, PluginManifest
manager = PluginManager.instance()
if "napari-busref" not in manager:
    manager.register(PluginManifest.from_file(sys.argv[1]))
viewer = napari.Viewer(show=False)
before = set(sys.modules)
viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
slow = ["torch", "matplotlib", "pandas", "skimage.measure", "skimage.transform"]
slow += ["scipy.interpolate", "scipy.optimize", "scipy.sparse.linalg", "scipy.stats"]
print([name for name in slow if name in set(sys.modules) - before])
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
    assert result.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("tag", [1, 6])
def test_a_sideways_layer_is_turned_by_a_click(viewer, readers_of_napari, tmp_path, qtbot, tag):
    from PIL import Image as Picture

    exif = Picture.Exif()
    exif[274] = tag
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Picture.fromarray(picture).save(tmp_path / "a.jpg", exif=exif)
    viewer.open(str(tmp_path / "a.jpg"), plugin="napari")
    viewer.add_image(np.zeros((40, 60)), name="b")
    pair = PairChooser(viewer, "", "")
    qtbot.addWidget(pair)
    pair.show()
    pair.reset_choices()
    assert pair.upright.isVisible() == (tag > 1)
    if tag > 1:
        assert "a says that it is stored sideways" in pair.upright.toolTip()
        pair.upright.click()
        assert viewer.layers["a"].data.shape == (60, 40, 3)
        assert not pair.upright.isVisible()


def test_layers_on_the_map_are_placed_by_a_click(viewer, readers_of_napari, tmp_path, qtbot):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import Affine

    for name, size, east in (("visible", 1, 691_000), ("thermal", 2, 691_010)):
        place = Affine(size, 0, east, 0, -size, 5_335_000)
        profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 60, "dtype": "uint8"}
        path = tmp_path / f"{name}.tif"
        with rasterio.open(path, "w", crs="EPSG:32632", transform=place, **profile) as file:
            file.write(np.random.default_rng(0).integers(0, 255, (1, 40, 60), np.uint8))
        viewer.open(str(path), plugin="napari")
    pair = PairChooser(viewer, "", "")
    qtbot.addWidget(pair)
    pair.show()
    pair.reset_choices()
    assert pair.on_map.isVisible()
    assert pair.on_map.text() == "Place by the map (EPSG:32632)"
    assert "thermal: EPSG:32632, 2 metre a pixel" in pair.on_map.toolTip()
    pair.on_map.click()
    layer = viewer.layers["thermal"]
    np.testing.assert_allclose(layer.data_to_world((0, 0)), (0.5, 10.5))
    np.testing.assert_allclose(layer.data_to_world((39, 59)), (78.5, 128.5))
    assert not pair.on_map.isVisible()
