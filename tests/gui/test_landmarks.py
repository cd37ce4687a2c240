"""The panel "Landmarks" in a real viewer."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from napari_busref.transforms.transform import Transform

KEY, START = "napari-busref", "napari-busref-start"
FIXED, MOVING = (60, 80), (50, 90)
AFFINE = np.array([[0.8, -0.1, 6.0], [0.15, 0.9, 3.0], [0, 0, 1]])
PLACES = np.array([[8, 9], [9, 70], [50, 10], [52, 66], [30, 40], [20, 55]], float)


def there(places):
    return places @ AFFINE[:2, :2].T + AFFINE[:2, 2]


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)


@pytest.fixture
def pair(viewer):
    """A colour and a grey infrared layer, at different positions with different pixel sizes."""
    fixed = viewer.add_image(picture((*FIXED, 3)), name="vis", rgb=True, scale=(2, 2))
    moving = viewer.add_image(picture(MOVING, 1), name="ir", scale=(2.5, 2.5), translate=(3, -4))
    return moving, fixed


@pytest.fixture
def landmarks(viewer, pair):
    _, widget = viewer.window.add_plugin_dock_widget(KEY, "Landmarks")
    return widget


def mark(panel, fixed, moving):
    panel.start()
    panel.pairs.points["fixed"].add(fixed)
    panel.pairs.points["moving"].add(moving)
    panel.refresh()


def column(panel, number):
    return [panel.table.item(row, number).text() for row in range(panel.table.rowCount())]


def names(viewer):
    return [layer.name for layer in viewer.layers]


def test_placing_takes_turns_and_shows_one_image(viewer, landmarks, pair, qtbot):
    moving, fixed = pair
    other = viewer.add_image(picture(FIXED), name="third", visible=False)
    assert (landmarks.moving.value, landmarks.fixed.value) == pair
    landmarks.place_button.click()
    assert landmarks.placing
    assert names(viewer) == ["vis", "ir", "third", "landmarks on vis", "landmarks on ir"]
    first, second = landmarks.pairs.points["fixed"], landmarks.pairs.points["moving"]
    for points, image in ((first, fixed), (second, moving)):
        np.testing.assert_allclose(points.scale, image.scale)
        np.testing.assert_allclose(points.translate, image.translate)
    assert viewer.layers.selection.active == first
    assert (first.mode, fixed.visible, moving.visible, second.visible) == (
        "add",
        True,
        False,
        False,
    )
    assert "Click landmark 1 on the visible image, 'vis'" in landmarks.turn.text()
    first.add([10, 20])
    qtbot.waitUntil(lambda: viewer.layers.selection.active == second, timeout=5000)
    assert (second.mode, first.mode) == ("add", "pan_zoom")
    assert (fixed.visible, moving.visible) == (False, True)
    assert "Click landmark 1 on the infrared image, 'ir'" in landmarks.turn.text()
    second.add([11, 22])
    qtbot.waitUntil(lambda: viewer.layers.selection.active == first, timeout=5000)
    assert "Click landmark 2 on the visible image" in landmarks.turn.text()
    landmarks.alone.setChecked(False)
    assert fixed.visible and moving.visible and second.visible and not other.visible
    landmarks.place_button.click()
    assert not landmarks.placing
    assert (first.mode, second.mode) == ("pan_zoom", "pan_zoom")
    assert first.visible and second.visible and not other.visible
    # landmarks move with their layer
    moving.translate = (30, 40)
    moving.affine = [[1, 0.2, 0], [0, 1, 5], [0, 0, 1]]
    np.testing.assert_allclose(second.data_to_world((5, 6)), moving.data_to_world((5, 6)))


def test_numbers_and_colours_go_together(viewer, landmarks, qtbot):
    mark(landmarks, PLACES, there(PLACES)[:4])
    first, second = landmarks.pairs.points["fixed"], landmarks.pairs.points["moving"]
    assert landmarks.pairs.numbers("fixed") == [1, 2, 3, 4, 5, 6]
    assert landmarks.pairs.numbers("moving") == [1, 2, 3, 4]
    np.testing.assert_array_equal(first.face_color[:4], second.face_color)
    assert len(np.unique(first.face_color, axis=0)) == 6
    viewer.scene.camera.zoom = 50  # zoomed in: there is room for all numbers
    qtbot.waitUntil(lambda: list(first.text.values) == ["1", "2", "3", "4", "5", "6"])
    # zoomed out, numbers that would overlap are hidden, except that of the selected row
    viewer.scene.camera.zoom = 0.05
    landmarks.table.selectRow(2)
    qtbot.waitUntil(lambda: sum(map(bool, first.text.values)) < 4)
    assert first.text.values[2] == "3"
    viewer.scene.camera.zoom = 50
    qtbot.waitUntil(lambda: all(first.text.values))
    assert column(landmarks, 2)[4:] == ["–", "–"]
    # a point deleted on one image frees its number there for the next point
    first.selected_data = {1}
    first.remove_selected()
    assert landmarks.pairs.numbers("fixed") == [1, 3, 4, 5, 6]
    first.add([9, 70])
    assert landmarks.pairs.numbers("fixed") == [1, 3, 4, 5, 6, 2]
    landmarks.refresh()
    assert list(first.text.values) == ["1", "3", "4", "5", "6", "2"]
    np.testing.assert_array_equal(first.face_color[5], second.face_color[1])
    # the table deletes a pair
    landmarks.refresh()
    landmarks.table.selectRow(0)
    assert first.selected_data == {0}
    landmarks.delete_button.click()
    landmarks.refresh()
    assert landmarks.pairs.all_numbers() == [2, 3, 4, 5, 6]
    assert column(landmarks, 0) == ["2", "3", "4", "5", "6"]
    # a new panel finds existing points
    viewer.window.remove_dock_widget(landmarks)
    landmarks.deleteLater()
    _, again = viewer.window.add_plugin_dock_widget(KEY, "Landmarks")
    again.start()
    assert names(viewer) == ["vis", "ir", "landmarks on vis", "landmarks on ir"]
    assert again.pairs.all_numbers() == [2, 3, 4, 5, 6]


def test_residuals_are_listed_and_the_worst_pair_stands_out(landmarks, notes):
    wrong = there(PLACES)
    wrong[4] += (4, 0)
    mark(landmarks, PLACES, wrong)
    assert column(landmarks, 0) == ["1", "2", "3", "4", "⚠ 5", "6"]
    fit = landmarks.fit
    assert column(landmarks, 3) == [f"{value:.2f}" for value in fit.residuals]
    assert column(landmarks, 4) == [f"{value:.2f}" for value in fit.leave_one_out]
    assert "pair 5 agrees least" in landmarks.summary.text()
    assert landmarks.table.item(4, 3).background() != landmarks.table.item(3, 3).background()
    red = landmarks.pairs.points["moving"].border_color
    assert tuple(red[4][:3]) == (1, 0, 0) and not red[3][:3].any()
    landmarks.model.value = "thin-plate"
    assert set(column(landmarks, 3)) == {"0.00"}
    landmarks.pairs.remove(5)
    landmarks.model.value = "homography"
    assert "⚠" not in "".join(column(landmarks, 0))
    for number in (6, 4):
        landmarks.pairs.remove(number)
    landmarks.refresh()
    assert landmarks.fit is None
    assert "homography fit needs at least 4 pairs" in landmarks.summary.text()
    assert not landmarks.start_button.isEnabled()
    assert not landmarks.result_button.isEnabled()
    assert not landmarks.use_as_result()
    assert notes[-1][0] == "error" and "at least 4 pairs" in notes[-1][1]


def test_the_fit_becomes_the_result(viewer, landmarks, pair, qtbot, notes):
    moving, fixed = pair
    bent = there(PLACES)
    bent[4] += (2, 1)
    mark(landmarks, PLACES, bent)
    landmarks.model.value = "thin-plate"
    with qtbot.waitSignal(landmarks.idle, timeout=300_000):
        assert landmarks.use_as_result()
        assert not landmarks.result_button.isEnabled()
    assert names(viewer)[4:] == ["ir warped", "ir mask", "ir displacement"]
    known = viewer.layers["ir warped"].metadata[KEY]
    transform = known["transform"]
    np.testing.assert_allclose(transform.points(PLACES), bent, atol=1e-3)
    np.testing.assert_array_equal(viewer.layers["ir warped"].data, transform.apply(moving.data))
    np.testing.assert_allclose(viewer.layers["ir warped"].scale, fixed.scale)
    assert known["parameters"]["registration"]["landmarks"] == "thin-plate"
    assert viewer.layers["ir displacement"].features["magnitude"].max() > 1
    assert "added 3 layers" in landmarks.stage.text()
    assert [viewer.layers[name].visible for name in names(viewer)[4:]] == [True, False, False]
    assert [viewer.layers[name].visible for name in ("vis", "ir")] == [True, False]
    assert landmarks.result_button.isEnabled()
    assert not [text for kind, text in notes if kind == "error"]
    # another fit updates the layers, and Undo restores them
    before = viewer.layers["ir warped"].data
    landmarks.pairs.remove(5)
    landmarks.model.value = "affine"
    with qtbot.waitSignal(landmarks.idle, timeout=300_000):
        assert landmarks.use_as_result()
    assert (viewer.layers["ir warped"].data != before).any()
    assert names(viewer)[4:] == ["ir warped", "ir mask", "ir displacement"]
    landmarks.undo_button.click()
    np.testing.assert_array_equal(viewer.layers["ir warped"].data, before)
    assert viewer.layers["ir warped"].metadata[KEY]["transform"] == transform
    assert "undone" in landmarks.stage.text()
    landmarks.undo_button.click()  # the removal of a pair, which came before
    assert landmarks.pairs.all_numbers() == [1, 2, 3, 4, 5, 6]
    landmarks.undo_button.click()  # the first result, too
    assert names(viewer)[4:] == []
    landmarks.redo_button.click()
    assert names(viewer)[4:] == ["ir warped", "ir mask", "ir displacement"]
    np.testing.assert_array_equal(viewer.layers["ir warped"].data, before)
    # a layer that is removed during the run
    with qtbot.waitSignal(landmarks.idle, timeout=300_000):
        assert landmarks.use_as_result()
        viewer.layers.remove("ir")
    assert "added 3 layers" in landmarks.stage.text()
    assert landmarks.pairs is None and not landmarks.result_button.isEnabled()


def test_the_fit_becomes_the_start_of_a_registration(viewer, landmarks, pair, fake, qtbot):
    """Needs no model: the fake pipeline records the initial transform."""
    moving, fixed = pair
    mark(landmarks, PLACES, there(PLACES))
    _, register = viewer.window.add_plugin_dock_widget(KEY, "Register and fuse")
    with qtbot.waitSignal(register.idle, timeout=60_000):
        assert landmarks.use_as_start()
    np.testing.assert_allclose(fake.calls[0]["initial"].affine, AFFINE, atol=1e-9)
    # once a layer is dragged, its position counts
    moving.translate = (10, 10)
    with qtbot.waitSignal(register.idle, timeout=60_000):
        assert register.run()
    start = fake.calls[1]["initial"]
    np.testing.assert_allclose(
        start.points([5, 6]), moving.world_to_data(fixed.data_to_world((5, 6))), atol=1e-6
    )


def test_use_as_start_takes_the_panel_that_the_menu_opened(viewer, landmarks, pair, fake, qtbot):
    from napari._app_model import get_app_model

    get_app_model().commands.execute_command("napari-busref.register_and_fuse").result()
    (register,) = (one for one in viewer.window.dock_widgets.values() if one is not landmarks)
    mark(landmarks, PLACES, there(PLACES))
    with qtbot.waitSignal(register.idle, timeout=60_000):
        assert landmarks.use_as_start()
    assert len(fake.calls) == 1 and len(viewer.window.dock_widgets) == 2


def test_what_was_said_of_a_pair_goes_with_it(viewer, landmarks, pair, qtbot):
    mark(landmarks, PLACES, there(PLACES))
    with qtbot.waitSignal(landmarks.idle, timeout=60_000):
        assert landmarks.use_as_result()
    assert "added 3 layers" in landmarks.stage.text()
    landmarks.pair.swap.click()
    assert landmarks.stage.text() == "" and landmarks.table.rowCount() == 0


def test_dragging_with_naparis_own_tool_is_a_start(viewer, panel, pair, fake, qtbot):
    """The transform tool sets the affine of the layer."""
    moving, fixed = pair
    viewer.layers.selection.active = moving
    moving.mode = "transform"
    turn = np.deg2rad(10)
    moving.affine = [
        [np.cos(turn), -np.sin(turn), 7],
        [np.sin(turn), np.cos(turn), -3],
        [0, 0, 1],
    ]
    with qtbot.waitSignal(panel.idle, timeout=60_000):
        assert panel.run()
    start = fake.calls[0]["initial"]
    for point in ((0, 0), (30, 50)):
        np.testing.assert_allclose(
            start.points(point), moving.world_to_data(fixed.data_to_world(point)), atol=1e-6
        )


def test_layers_that_go_take_the_landmarks_along(viewer, landmarks, pair, notes):
    mark(landmarks, PLACES, there(PLACES))
    landmarks.placing = True
    viewer.layers.remove("landmarks on ir")
    assert landmarks.pairs is None and not landmarks.placing
    assert landmarks.table.rowCount() == 0
    landmarks.placing = True  # makes a new one
    assert landmarks.pairs.numbers("moving") == []
    viewer.layers.remove("ir")
    assert landmarks.pairs is None and landmarks.fit is None
    assert pair[1].visible
    assert landmarks.start() is None
    assert notes[-1] == (
        "error",
        "Landmarks: open two image layers, an infrared and a visible one",
    )


def test_the_view_follows_the_place(viewer, landmarks, pair, qtbot):
    """The place stays at the same point of the window, at the same zoom."""
    moving, fixed = pair
    mark(landmarks, PLACES[:4], there(PLACES)[:4])
    camera = viewer.scene.camera
    camera.center, camera.zoom = (0.0, 50.0, 60.0), 3.0
    landmarks.placing = True
    place = np.array([33.0, 44.0])
    before = (np.array(fixed.data_to_world(place)) - camera.center[-2:]) * camera.zoom
    landmarks.pairs.points["fixed"].add(place)
    active = landmarks.pairs.points["moving"]
    qtbot.waitUntil(lambda: viewer.layers.selection.active == active, timeout=5000)
    world = np.array(moving.data_to_world(there(place[None])[0]))
    np.testing.assert_allclose(
        (world - camera.center[-2:]) * camera.zoom, before, rtol=1e-4, atol=0.1
    )


def test_a_low_panel_scrolls_and_draws_nothing_over_anything(viewer, landmarks, qtbot):
    from qtpy.QtWidgets import QScrollArea

    panel = type(landmarks)(viewer)
    qtbot.addWidget(panel)
    content = panel.findChild(QScrollArea).widget()
    for height in (260, 900):
        panel.resize(340, height)
        panel.show()
        qtbot.waitUntil(lambda expected=height: panel.height() == expected, timeout=5000)
        qtbot.wait(50)
        widgets = [panel.table, panel.model.native, panel.summary, panel.start_button]
        edges = []
        for one in widgets:
            top = one.mapTo(content, one.rect().topLeft()).y()
            edges += [top, top + one.height()]
        assert edges == sorted(edges)
        assert edges[-1] <= content.height()
        assert panel.table.height() >= 160


def test_closing_the_panel_leaves_the_points(viewer, landmarks):
    mark(landmarks, PLACES, there(PLACES))
    points = landmarks.pairs.points["fixed"]
    viewer.window.remove_dock_widget(landmarks)
    landmarks.deleteLater()
    points.add([1, 1])
    viewer.layers.remove("ir")
    assert len(points.data) == len(PLACES) + 1


def test_a_transform_needs_no_torch_before_it_is_used():
    import subprocess

    code = (
        "import sys;"
        "import napari_busref._napari.landmarks.pairs, napari_busref._napari.landmarks.result;"
        "import napari_busref._napari.apply_transform.api;"
        "import napari_busref._napari.layers.initial_transform;"
        "print([name for name in ('torch', 'qtpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.stdout.strip() == "[]"
    assert isinstance(Transform.identity((4, 4)), Transform)


@pytest.mark.parametrize("name", ["marks.csv", "bigwarp.csv", "marks.points"])
def test_landmarks_are_saved_and_opened_again(viewer, landmarks, pair, notes, tmp_path, name):
    mark(landmarks, PLACES, there(PLACES))
    style = "bigwarp" if name == "bigwarp.csv" else None
    assert landmarks.save_landmarks(tmp_path / name, style)
    assert "saved 6 pairs" in landmarks.stage.text()
    for number in landmarks.pairs.all_numbers():
        landmarks.pairs.remove(number)
    landmarks.refresh()
    assert not landmarks.save_landmarks(tmp_path / "none.csv")
    assert "there are no pairs to save" in notes[-1][1]
    assert landmarks.open_landmarks(tmp_path / name)
    landmarks.refresh()
    np.testing.assert_allclose(landmarks.pairs.points["fixed"].data, PLACES, atol=1e-6)
    np.testing.assert_allclose(landmarks.pairs.points["moving"].data, there(PLACES), atol=1e-6)
    assert "6 pairs" in landmarks.summary.text()
    (tmp_path / "damaged.csv").write_text("a,b\n1,2\n")
    assert not landmarks.open_landmarks(tmp_path / "damaged.csv")
    assert "damaged" in notes[-1][1]


def test_both_images_side_by_side_and_residual_arrows(viewer, landmarks, pair, qtbot):
    moving, _ = pair
    before = moving.affine.affine_matrix.copy()
    bent = there(PLACES)
    bent[2] += (3, -2)
    mark(landmarks, PLACES, bent)
    landmarks.residuals.setChecked(True)
    assert names(viewer)[-1].startswith("landmark residuals")
    landmarks.beside.setChecked(True)
    landmarks.placing = True
    grid = viewer.canvas.grid
    cells = {
        layer.name: grid.position(at, viewer.layers) for at, layer in enumerate(viewer.layers)
    }
    assert (cells["vis"], cells["ir"]) == ((0, 0), (0, 1))
    assert cells["landmarks on ir"] == (0, 1) and cells["landmarks on vis"] == (0, 0)
    # a click on either image marks that one
    landmarks._placing.point_at("moving")
    assert viewer.layers.selection.active == landmarks.pairs.points["moving"]
    landmarks.pairs.points["moving"].add([8, 9])
    qtbot.waitUntil(lambda: viewer.layers.selection.active == landmarks.pairs.points["fixed"])
    landmarks.placing = False
    assert not grid.enabled
    np.testing.assert_array_equal(moving.affine.affine_matrix, before)
    landmarks.residuals.setChecked(False)
    assert names(viewer) == ["vis", "ir", "landmarks on vis", "landmarks on ir"]


def test_landmarks_are_undone_one_by_one(viewer, landmarks, pair, qtbot):
    """With the button, with Ctrl+Z on the image, and beside a result."""
    landmarks.place_button.click()
    first, second = landmarks.pairs.points["fixed"], landmarks.pairs.points["moving"]
    undo, redo = (
        next(function for keys, function in first.keymap.items() if str(keys) == wanted)
        for wanted in ("Ctrl+Z", "Ctrl+Shift+Z")
    )
    first.add(PLACES[0])
    qtbot.waitUntil(lambda: viewer.layers.selection.active == second, timeout=5000)
    undo(first)
    assert len(first.data) == 0
    # the turn goes back with it
    assert viewer.layers.selection.active == first and first.mode == "add"
    assert "Click landmark 1 on the visible image" in landmarks.turn.text()
    assert not landmarks.undo_button.isEnabled() and landmarks.redo_button.isEnabled()
    redo(first)
    assert len(first.data) == 1 and "landmark 1 on the infrared image" in landmarks.turn.text()
    landmarks.placing = False
    first.add(PLACES[1:])
    second.add(there(PLACES))
    landmarks.use_as_result()
    landmarks.wait()
    assert "ir warped" in names(viewer)
    landmarks.table.selectRow(1)
    landmarks.delete_button.click()
    assert landmarks.pairs.all_numbers() == [1, 3, 4, 5, 6]
    landmarks.undo_button.click()
    assert landmarks.pairs.all_numbers() == [1, 2, 3, 4, 5, 6] and "ir warped" in names(viewer)
    landmarks.undo_button.click()
    assert "ir warped" not in names(viewer) and len(second.data) == 6
    landmarks.undo_button.click()
    assert len(second.data) == 0 and len(first.data) == 6
    # with another pair, there is nothing to undo
    viewer.layers.remove("ir")
    assert not landmarks.undo_button.isEnabled()
    undo(first)
    assert len(first.data) == 6
