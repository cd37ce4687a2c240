"""The panel "Apply transform" in a real viewer."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref.transforms.transform import Transform

KEY = "napari-busref"
FIXED, MOVING = (48, 64), (40, 50)
AFFINE = [[0.7, 0.1, 3.0], [-0.08, 0.75, 4.0], [0, 0, 1]]


@pytest.fixture
def transform():
    displacement = np.zeros((2, *FIXED), np.float32)
    displacement[0] = 2 * np.sin(np.arange(FIXED[1]) / 12)
    return Transform(AFFINE, displacement, fixed_shape=FIXED, moving_shape=MOVING)


@pytest.fixture
def registered(viewer, transform):
    """A pair and a result that carries the transform."""
    viewer.add_image(np.zeros(FIXED, np.uint8), name="vis", scale=(2, 2))
    viewer.add_image(np.zeros(MOVING, np.uint8), name="ir", translate=(4, 4))
    known = {"transform": transform, "role": "warped", "fixed": "vis", "moving": "ir"}
    viewer.add_image(
        np.zeros(FIXED, np.uint8),
        name="ir warped",
        scale=(2, 2),
        metadata={KEY: known | {"axes": (0, 1), "name": "ir warped"}},
    )


@pytest.fixture
def panel(viewer):
    _, widget = viewer.window.add_plugin_dock_widget(KEY, "Apply transform")
    return widget


def names(viewer):
    return [layer.name for layer in viewer.layers]


def test_selected_layers_are_carried_over_and_back(viewer, registered, panel, transform, qtbot):
    labels = viewer.add_labels(np.arange(2000).reshape(MOVING) // 100, name="cells")
    places = np.array([[10.0, 12.0], [20.0, 33.0]])
    points = viewer.add_points(places + 4, name="marks")
    tracks = viewer.add_tracks(np.array([[1, 0, 14, 14], [1, 1, 15, 16]]), name="walk")
    assert panel.moving.value == viewer.layers["ir"]
    assert list(panel.transform.choices) == [viewer.layers["ir warped"]]
    viewer.layers.selection = {labels, points, tracks}
    assert panel.selected.text() == "Selected: cells, marks, walk."
    with qtbot.waitSignal(panel.idle, timeout=60_000):
        panel.button.click()
        assert panel.button.text() == "&Cancel"
    assert names(viewer)[6:] == ["cells on vis", "marks on vis", "walk on vis"]
    assert "applied to 3 layers" in panel.stage.text()
    new = viewer.layers["cells on vis"]
    np.testing.assert_array_equal(new.data, transform.apply(labels.data, order=0))
    np.testing.assert_allclose(new.scale, (2, 2))
    marks = viewer.layers["marks on vis"]
    np.testing.assert_allclose(transform.points(marks.data), places, atol=1e-3)
    # a second run updates the layers
    assert viewer.layers.selection == {labels, points, tracks}
    with qtbot.waitSignal(panel.idle, timeout=60_000):
        assert panel.run()
    assert len(viewer.layers) == 9
    # Undo brings the earlier layers back
    assert viewer.layers["cells on vis"] != new
    panel.undo_button.click()
    assert viewer.layers["cells on vis"] == new and len(viewer.layers) == 9
    assert "undone" in panel.stage.text()
    assert panel.undo() and len(viewer.layers) == 6 and not panel.undo()
    assert panel.redo() and viewer.layers["cells on vis"] == new
    # the inverse
    panel.direction.value = True
    viewer.layers.selection = {viewer.layers["marks on vis"]}
    with qtbot.waitSignal(panel.idle, timeout=60_000):
        assert panel.run()
    back = viewer.layers["marks on vis on ir"]
    np.testing.assert_allclose(back.data, places, atol=1e-3)
    np.testing.assert_allclose(back.translate, (4, 4))


def test_place_without_resampling(viewer, registered, panel, transform):
    labels = viewer.add_labels(np.ones(MOVING, int), name="cells")
    viewer.layers.selection = {labels, viewer.layers["ir"]}
    panel.place_button.click()
    assert "placed 2 layers without resampling; the transform bends" in panel.stage.text()
    viewer.layers.selection = {viewer.layers["ir"]}
    assert panel.stage.text() == ""  # of other layers
    assert len(viewer.layers) == 4
    for point in ((20, 20), (30, 40)):
        world = np.array(labels.data_to_world(transform.points(point)))
        assert np.abs(world - viewer.layers["vis"].data_to_world(point)).max() < 2 * 4
        np.testing.assert_allclose(
            world, viewer.layers["ir"].data_to_world(transform.points(point))
        )
    panel.undo_button.click()
    for layer in (labels, viewer.layers["ir"]):
        np.testing.assert_array_equal(layer.affine.affine_matrix, np.eye(3))
        assert not layer.metadata
        assert [str(unit) for unit in layer.units] == ["pixel", "pixel"]


def test_a_transform_from_a_file(viewer, panel, transform, tmp_path, qtbot, notes):
    path = transform.save(tmp_path / "pair.busref.h5")
    points = viewer.add_points([[10.0, 12.0]], name="marks")
    assert "No layer carries a transform" in panel.selected.text()
    assert not panel.button.isEnabled() and not panel.place_button.isEnabled()
    assert not panel.run()
    assert "register two layers, or open a transform file" in notes[-1][1]
    (tmp_path / "other.busref.h5").write_text("of another program")
    assert not panel.open_file(str(tmp_path / "other.busref.h5"))
    assert notes[-1][0] == "error"
    assert panel.open_file(str(path))
    viewer.layers.selection.clear()
    assert "Select one or more layers" in panel.selected.text()
    viewer.layers.selection = {points}
    with qtbot.waitSignal(panel.idle, timeout=60_000):
        assert panel.run()
    new = viewer.layers["marks on pair"]
    np.testing.assert_allclose(transform.points(new.data), [[10, 12]], atol=1e-3)


def test_errors_are_notified_and_the_panel_stays_usable(viewer, registered, panel, notes, qtbot):
    mesh = viewer.add_surface((np.eye(3), np.array([[0, 1, 2]])), name="mesh")
    labels = viewer.add_labels(np.ones(MOVING, int), name="cells")
    viewer.layers.selection = {mesh, labels}
    with qtbot.waitSignal(panel.idle, timeout=60_000):
        assert panel.run()
    assert notes[-1][0] == "error" and "'mesh' is a Surface layer" in notes[-1][1]
    assert len(viewer.layers) == 5
    viewer.layers.selection = {labels}
    with qtbot.waitSignal(panel.idle, timeout=60_000):
        assert panel.run()
    assert names(viewer)[-1] == "cells on vis"
    # layers that are removed during the run
    viewer.layers.selection = {labels}
    with qtbot.waitSignal(panel.idle, timeout=60_000):
        assert panel.run()
        viewer.layers.remove("cells")
        viewer.layers.remove("ir")
    assert names(viewer)[-1] == "cells on vis"
    assert panel.moving.value is None
    labels = viewer.layers["cells on vis"]
    viewer.layers.remove("ir warped")
    assert not panel.button.isEnabled()
    for control in (
        panel.open_button,
        panel.button,
        panel.place_button,
        panel.undo_button,
    ):
        assert control.toolTip()
    assert panel.minimumSizeHint().width() <= 320  # a narrow column of a small screen
    # a closed panel ignores changes of the selection
    viewer.window.remove_dock_widget(panel)
    panel.deleteLater()
    viewer.layers.selection = {labels}


def test_the_value_outside_the_other_image(viewer, registered, panel, transform, notes, qtbot):
    celsius = viewer.add_image(np.full(MOVING, 21.5, np.float32), name="celsius")
    outside = ~transform.mask()
    assert outside.any()
    for text, expected in (("automatic", np.nan), ("-1", -1.0), ("nan", np.nan)):
        panel.fill_value.value = text
        viewer.layers.selection = {celsius}
        with qtbot.waitSignal(panel.idle, timeout=60_000):
            assert panel.run()
        found = viewer.layers["celsius on vis"].data[outside]
        np.testing.assert_array_equal(found, np.full(found.shape, expected, np.float32))
    panel.fill_value.value = "cold"
    assert not panel.run()
    assert "fill value: got 'cold', need a number, nan or automatic" in notes[-1][1]
