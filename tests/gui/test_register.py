"""The panel 'Register and fuse' in a real viewer, with a pipeline that needs no model."""

from __future__ import annotations

import threading
from dataclasses import fields
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

import napari_busref
from napari_busref.transforms.transform import Transform

pytest.importorskip("napari")
from napari.components import ViewerModel
from qtpy.QtCore import QPoint, Qt, QThreadPool
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QLabel

from napari_busref._napari.register.panel import RegisterAndFuse
from napari_busref._napari.register.settings import Settings
from napari_busref._napari.widgets.forms import DOUBTFUL, GOOD
from napari_busref.runtime.progress import Reporter

KEY = "napari-busref"
MANIFEST = Path(napari_busref.__file__).with_name("napari.yaml")
RESULTS = ["ir warped", "ir mask", "vis fused", "ir displacement"]


def picture(shape=(24, 36), seed=0, dtype=np.uint8):
    data = np.random.default_rng(seed).integers(0, 2 if dtype is bool else 200, shape)
    return data.astype(dtype)


@pytest.fixture
def pair(viewer):
    """A grey infrared and a colour layer."""
    fixed = viewer.add_image(picture((24, 36, 3)), name="vis", rgb=True)
    moving = viewer.add_image(picture(seed=1), name="ir", colormap="inferno")
    return moving, fixed


@pytest.fixture
def window():
    """Requested by tests that need a real window; the others use a viewer model."""


@pytest.fixture
def viewer(request, plugin, plugin_settings):
    if "window" in request.fixturenames:
        return request.getfixturevalue("make_napari_viewer_proxy")()
    return ViewerModel()


@pytest.fixture
def panel(request, viewer, qtbot):
    if "window" in request.fixturenames:
        _, widget = viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
        return widget
    widget = RegisterAndFuse(viewer)
    qtbot.addWidget(widget)
    for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
        event.connect(widget.reset_choices)  # as the window does
    return widget


def names(viewer):
    return [layer.name for layer in viewer.layers]


def run_to_the_end(panel, qtbot):
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        assert panel.run()


def hold(panel, fake, qtbot):
    """Start a run, and return in the middle of it."""
    fake.hold = True
    assert panel.run()
    qtbot.waitUntil(fake.holding.is_set, timeout=30_000)


# -- choosing ---------------------------------------------------------------------------------


def test_layers_are_guessed_and_never_the_same(window, viewer, panel):
    assert "two image layers" in panel.hint.text()
    first = viewer.add_image(picture(), name="thermal")
    assert "two image layers" in panel.hint.text()
    second = viewer.add_image(picture((24, 36, 3)), name="photo", rgb=True)
    assert (panel.moving.value, panel.fixed.value) == (first, second)
    assert panel.hint.text() == ""
    viewer.add_labels(picture(), name="labels")
    assert panel.moving.choices == (first, second)


def test_what_the_user_chose_is_kept_when_layers_come_and_go(viewer, panel, pair):
    moving, fixed = pair
    panel.swap.click()
    assert (panel.moving.value, panel.fixed.value) == (fixed, moving)
    third = viewer.add_image(picture((24, 36, 3)), name="visible rgb", rgb=True)
    assert (panel.moving.value, panel.fixed.value) == (fixed, moving)
    panel.moving.value = moving  # the fixed layer: the two swap
    assert (panel.moving.value, panel.fixed.value) == (moving, fixed)
    panel.fixed.value = moving
    assert (panel.moving.value, panel.fixed.value) == (fixed, moving)
    panel.moving.value = third
    assert (panel.moving.value, panel.fixed.value) == (third, moving)
    panel.moving.value = fixed
    viewer.layers.remove(fixed)
    assert (panel.moving.value, panel.fixed.value) == (third, moving)
    moving.name = "renamed"
    assert panel.fixed.value == moving
    viewer.layers.remove(third)
    assert (panel.moving.value, panel.fixed.value) == (None, moving)
    assert "two image layers" in panel.hint.text()
    assert not panel.swap.isEnabled()


def test_no_layers_and_one_layer_are_refused_in_words(viewer, panel, fake, notes, qtbot):
    for _ in range(2):
        panel.button.click()
        assert notes.pop() == (
            "error",
            "Register and fuse: open two image layers, an infrared and a visible one",
        )
        assert not panel.running
        viewer.add_image(picture(), name="vis")


def test_panels_and_samples_are_in_the_command_palette_and_the_layers_menu(window, viewer):
    import yaml
    from app_model.types import SubmenuItem
    from napari._app_model import get_app_model

    menus = get_app_model().menus
    offered = {
        item.command.id
        for item in menus.get_menu(menus.COMMAND_PALETTE_ID)
        if not isinstance(item, SubmenuItem)
    }
    contributions = yaml.safe_load(MANIFEST.read_text())["contributions"]
    panels = {widget["command"] for widget in contributions["widgets"]}
    samples = {f"napari-busref.{sample['key']}" for sample in contributions["sample_data"]}
    assert len(panels) == 7 and len(samples) == 2
    assert panels | samples <= offered
    listed = {item.command.id for item in menus.get_menu("napari/layers/register")}
    assert "napari-busref.register_and_fuse" in listed


def test_settings_are_folded_explained_and_reached_by_the_keyboard(viewer, panel):
    from qtpy.QtWidgets import QLabel

    from napari_busref.models import list_models

    assert not panel.advanced.isExpanded()
    assert panel.settings == Settings()
    assert panel.model.choices == tuple(list_models("registration"))
    assert panel.fusion_model.choices == ("automatic", *list_models("fusion"))
    assert panel.device.choices == ("auto", "cpu", "cuda", "mps")
    controls = panel.advanced.controls
    assert set(controls) == {field.name for field in fields(Settings)}
    natives = [control.native for control in (panel.moving, panel.fixed, *controls.values())]
    natives += [panel.swap, panel.button, panel.undo_button, panel.advanced.toggleButton()]
    for native in natives:
        assert native.toolTip(), native
        assert native.focusPolicy() & Qt.FocusPolicy.TabFocus
    buddies = {label.buddy() for label in panel.findChildren(QLabel)}
    assert {controls["search"].native, panel.moving.native} <= buddies
    following, ahead = panel.moving.native, []
    for _ in range(40):
        following = following.nextInFocusChain()
        if following in natives:
            ahead.append(following)
    wanted = [panel.fixed.native, panel.swap, panel.advanced.toggleButton()]
    assert ahead[:3] == wanted
    assert ahead.index(panel.button) == ahead.index(panel.undo_button) - 1

    panel.model.value = "identity"
    assert not controls["transform"].enabled
    assert controls["on_cancel"].enabled  # the fusion can be cancelled
    controls["refine"].value = "affine"
    assert controls["transform"].enabled
    assert not controls["weights"].enabled
    panel.fusion_model.value = "refusion"
    assert controls["weights"].enabled
    controls["fused"].value = False
    for name in ("fusion_model", "task", "infrared", "detail", "weights"):
        assert not controls[name].enabled
    assert panel.button.text() == "&Register"


def test_the_preferences_remember_what_the_user_chose(viewer, panel):
    from napari.settings import get_plugin_settings

    remembered = get_plugin_settings("napari-busref").registration
    controls = panel.advanced.controls
    panel.device.value = "cuda"  # a script: only for this panel
    assert remembered.device == "auto"
    panel.device.value = "auto"
    controls["mask"].native.click()
    search = controls["search"].native
    search.setFocus()
    QTest.keyClick(search, Qt.Key.Key_End)
    assert controls["search"].value == "auto"
    assert (remembered.mask, remembered.search) == (False, "auto")
    detail = controls["detail"]
    detail.value = 0.25  # a script
    assert remembered.detail == 0.5
    detail.slider.setFocus()
    QTest.keyClick(detail.slider, Qt.Key.Key_End)
    assert (detail.value, remembered.detail) == (1.0, 1.0)
    QTest.keyClick(detail.slider, Qt.Key.Key_End)  # changes nothing
    detail.value = 0.5
    assert remembered.detail == 1.0
    remembered.device = "cpu"  # in the Preferences
    remembered.model = "no longer there"
    assert panel.settings == Settings(device="cpu", mask=False, search="auto", detail=1.0)
    other = RegisterAndFuse(viewer)
    assert other.settings == panel.settings
    other.deleteLater()


# -- a run ------------------------------------------------------------------------------------


def test_a_run_adds_four_layers_on_the_fixed_one(window, viewer, panel, pair, fake, qtbot):
    from napari.layers import Image, Labels, Vectors

    moving, fixed = pair
    fixed.scale, fixed.translate, fixed.rotate = (0.5, 0.25), (4, 6), 15
    fixed.units, fixed.axis_labels = ("um", "um"), ("y", "x")
    moving.scale, moving.translate = (0.5, 0.25), (4, 6)
    moving.units = ("um", "um")
    moving.contrast_limits = (10, 150)
    run_to_the_end(panel, qtbot)
    assert names(viewer) == ["vis", "ir", *RESULTS]
    warped, mask, fused, arrows = list(viewer.layers)[2:]
    assert [type(layer) for layer in (warped, mask, fused, arrows)] == [
        Image,
        Labels,
        Image,
        Vectors,
    ]
    for layer in (warped, mask, fused, arrows):
        assert layer.units == fixed.units
        assert layer.axis_labels == ("y", "x")
        for point in ((0, 0), (5, 11)):
            np.testing.assert_allclose(
                layer.data_to_world(point), fixed.data_to_world(point), atol=1e-6
            )
        known = layer.metadata[KEY]
        assert known["transform"] == panel.result.registration.transform
        assert known["quality"].score == 0.9
        assert known["parameters"]["fusion"] == {"model": "fake"}
        assert known["versions"]["napari-busref"]
        assert known["timings"]["registration"] == {"network": 0.01}
    assert warped.colormap.name == "inferno"
    assert tuple(warped.contrast_limits) == (10, 150)
    assert fused.rgb
    assert arrows.data.shape[1:] == (2, 2)
    assert "magnitude" in arrows.features
    start = fake.calls[0]["initial"]
    point = np.array([3.0, 8.0])
    np.testing.assert_allclose(
        start.points(point), moving.world_to_data(fixed.data_to_world(point)), atol=1e-6
    )


def test_the_work_runs_beside_the_main_thread_with_the_chosen_options(
    viewer, panel, pair, fake, qtbot
):
    panel.settings = Settings(
        model="identity",
        search="near",
        refine="affine",
        transform="homography",
        fusion_model="average",
        device="cpu",
    )
    hold(panel, fake, qtbot)
    assert fake.threads[0] is not threading.main_thread()
    qtbot.waitUntil(lambda: panel.stage.text().startswith("aligning"), timeout=5000)
    assert 0 < panel.bar.value() < panel.bar.maximum()
    assert panel.button.text() == "&Cancel"
    assert panel.bar.isVisibleTo(panel)
    assert panel.running
    assert not panel.undo_button.isEnabled()
    value = panel.bar.value()
    qtbot.waitUntil(lambda: panel.bar.value() > value, timeout=5000)  # without a report
    assert names(viewer) == ["vis", "ir"]
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        fake.go.set()
    call = fake.calls[0]
    assert (call["model"], call["fusion_model"], call["device"]) == ("identity", "average", "cpu")
    assert (call["search"], call["refine"]) == ("near", "affine")
    assert (call["transform"], call["on_cancel"]) == ("homography", "raise")
    np.testing.assert_array_equal(call["fixed"], pair[1].data)
    np.testing.assert_array_equal(call["moving"], pair[0].data)
    assert call["initial"] == Transform.identity((24, 36))
    assert panel.button.text() == "&Register and fuse"
    assert not panel.bar.isVisibleTo(panel)
    assert panel.stage.text().startswith("done")


def test_a_second_run_updates_the_same_layers(viewer, panel, pair, fake, qtbot):
    run_to_the_end(panel, qtbot)
    first = list(viewer.layers)
    assert (panel.moving.value, panel.fixed.value) == pair  # not the results
    first[2].colormap = "viridis"
    fake.shift = (0.0, 1.0)
    panel.device.value = "cpu"
    run_to_the_end(panel, qtbot)
    assert list(viewer.layers) == first
    assert first[2].colormap.name == "viridis"
    np.testing.assert_allclose(first[5].data[:, 1], np.tile([0.0, 1.0], (len(first[5].data), 1)))
    assert fake.calls[1]["device"] == "cpu"


def test_nothing_found_adds_no_layer_and_offers_what_to_do(
    window, viewer, panel, pair, fake, notes, qtbot
):
    fake.found = fake.reliable = False
    run_to_the_end(panel, qtbot)
    assert names(viewer) == shown(viewer) == ["vis", "ir"]
    assert "ir → vis: Nothing was found" in panel.quality.text()
    assert "fusion" not in fake.calls[0]  # nothing was fused
    assert "edges &lt;do not&gt; agree" in panel.quality.text()
    assert "ir → vis: nothing was found" in notes[-1][1]
    assert panel.stage.text().endswith("no layer was changed")
    assert panel.result.quality.status == "not registered"
    assert not panel.undo_button.isEnabled()
    panel.advanced.controls["displacement"].value = "lengths"
    assert len(viewer.layers) == 2
    wide, landmarks = panel.verdict.wide_button, panel.verdict.landmarks_button
    # the automatic search was wide already
    assert not wide.isVisibleTo(panel) and landmarks.isVisibleTo(panel)

    panel.settings = Settings(search="near")
    run_to_the_end(panel, qtbot)
    assert wide.isVisibleTo(panel) and landmarks.isVisibleTo(panel)
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        wide.click()
    assert [call["search"] for call in fake.calls] == [None, "near", "wide"]
    assert panel.settings.search == "near"  # of the next run
    assert not wide.isVisibleTo(panel) and landmarks.isVisibleTo(panel)
    panel.swap.click()
    moving, fixed = panel.pair.layers
    assert not landmarks.isVisibleTo(panel)
    panel.swap.click()
    landmarks.click()
    opened = panel.open_landmarks()
    assert type(opened).__name__ == "Landmarks"
    assert (opened.moving.value, opened.fixed.value) == (fixed, moving)

    fake.found = fake.reliable = True
    assert not panel.verdict.further.isVisibleTo(panel)
    run_to_the_end(panel, qtbot)
    assert shown(viewer) == ["vis fused"]
    assert not panel.verdict.steps.isVisibleTo(panel)


def test_a_result_offers_what_to_do_next(window, viewer, panel, pair, fake, qtbot):
    """Also where an earlier result of another pair lies above it."""
    moving, fixed = pair
    viewer.add_image(picture(seed=2), name="ir 2")
    panel.moving.value = viewer.layers["ir 2"]
    run_to_the_end(panel, qtbot)
    panel.moving.value = moving
    assert not panel.verdict.further.isVisibleTo(panel)
    run_to_the_end(panel, qtbot)
    viewer.layers.move(viewer.layers.index("ir 2 warped"), len(viewer.layers))
    assert panel.verdict.further.isVisibleTo(panel)

    panel.verdict.compare_button.click()
    compare = panel.open_panel("Compare")
    assert (compare.fixed.value, compare.moving.value) == (fixed, viewer.layers["ir warped"])
    compare.wait()
    assert shown(viewer) == ["comparison"]
    panel.verdict.apply_button.click()
    assert type(panel.open_apply()).__name__ == "ApplyTransform"
    compare.clear()

    panel.settings = Settings(warped=False)
    viewer.layers.remove("ir warped")
    run_to_the_end(panel, qtbot)
    assert panel.open_compare().moving.value == moving
    compare.clear()


def test_the_verdict_follows_the_chosen_layers(viewer, panel, pair, fake, qtbot):
    other = viewer.add_image(picture(seed=2), name="ir of another day, with a long name")
    run_to_the_end(panel, qtbot)
    assert panel.pair.layers == pair
    said = panel.quality.text()
    assert "ir → vis: looks right" in said
    panel.moving.value = other
    assert panel.quality.text() == "Earlier run: ✓ ir → vis: looks right"
    assert panel.quality.styleSheet() == panel.stage.text() == ""
    panel.moving.value = pair[0]
    assert panel.quality.text() == said
    hold(panel, fake, qtbot)
    panel.moving.value = other  # during the run
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        fake.go.set()
    assert panel.quality.text().startswith("Earlier run: ✓ ir → vis")
    fake.error = ValueError("moving: got only NaN")
    run_to_the_end(panel, qtbot)
    assert "only NaN" in panel.quality.text()
    panel.moving.value = pair[0]
    assert panel.quality.text() == ""


@pytest.fixture
def stacks(viewer, fake):
    """Two stacks of five planes, of which the planes 1 and 3 cannot be registered well."""
    place = {"scale": (5, 2, 2), "units": ("um",) * 3, "axis_labels": ("z", "y", "x")}
    fixed = viewer.add_image(picture((5, 24, 36)), name="vis", **place)
    data = picture((5, 24, 36), seed=1)
    data[:, 0, 0] = range(5)
    moving = viewer.add_image(data, name="ir", **place)
    good = fake.result

    def result(fixed, moving, *arguments):
        fake.reliable = int(moving[0, 0]) not in (1, 3)
        return good(fixed, moving, *arguments)

    fake.result = result
    viewer.dims.set_current_step(0, 2)
    return moving, fixed


def test_the_verdict_follows_the_slider_and_lists_the_worst_planes(
    viewer, stacks, panel, fake, notes, qtbot
):
    panel.settings = Settings(planes="each")
    run_to_the_end(panel, qtbot)
    verdict, said = panel.verdict, panel.quality.text
    assert "ir → vis, z 2: looks right" in said()
    assert notes[-1] == ("warning", "Register and fuse: ir → vis: check 2 of 5 planes")
    assert verdict.summary.text().startswith("3 of 5 planes look right")
    offered = [one.text() for one in verdict.plane_buttons if one.isVisibleTo(panel)]
    assert sorted(offered[:2]) == ["⚠ z 1", "⚠ z 3"] and len(offered) == 3
    assert not verdict.steps.isVisibleTo(panel)
    for number, button in enumerate(verdict.plane_buttons[:2]):
        button.click()
        assert viewer.dims.current_step[0] == int(offered[number][-1])
        assert f"ir → vis, {offered[number][2:]}: Check the result" in said()
        assert verdict.steps.isVisibleTo(panel)
    viewer.dims.set_current_step(0, 4)
    assert "ir → vis, z 4: looks right" in said()
    scores = verdict.scores
    assert scores.isVisibleTo(panel)
    drawn, step = scores.grab().toImage(), scores.width() / 5
    colours = [drawn.pixelColor(int((n + 0.4) * step), 46).name() for n in range(5)]
    assert colours == [GOOD, DOUBTFUL, GOOD, DOUBTFUL, GOOD]
    qtbot.mouseClick(scores, Qt.MouseButton.LeftButton, pos=QPoint(int(1.5 * step), 20))
    assert viewer.dims.current_step[0] == 1
    panel.swap.click()  # another pair: no plane, no number
    assert not scores.isVisibleTo(panel)
    assert said() == "Earlier run: ✓ ir → vis: looks right"
    assert not verdict.planes.isVisibleTo(panel) and not verdict.summary.isVisibleTo(panel)


@pytest.mark.parametrize(
    ("mode", "elsewhere"),
    [("plane", "was not registered"), ("one", "has the transform of z 2")],
)
def test_numbers_of_one_plane_do_not_stand_beside_another(
    viewer, stacks, panel, qtbot, mode, elsewhere
):
    panel.settings = Settings(planes=mode)
    run_to_the_end(panel, qtbot)
    (button, *_), said = panel.verdict.plane_buttons, panel.quality.text
    assert "z 2: looks right" in said() and "score" in said()
    assert not button.isVisibleTo(panel)
    viewer.dims.set_current_step(0, 0)
    assert said() == f"ir → vis: this plane {elsewhere}"
    assert button.text() == "z 2" and button.isVisibleTo(panel)
    button.click()
    assert viewer.dims.current_step[0] == 2
    assert "z 2: looks right" in said() and not button.isVisibleTo(panel)


def test_a_run_is_in_naparis_list_of_activities(viewer, panel, pair, fake, qtbot):
    from napari.utils import progress

    hold(panel, fake, qtbot)
    qtbot.waitUntil(lambda: len(progress._all_instances) == 1, timeout=5000)
    (entry,) = progress._all_instances
    qtbot.waitUntil(lambda: entry.desc.startswith("Register and fuse: aligning"), timeout=5000)
    qtbot.waitUntil(lambda: entry.unit.endswith("s left"), timeout=5000)
    assert 0 < entry.n < entry.total
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        fake.go.set()
    assert not progress._all_instances


def shown(viewer):
    return [layer.name for layer in viewer.layers if layer.visible]


def test_naparis_spinner_is_slow_during_a_run(window, viewer, panel, pair, fake, qtbot):
    """Each of its pictures draws the whole window."""

    def speeds():
        movies = [label.movie() for label in panel.window().findChildren(QLabel)]
        return [movie.speed() for movie in movies if movie is not None]

    assert speeds() == [100]
    hold(panel, fake, qtbot)
    qtbot.waitUntil(lambda: speeds() == [10], timeout=5000)
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        fake.go.set()
    assert speeds() == [100]


def test_the_fused_image_is_shown_alone_after_a_run(viewer, panel, pair, fake, qtbot):
    run_to_the_end(panel, qtbot)
    assert names(viewer) == ["vis", "ir", *RESULTS]
    assert shown(viewer) == ["vis fused"]
    assert viewer.layers.selection.active.name == "vis fused"
    panel.undo()
    assert shown(viewer) == ["vis", "ir"]
    pair[0].visible = False
    run_to_the_end(panel, qtbot)
    assert shown(viewer) == ["vis fused"]
    panel.undo()
    assert shown(viewer) == ["vis"]


def test_without_fusion_the_warped_image_lies_over_the_fixed_one(viewer, panel, pair, fake, qtbot):
    panel.settings = Settings(fused=False)
    run_to_the_end(panel, qtbot)
    assert shown(viewer) == ["vis", "ir warped"]
    panel.settings = Settings()
    run_to_the_end(panel, qtbot)
    assert shown(viewer) == ["vis fused"]
    panel.settings = Settings(fused=False)
    run_to_the_end(panel, qtbot)  # the earlier fused image would cover the warped one
    assert shown(viewer) == ["vis", "ir warped"]
    panel.undo()
    assert shown(viewer) == ["vis fused"]
    panel.settings = Settings(fused=False, results="add")
    run_to_the_end(panel, qtbot)
    assert shown(viewer)[-1] == "ir warped [1]"


def test_a_further_run_keeps_what_the_user_showed_and_hid(viewer, panel, pair, fake, qtbot):
    run_to_the_end(panel, qtbot)
    moving, fixed = pair
    mask, fused, arrows = list(viewer.layers)[3:]
    moving.visible = mask.visible = arrows.visible = True
    fused.visible = False
    for _ in range(2):
        run_to_the_end(panel, qtbot)
        assert shown(viewer) == ["ir", "ir mask", "ir displacement"]
    fused.visible = True
    moving.visible = arrows.visible = False
    panel.advanced.controls["displacement"].value = "grid"  # drawn because the user asks for it
    assert shown(viewer) == ["ir mask", "vis fused", "ir deformed grid"]
    run_to_the_end(panel, qtbot)
    assert shown(viewer) == ["ir mask", "vis fused", "ir deformed grid"]
    other = viewer.add_image(picture(seed=2), name="ir 2")
    fixed.visible = True
    panel.moving.value = other  # another pair
    run_to_the_end(panel, qtbot)
    assert {"vis", "ir 2"}.isdisjoint(shown(viewer))


def test_the_fixed_stack_stays_visible_where_one_plane_was_fused(viewer, panel, fake, qtbot):
    for name in ("vis", "ir"):
        viewer.add_image(picture((3, 24, 36)), name=name)
    run_to_the_end(panel, qtbot)
    assert shown(viewer) == ["vis", "vis fused"]
    panel.undo()
    panel.settings = Settings(planes="one")
    run_to_the_end(panel, qtbot)
    assert shown(viewer) == ["vis fused"]


def test_the_quality_is_said_in_words(viewer, panel, pair, fake, notes, qtbot):
    run_to_the_end(panel, qtbot)
    assert "looks right" in panel.quality.text()
    assert "0.20 → 0.50" in panel.quality.text()
    assert "an error below 5 px is likely" in panel.quality.text()
    for number in ("3.6 px", "0.00°", "1.000", " % of the visible image"):
        assert number in panel.quality.text()
    reliable = panel.quality.styleSheet()
    assert not [note for note in notes if note[0] == "warning"]
    fake.reliable = False
    run_to_the_end(panel, qtbot)
    assert "Check the result" in panel.quality.text()
    assert "edges &lt;do not&gt; agree" in panel.quality.text()
    assert panel.quality.styleSheet() not in ("", reliable)
    assert notes[-1][0] == "warning"
    assert "edges <do not> agree" in notes[-1][1]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float64])
def test_layers_of_any_type(viewer, panel, fake, qtbot, dtype):
    viewer.add_image(picture(dtype=dtype), name="vis")
    viewer.add_image(picture((30, 50), seed=1, dtype=dtype), name="ir")
    run_to_the_end(panel, qtbot)
    assert names(viewer) == ["vis", "ir", *RESULTS]
    assert viewer.layers["ir warped"].data.dtype == dtype
    assert viewer.layers["ir warped"].data.shape == (24, 36)
    assert fake.calls[0]["initial"] is None  # nothing is known about their positions


def test_the_shown_plane_of_a_stack_and_of_a_pyramid(viewer, panel, fake, qtbot):
    stack = viewer.add_image(picture((4, 24, 36)), name="vis", scale=(5, 1, 1))
    full = picture((4, 24, 36), seed=1)
    pyramid = viewer.add_image(
        [full, full[:, ::2, ::2]], name="ir", scale=(5, 1, 1), multiscale=True
    )
    viewer.dims.set_current_step(0, 2)
    run_to_the_end(panel, qtbot)
    np.testing.assert_array_equal(fake.calls[0]["fixed"], stack.data[2])
    np.testing.assert_array_equal(fake.calls[0]["moving"], pyramid.data[0][2])
    for name in RESULTS:
        layer = viewer.layers[name]
        assert layer.ndim == 3
        np.testing.assert_allclose(layer.data_to_world((0, 1, 1)), stack.data_to_world((2, 1, 1)))
    viewer.dims.ndisplay = 3
    assert not panel.run()
    assert "switch it to 2D" in panel.quality.text()


def test_outputs_and_new_layers_and_undo(window, viewer, panel, pair, fake, qtbot):
    assert not panel.undo_button.isEnabled()
    run_to_the_end(panel, qtbot)
    warped, _, _, arrows = list(viewer.layers)[2:]
    before = warped.data, warped.metadata[KEY]["quality"], arrows.data.copy()
    colours, first = arrows.edge_color.copy(), panel.result
    fake.shift, fake.reliable = (0.0, 4.0), False
    run_to_the_end(panel, qtbot)
    second = panel.result
    assert not np.array_equal(arrows.data, before[2])
    viewer.add_image(picture(), name="mine")
    warped.colormap = "viridis"
    panel.undo_button.click()  # updated layers get their content back
    assert names(viewer) == ["vis", "ir", *RESULTS, "mine"]
    assert np.array_equal(warped.data, before[0])
    assert warped.metadata[KEY]["quality"] == before[1]
    assert warped.colormap.name == "viridis"
    np.testing.assert_array_equal(arrows.data, before[2])
    np.testing.assert_allclose(arrows.edge_color, colours)
    assert panel.result is first and "looks right" in panel.quality.text()
    panel.redo_button.click()
    assert not np.array_equal(arrows.data, before[2])
    assert panel.result is second and "Check the result" in panel.quality.text()
    panel.undo_button.click()
    np.testing.assert_array_equal(arrows.data, before[2])
    panel.undo_button.click()  # the first run, too
    assert names(viewer) == ["vis", "ir", "mine"]
    assert panel.result is None and not panel.quality.isVisibleTo(panel)
    assert not panel.undo_button.isEnabled() and not panel.undo()
    panel.redo_button.click()
    assert names(viewer) == ["vis", "ir", *RESULTS, "mine"]
    assert panel.result is first

    panel.settings = Settings(mask=False, fused=False, displacement="grid", results="add")
    run_to_the_end(panel, qtbot)
    # the setting drew the earlier result, too
    assert names(viewer)[7:] == ["ir deformed grid", "ir warped [1]", "ir deformed grid [1]"]
    assert "fusion_model" not in fake.calls[-1]
    assert panel.result.fusion is None
    drawn = panel.advanced.controls["displacement"]
    drawn.value = "lengths"  # without another run
    lengths = viewer.layers[-1]
    assert lengths.name.startswith("ir displacement (px")
    assert float(lengths.data.max()) == pytest.approx(4.0)
    assert [layer.visible for layer in (arrows, viewer.layers[-2], lengths)] == [0, 0, 1]
    drawn.value = "none"
    assert not lengths.visible
    viewer.layers.remove("ir warped [1]")  # is not brought back
    panel.undo()
    assert names(viewer)[6:] == ["mine", "ir deformed grid"]

    viewer.layers.remove("ir")
    colour = viewer.add_image(picture((24, 36, 3)), name="ir", rgb=True)  # warped no longer fits
    panel.moving.value, panel.settings = colour, Settings()
    run_to_the_end(panel, qtbot)
    assert warped not in viewer.layers
    assert viewer.layers["ir warped"].rgb
    panel.undo()
    assert names(viewer) == ["vis", *RESULTS, "mine", "ir deformed grid", "ir"]
    assert viewer.layers["ir warped"] == warped

    panel.settings = Settings(warped=False, mask=False, displacement="none", fused=False)
    assert not panel.run()
    assert "no output is chosen" in panel.quality.text()


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("moving: got only NaN"), "moving: got only NaN"),
        (RuntimeError("mat1 and mat2"), "RuntimeError: mat1 and mat2"),
        (RuntimeError("CUDA out of memory"), "choose the cpu device"),
        (MemoryError(), "not enough memory"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_an_error_is_notified_and_changes_nothing(
    viewer, panel, pair, fake, notes, qtbot, error, expected
):
    fake.error = error
    run_to_the_end(panel, qtbot)
    assert notes[-1][0] == "error"
    assert expected in notes[-1][1]
    assert expected in panel.quality.text()
    assert names(viewer) == ["vis", "ir"]
    assert panel.result is None
    assert panel.button.isEnabled()
    fake.error = None
    run_to_the_end(panel, qtbot)
    assert names(viewer) == ["vis", "ir", *RESULTS]
    assert "not enough memory" not in panel.quality.text()


def test_an_error_leaves_earlier_results_as_they_are(viewer, panel, pair, fake, qtbot):
    run_to_the_end(panel, qtbot)
    before = viewer.layers["ir warped"].data
    fake.error, fake.shift = RuntimeError("no"), (5.0, 5.0)
    run_to_the_end(panel, qtbot)
    assert len(viewer.layers) == 6
    assert viewer.layers["ir warped"].data is before


def test_an_error_while_layers_are_added_is_notified(
    viewer, panel, pair, fake, notes, qtbot, monkeypatch
):
    def broken(*args):
        raise OSError("disk")

    monkeypatch.setattr("napari_busref._napari.register.layer_adder.update_layers", broken)
    run_to_the_end(panel, qtbot)
    assert notes[-1] == ("error", "Register and fuse: disk")
    assert names(viewer) == ["vis", "ir"]
    assert not panel.undo_button.isEnabled()


def test_a_warning_in_the_worker_becomes_a_notification(viewer, panel, pair, fake, notes, qtbot):
    fake.warning = "half of the pixels are NaN"
    run_to_the_end(panel, qtbot)
    assert any("half of the pixels" in text for kind, text in notes if kind == "warning")
    assert len(viewer.layers) == 6


def test_layers_that_do_not_overlap_are_refused(viewer, panel, pair, fake, notes):
    pair[0].translate = (10_000, 0)
    assert not panel.run()
    assert "'ir' and 'vis' do not overlap" in notes[-1][1]
    assert not fake.calls
    assert not panel.running


def test_units_that_cannot_be_converted_are_refused(viewer, panel, pair, fake, notes, qtbot):
    moving, fixed = pair
    for layer, unit in ((moving, "s"), (fixed, "um")):
        layer.scale, layer.units = (2, 2), (unit, unit)
    assert not panel.run()
    assert "cannot be converted; give both the same kind of unit" in notes[-1][1]
    moving.units = ("nm", "nm")
    moving.scale = (2000, 2000)
    run_to_the_end(panel, qtbot)
    assert names(viewer) == ["vis", "ir", *RESULTS]


@pytest.mark.parametrize("mode", ["plane", "one", "each"])
@pytest.mark.parametrize("axis", ["t", "z"])
def test_stacks_in_time_and_depth(viewer, panel, fake, qtbot, mode, axis):
    place = {"scale": (5, 2, 2), "axis_labels": (axis, "y", "x")}
    place["units"] = ("s", "um", "um") if axis == "t" else ("um",) * 3
    fixed = viewer.add_image(picture((3, 24, 36)), name="vis", **place)
    lazy = da.from_array(picture((3, 24, 36), seed=1), chunks=(1, 12, 36))
    viewer.add_image(lazy, name="ir", **place)
    viewer.dims.set_current_step(0, 1)
    panel.settings = Settings(planes=mode)
    run_to_the_end(panel, qtbot)
    assert panel.result is not None, panel.quality.text()
    assert len(fake.calls) == (3 if mode == "each" else 1)
    first = (1, 0, 0) if mode == "plane" else (0, 0, 0)
    for name in RESULTS:
        layer = viewer.layers[name]
        assert layer.units == fixed.units
        assert layer.axis_labels == fixed.axis_labels
        np.testing.assert_allclose(layer.data_to_world((0, 0, 0)), fixed.data_to_world(first))
    count = 1 if mode == "plane" else 3
    assert viewer.layers["ir warped"].data.shape == (count, 24, 36)
    assert np.asarray(viewer.layers["vis fused"].data).any(axis=(1, 2)).all()


def test_fusion_is_told_what_is_wanted(viewer, panel, pair, fake, qtbot):
    controls = panel.advanced.controls
    controls["task"].value = "medical"
    controls["infrared"].value, controls["detail"].value = 0.75, 0.25
    run_to_the_end(panel, qtbot)
    call = fake.calls[0]
    assert call["fusion_model"] is None  # the best for the task
    wanted = {"task": "medical", "infrared": 0.75, "detail": 0.25}
    assert wanted.items() <= call["fusion"].items()


def test_planes_of_a_stack_and_labels_as_masks(viewer, panel, fake, notes, qtbot):
    planes = panel.advanced.controls["planes"]
    viewer.add_image(picture((24, 36)), name="vis")
    assert not planes.enabled
    viewer.add_image(picture((3, 24, 36), seed=1), name="ir")
    assert planes.enabled
    labels = viewer.add_labels(np.zeros((24, 36), int), name="part")
    labels.data[:, :20] = 1
    assert panel.fixed_mask.choices == (None, labels)
    assert panel.moving_mask.value is None
    panel.settings = Settings(planes="one")
    panel.fixed_mask.value = labels
    run_to_the_end(panel, qtbot)
    assert panel.result is not None, panel.quality.text()
    assert panel.result.mode == "one"
    np.testing.assert_array_equal(fake.calls[0]["fixed_mask"], labels.data > 0)
    assert fake.calls[0]["moving_mask"] is None
    assert viewer.layers["ir warped"].data.shape == (3, 24, 36)
    assert panel.fixed_mask.choices == (None, labels)  # not the mask that a run made
    labels.data = np.zeros((24, 36), int)
    run_to_the_end(panel, qtbot)
    assert "'part' marks nothing" in notes[-1][1]
    viewer.layers.remove(labels)
    assert panel.fixed_mask.value is None


# -- stopping ---------------------------------------------------------------------------------


def test_cancel_stops_and_changes_nothing(window, viewer, panel, pair, fake, notes, qtbot):
    hold(panel, fake, qtbot)
    with qtbot.waitSignal(panel.idle, timeout=5000):
        panel.button.click()
        assert panel.button.text() == "Cancelling…"
        assert not panel.button.isEnabled()
    assert fake.cancelled.is_set()
    assert names(viewer) == ["vis", "ir"]
    assert panel.button.text() == "&Register and fuse"
    assert panel.button.isEnabled()
    assert "cancelled" in panel.stage.text()
    assert not [note for note in notes if note[0] == "error"]
    fake.hold = False
    run_to_the_end(panel, qtbot)
    assert len(viewer.layers) == 6


def test_cancel_frees_the_panel_though_the_work_goes_on(viewer, panel, pair, fake, qtbot):
    """The call ignores `cancel`, and returns a result in the end."""
    fake.deaf = True
    hold(panel, fake, qtbot)
    with qtbot.waitSignal(panel.idle, timeout=5000):
        panel.cancel()
    assert not fake.go.is_set()  # it still runs
    assert not panel.running
    assert "cancelled" in panel.stage.text()
    first, fake.hold = fake.go, False
    run_to_the_end(panel, qtbot)
    assert len(viewer.layers) == 6
    assert panel.stage.text().startswith("done")
    done = panel.stage.text()
    first.set()
    assert QThreadPool.globalInstance().waitForDone(5000)
    QApplication.processEvents()
    assert len(fake.calls) == 2
    assert len(viewer.layers) == 6  # the first run has no effect
    assert panel.stage.text() == done


def test_cancel_can_keep_the_best_so_far(viewer, panel, pair, fake, notes, qtbot):
    panel.settings = Settings(on_cancel="best")
    hold(panel, fake, qtbot)
    with qtbot.waitSignal(panel.idle, timeout=5000):
        panel.button.click()
        assert panel.button.text() == "&Discard"
    assert fake.calls[0]["on_cancel"] == "best"
    assert names(viewer) == ["vis", "ir", "ir warped", "ir mask", "ir displacement"]
    assert panel.stage.text().startswith("cancelled after")
    assert "best so far was kept" in panel.stage.text()
    assert panel.result.cancelled
    fake.deaf = True
    fake.holding.clear()
    hold(panel, fake, qtbot)
    panel.button.click()
    with qtbot.waitSignal(panel.idle, timeout=5000):
        panel.button.click()  # discard
    assert "no layer was changed" in panel.stage.text()
    fake.go.set()


@pytest.mark.parametrize("best", [False, True])
def test_cancel_does_not_wait_for_the_fusion(viewer, panel, pair, fake, qtbot, best):
    """The fusion ignores `cancel`. ``benchmarks/responsiveness.py`` measures the seconds."""
    panel.settings = Settings(on_cancel="best" if best else "nothing")
    fake.hold_fusion = fake.deaf = True
    for _ in range(2):
        fake.go.clear()
        fake.holding.clear()
        assert panel.run()
        qtbot.waitUntil(fake.holding.is_set, timeout=30_000)
        with qtbot.waitSignal(panel.idle, timeout=5000):
            panel.button.click()
        assert not fake.go.is_set()  # the fusion still runs
        left = ["ir warped", "ir mask", "ir displacement"] if best else []
        assert names(viewer) == ["vis", "ir", *left]
        said = "what was done by then was kept" if best else "no layer was changed"
        assert said in panel.stage.text()
        assert (panel.result is not None) == best
        fake.go.set()
        assert QThreadPool.globalInstance().waitForDone(5000)
        QApplication.processEvents()
        assert names(viewer) == ["vis", "ir", *left]  # the fusion has no effect


@pytest.mark.parametrize("again", [False, True])
def test_fusion_does_nothing_more_once_cancel_is_clicked(
    viewer, panel, pair, fake, qtbot, monkeypatch, again
):
    """The steps that begin after the click are counted: none ends."""
    late = []

    def fuse(fixed, moving, *, cancel, progress=None, **options):
        reporter = Reporter(progress, cancel)
        for number in range(10_000):
            clicked = cancel.is_set()
            reporter.step("fusing the images", number / 10_000)
            fake.holding.set()
            late.extend([number] * clicked)
            cancel.wait(0.005)

    if again:
        run_to_the_end(panel, qtbot)
    monkeypatch.setattr("napari_busref.fusion.fuse", fuse)
    before = names(viewer)
    assert panel.fuse_again() if again else panel.run()
    qtbot.waitUntil(fake.holding.is_set, timeout=30_000)
    with qtbot.waitSignal(panel.idle, timeout=30_000):
        panel.button.click()
    assert QThreadPool.globalInstance().waitForDone(5000)
    assert not late
    assert names(viewer) == before
    assert panel.stage.text() == "cancelled; no layer was changed"


def test_the_best_so_far_can_be_done_without(viewer, panel, pair, fake, qtbot):
    panel.settings = Settings(on_cancel="best")
    fake.hold_fusion = True
    assert panel.run()
    qtbot.waitUntil(fake.holding.is_set, timeout=30_000)
    panel.button.click()
    assert panel.button.text() == "&Discard"
    panel.button.click()  # before or after the first layer is added
    assert not panel.running
    assert QThreadPool.globalInstance().waitForDone(5000)
    QApplication.processEvents()
    assert names(viewer) == ["vis", "ir"]
    assert "no layer was changed" in panel.stage.text()


@pytest.mark.parametrize("keep", ["nothing", "best"])
def test_cancel_while_the_layers_of_a_finished_run_go_in(viewer, panel, pair, fake, qtbot, keep):
    panel.settings = Settings(on_cancel=keep)
    assert panel.run()
    qtbot.waitUntil(lambda: "ir warped" in viewer.layers, timeout=30_000)
    assert panel.running
    assert len(viewer.layers) < 6
    panel.button.click()
    panel.wait()
    assert names(viewer) == ["vis", "ir", *(RESULTS if keep == "best" else [])]
    assert panel.stage.text().startswith("done" if keep == "best" else "cancelled")
    assert (panel.result is not None) == panel.undo_button.isEnabled() == (keep == "best")


def cancel_for_the_best(panel, fake, qtbot):
    """Return when the panel is idle and only the warped layer is added."""
    fake.holding.clear()
    hold(panel, fake, qtbot)
    panel.button.click()
    qtbot.waitUntil(lambda: not panel.running, timeout=5000)
    assert panel._adder.busy


def test_a_cancelled_run_ends_with_the_warped_layer(viewer, panel, pair, fake, qtbot):
    panel.settings = Settings(on_cancel="best")
    kept = ["ir warped", "ir mask", "ir displacement"]
    cancel_for_the_best(panel, fake, qtbot)
    assert names(viewer) == ["vis", "ir", "ir warped"]
    assert "best so far was kept" in panel.stage.text()
    assert panel.button.text() == "&Register and fuse"
    panel.wait()  # the others follow
    assert names(viewer) == ["vis", "ir", *kept]
    panel.undo()

    cancel_for_the_best(panel, fake, qtbot)
    panel.undo()  # of all of them
    assert names(viewer) == ["vis", "ir"]
    assert panel.result is None
    qtbot.wait(100)
    assert names(viewer) == ["vis", "ir"]

    cancel_for_the_best(panel, fake, qtbot)
    panel.advanced.controls["displacement"].value = "grid"
    assert names(viewer)[2:5] == kept
    assert not viewer.layers["ir displacement"].visible
    assert viewer.layers["ir deformed grid"].visible
    panel.undo()
    panel.settings = Settings(on_cancel="best")

    cancel_for_the_best(panel, fake, qtbot)
    fake.hold = False
    assert panel.run()  # adds the remaining layers first
    assert names(viewer)[2:5] == kept
    panel.wait()
    assert names(viewer) == ["vis", "ir", *kept, "vis fused"]
    assert panel.stage.text().startswith("done")


def test_a_second_press_does_not_start_a_second_run(viewer, panel, pair, fake, notes, qtbot):
    hold(panel, fake, qtbot)
    assert not panel.run()
    assert "a run is going on" in notes[-1][1]
    with qtbot.waitSignal(panel.idle, timeout=5000):
        fake.go.set()
    assert len(fake.calls) == 1
    assert len(viewer.layers) == 6


@pytest.mark.parametrize("removed", [("ir",), ("ir", "vis")])
def test_layers_removed_during_the_run(window, viewer, panel, pair, fake, notes, qtbot, removed):
    pair[1].scale = pair[0].scale = (2, 3)
    hold(panel, fake, qtbot)
    for name in removed:
        viewer.layers.remove(name)
    with qtbot.waitSignal(panel.idle, timeout=5000):
        fake.go.set()
    assert [name for name in names(viewer) if name not in ("ir", "vis")] == RESULTS
    np.testing.assert_array_equal(viewer.layers["ir warped"].scale, (2, 3))
    for name in removed:
        assert any(f"'{name}' was removed" in text for _, text in notes)


def test_closing_the_panel_stops_its_run(window, viewer, panel, pair, fake, qtbot):
    hold(panel, fake, qtbot)
    viewer.window.remove_dock_widget(panel)
    panel.deleteLater()
    del panel
    qtbot.waitUntil(fake.cancelled.is_set, timeout=5000)
    viewer.add_image(picture(), name="later")  # would call a dead widget if it were connected
    QApplication.processEvents()
    assert names(viewer) == ["vis", "ir", "later"]


def test_closing_the_viewer_stops_the_run(window, viewer, panel, pair, fake, qtbot):
    hold(panel, fake, qtbot)
    viewer.close()
    qtbot.waitUntil(fake.cancelled.is_set, timeout=5000)


def test_a_finished_job_keeps_no_images(viewer, panel, pair, fake, qtbot):
    fake.hold = True
    assert panel.run()
    job = panel._jobs.by_name["run"]
    qtbot.waitUntil(fake.holding.is_set, timeout=30_000)
    with qtbot.waitSignal(panel.idle, timeout=5000):
        fake.go.set()
    assert job._call is None
    assert panel._request is None


def test_wait_serves_the_window_until_the_end(viewer, panel, pair, fake):
    panel.wait()  # nothing runs: returns at once
    assert panel.run()
    panel.wait()
    assert not panel.running
    assert len(viewer.layers) == 6
