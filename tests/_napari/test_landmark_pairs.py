"""The numbers of landmarks on two images, without Qt."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import LayerList, ViewerModel
from napari.layers import Image
from napari.utils.colormaps.standardize_color import transform_color

from napari_busref._napari.landmarks.pairs import LandmarkPairs, colour_of, without_overlap
from napari_busref._napari.landmarks.result import residual_arrows
from napari_busref._napari.landmarks.side_by_side import SideBySide, grid_of
from napari_busref._napari.layers.planes import shown_plane
from napari_busref._napari.layers.undo import History
from napari_busref.transforms.landmarks import fit_landmarks


@pytest.fixture
def pairs():
    layers = LayerList([Image(np.zeros((90, 90)), name=name) for name in ("vis", "ir")])
    return LandmarkPairs(layers, *layers)


def shown(pairs, side):
    return list(pairs.points[side].text.values)


def test_both_numbers_of_a_pair_can_be_read_where_it_lies_close_together(pairs):
    """One stands above to the right, the other below to the left."""
    for layer in pairs.points.values():
        layer.add([[40, 40], [41, 60]])
    pairs.thin_labels(zoom=5)
    assert shown(pairs, "fixed") == shown(pairs, "moving") == ["1", "2"]
    above, below = (pairs.points[side].text for side in ("fixed", "moving"))
    assert above.translation[0] < 0 < above.translation[1]
    np.testing.assert_array_equal(above.translation, -below.translation)


def test_what_would_lie_on_other_numbers_is_left_out(pairs):
    fixed = pairs.points["fixed"]
    fixed.add([[40, 40], [41, 41], [42, 42], [80, 80]])
    pairs.thin_labels(zoom=3)
    assert shown(pairs, "fixed") == ["1", "", "", "4"]
    pairs.thin_labels(zoom=3, first=[3])  # the worst, or a selected one
    assert shown(pairs, "fixed") == ["", "", "3", "4"]
    pairs.thin_labels(zoom=30)
    assert shown(pairs, "fixed") == ["1", "2", "3", "4"]
    assert pairs.numbers("fixed") == [1, 2, 3, 4]
    # hidden numbers do not count
    pairs.points["moving"].add([[40, 52]])
    fixed.visible = False
    pairs.thin_labels(zoom=3)
    assert shown(pairs, "moving") == ["1"]


def test_boxes_that_touch_do_not_overlap():
    boxes = np.array([[0, 0, 10, 10], [10, 0, 10, 10], [5, 5, 10, 10], [0, 10, 10, 10]], float)
    assert list(without_overlap(boxes, [0, 1, 2, 3])) == [True, True, False, True]
    assert list(without_overlap(boxes, [2, 0, 1, 3])) == [False, False, True, False]


def test_landmarks_of_a_file_are_added_with_common_numbers(pairs):
    calls = []
    pairs._changed = lambda: calls.append(1)
    pairs.points["fixed"].add([[1, 2]])  # 1, on one image alone
    here, there = (
        np.array([[10.0, 20], [30, 40], [50, 60]]),
        np.array([[11.0, 22], [33, 44], [5, 6]]),
    )
    planes = [shown_plane(pairs.images[side], ViewerModel()) for side in pairs.images]
    assert pairs.add(*planes, here, there) == [2, 3, 4]
    assert pairs.numbers("fixed") == [1, 2, 3, 4] and pairs.numbers("moving") == [2, 3, 4]
    numbers, first, second = pairs.matched(*planes)
    assert numbers == [2, 3, 4]
    np.testing.assert_array_equal(first, here)
    np.testing.assert_array_equal(second, there)
    np.testing.assert_array_equal(
        pairs.points["fixed"].face_color[1:], pairs.points["moving"].face_color
    )
    assert len(calls) == 2


def test_residual_arrows_lead_from_the_fit_to_the_landmark():
    layer = Image(np.zeros((5, 90, 120)), scale=(1, 2, 2))
    plane = shown_plane(layer, viewer_of(layer))
    here = np.array([[10.0, 10], [10, 100], [80, 10], [80, 100], [45, 55]])
    there = 0.5 * here + [3, 4]
    there[4] += [1, -0.5]  # 2 down and 1 to the left in fixed pixels
    fit = fit_landmarks(here, there, fixed_shape=(90, 120), moving_shape=(60, 60))
    np.testing.assert_allclose(np.hypot(*fit.errors.T), fit.residuals)
    assert fit.errors[4][0] > 0 > fit.errors[4][1]
    arrows = residual_arrows(fit, plane, here, "residuals")
    factor = float(arrows.name.split("x ")[1].rstrip(")"))
    np.testing.assert_allclose(arrows.data[:, 0, 1:], here)
    np.testing.assert_allclose(arrows.data[:, 0, 0], 2)  # the shown plane
    np.testing.assert_allclose(arrows.data[:, 1, 1:], factor * fit.errors, rtol=1e-5)
    assert 0 < np.hypot(*arrows.data[:, 1, 1:].T).max() <= 12
    np.testing.assert_allclose(arrows.scale, (1, 2, 2))
    exact = fit_landmarks(
        here, there, fixed_shape=(90, 120), moving_shape=(60, 60), model="thin-plate"
    )
    assert residual_arrows(exact, plane, here, "residuals") is None


def viewer_of(*layers):
    viewer = ViewerModel()
    viewer.layers.extend(layers)
    return viewer


def test_side_by_side_shows_one_place_in_both_cells_and_restores_everything():
    fixed = Image(np.zeros((100, 120)), name="vis", scale=(2, 2))
    moving = Image(np.zeros((50, 60)), name="ir", translate=(5, 5))
    other = Image(np.zeros((9, 9)), name="third")
    viewer = viewer_of(other, fixed, moving)
    pairs = LandmarkPairs(viewer.layers, fixed, moving)
    order, affine = list(viewer.layers), moving.affine.affine_matrix.copy()
    seen = []
    beside = SideBySide(viewer, pairs, seen.append)
    other.visible = False
    grid = grid_of(viewer)
    cells = {
        layer.name: grid.position(at, viewer.layers) for at, layer in enumerate(viewer.layers)
    }
    assert cells["vis"] == cells["landmarks on vis"] == (0, 0)
    assert cells["ir"] == cells["landmarks on ir"] == (0, 1)
    # three pairs tell where the moving image lies on the fixed one
    places = np.array([[10.0, 10], [10, 90], [80, 20], [60, 70]])
    planes = [shown_plane(pairs.images[side], viewer) for side in pairs.images]
    pairs.add(*planes, places, 0.4 * places[:, ::-1] + 3)
    beside.align()
    for point in places:
        np.testing.assert_allclose(
            moving.data_to_world(0.4 * point[::-1] + 3), fixed.data_to_world(point), atol=1e-6
        )
    for cell in ((0, 0), (0, 1), None):
        event = SimpleNamespace(viewbox=cell)
        for callback in viewer.mouse_move_callbacks:
            callback(viewer, event)
    assert seen == ["fixed", "moving"]
    beside.end()
    assert list(viewer.layers) == order and not grid.enabled
    np.testing.assert_array_equal(moving.affine.affine_matrix, affine)
    assert not viewer.mouse_move_callbacks


def test_every_step_of_the_landmarks_is_undone_and_redone():
    layers = LayerList([Image(np.zeros((90, 90)), name=name) for name in ("vis", "ir")])
    history, said = History(), []
    pairs = LandmarkPairs(layers, *layers, stepped=history.add, changed=lambda: said.append(1))
    first, second = pairs.points["fixed"], pairs.points["moving"]

    def state():
        return [(pairs.numbers(side), pairs.points[side].data.tolist()) for side in pairs.points]

    states = [state()]
    for points, place in ((first, [4, 5]), (second, [6, 7]), (first, [8, 9]), (second, [1, 2])):
        points.add(place)
        states.append(state())
    # a drag, as napari's select tool does it: the array changes in place
    first.selected_data = {1}
    first._set_drag_start(first.selected_data, np.array([8.0, 9]))
    first._move(first.selected_data, np.array([30.0, 40]))
    states.append(state())
    pairs.remove(1, 2)  # from both images: one step
    assert pairs.all_numbers() == []
    states.append(state())
    first.add([[10, 10], [20, 20]])
    states.append(state())
    first.selected_data = {0}
    first.remove_selected()
    states.append(state())
    assert history.counts == (len(states) - 1, 0)
    for expected in states[-2::-1]:
        history.undo(layers)
        assert state() == expected
    assert history.counts == (0, len(states) - 1)
    for expected in states[1:]:
        history.redo(layers)
        assert state() == expected
    np.testing.assert_array_equal(first.face_color[0], transform_color(colour_of(2))[0])
    # what follows an undo starts anew
    history.undo(layers)
    second.add([3, 3])
    assert history.counts[1] == 0 and pairs.numbers("moving") == [1]


def test_what_changes_no_landmark_is_no_step():
    layers = LayerList([Image(np.zeros((90, 90)), name=name) for name in ("vis", "ir")])
    steps = []
    pairs = LandmarkPairs(layers, *layers, stepped=steps.append)
    pairs.points["fixed"].add([[40, 40], [41, 41]])
    assert len(steps) == 1
    pairs.thin_labels(zoom=1)
    pairs.mark_worst(2)
    pairs.points["fixed"].selected_data = {1}
    pairs.images["fixed"].scale = (2, 2)
    pairs.points["fixed"].data = pairs.points["fixed"].data.copy()
    assert len(steps) == 1
