"""Properties of every panel, in a real window."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("napari")

import napari_busref
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms.transform import Transform

KEY = "napari-busref"
MANIFEST = Path(napari_busref.__file__).with_name("napari.yaml")
CONTRIBUTIONS = yaml.safe_load(MANIFEST.read_text())["contributions"]
TITLES = [widget["display_name"] for widget in CONTRIBUTIONS["widgets"]]
SHAPE = (48, 64)


def controls_of(panel):
    """All controls that take the mouse or the keyboard."""
    from qtpy.QtWidgets import (
        QAbstractButton,
        QAbstractSlider,
        QAbstractSpinBox,
        QComboBox,
        QLineEdit,
        QScrollBar,
        QTableWidget,
    )

    kinds = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)
    return [
        control
        for kind in kinds
        for control in panel.findChildren(kind)
        if not isinstance(control, QScrollBar)
        and not isinstance(control.parent(), QTableWidget)
        and control.objectName() != "qt_spinbox_lineedit"  # part of a control
    ]


def test_every_control_of_every_panel_is_explained_and_reached_by_the_keyboard(viewer):
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QApplication

    assert len(TITLES) == 6
    for title in TITLES:
        _, panel = viewer.window.add_plugin_dock_widget(KEY, title)
        if title == "Register and fuse":
            panel.advanced.expand(animate=False)
            QApplication.processEvents()
        controls = controls_of(panel)
        assert controls
        for control in controls:
            name = (title, type(control).__name__, control.objectName())
            assert control.toolTip(), name
            assert control.focusPolicy() & Qt.FocusPolicy.TabFocus, name
        assert panel.minimumSizeHint().width() <= 300, title  # a narrow column of a small screen
        viewer.window.remove_dock_widget(panel)


def test_choosers_of_layers_show_both_ends_of_long_names(viewer, qtbot):
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QComboBox, QLabel, QStyleOptionComboBox

    from napari_busref._napari.widgets.layer_chooser import elided

    names = [f"2026-11-20_flight_over_the_harbour_in_the_morning_{end}" for end in "TV"]
    for name in names:
        viewer.add_image(np.zeros(SHAPE), name=name)
    metadata = {"transform": Transform.identity(SHAPE), "role": "warped", "axes": (0, 1)}
    metadata |= {"fixed": names[1], "moving": names[0], "name": "warped"}
    viewer.add_image(np.zeros(SHAPE), name="warped", metadata={KEY: metadata})
    seen = 0
    for title in TITLES:
        _, panel = viewer.window.add_plugin_dock_widget(KEY, title)
        panel.reset_choices()
        for box in panel.findChildren(QComboBox):
            name = box.currentText()
            if "harbour" not in name:
                continue
            seen += 1
            box.grab()  # draws it
            assert box.toolTip().startswith(name) and len(box.toolTip()) > len(name) + 20
            assert box.itemData(box.currentIndex(), Qt.ItemDataRole.ToolTipRole) == name
            box.resize(200, box.height())
            option = QStyleOptionComboBox()
            box.initStyleOption(option)
            text = elided(box, option)
            assert "…" in text and text.startswith("20") and text.endswith(name[-2:])
            for label in panel.findChildren(QLabel):
                assert "harbour" not in label.toolTip()  # it would be stale after a choice
        viewer.window.remove_dock_widget(panel)
    assert seen >= 11


def test_every_panel_is_in_the_layers_menu_too(viewer):
    from napari._app_model import get_app_model

    menus = get_app_model().menus
    listed = {
        item.command.id
        for name in ("register", "transform", "visualize", "measure")
        for item in menus.get_menu(f"napari/layers/{name}")
    }
    assert {widget["command"] for widget in CONTRIBUTIONS["widgets"]} <= listed


class Held:
    """Work that runs until it is cancelled."""

    def __init__(self):
        self.begun, self.cancelled = threading.Event(), threading.Event()

    def __call__(self, *args, progress=None, cancel=None, **kwargs):
        self.begun.set()
        assert cancel.wait(20)
        self.cancelled.set()
        Reporter(progress, cancel).check()


def begin_applying(viewer, monkeypatch, held):
    monkeypatch.setattr("napari_busref._napari.apply_transform.panel.apply_transform", held)
    transform = Transform.identity(SHAPE)
    known = {"transform": transform, "role": "warped", "fixed": "vis", "moving": "ir"}
    metadata = {KEY: known | {"axes": (0, 1), "name": "ir warped"}}
    viewer.add_image(np.zeros(SHAPE), name="ir warped", metadata=metadata)
    _, panel = viewer.window.add_plugin_dock_widget(KEY, "Apply transform")
    viewer.layers.selection = {viewer.layers["ir"]}
    assert panel.run()
    return panel


def begin_landmarks(viewer, monkeypatch, held):
    _, panel = viewer.window.add_plugin_dock_widget(KEY, "Landmarks")
    monkeypatch.setattr("napari_busref._napari.landmarks.result.register_stack", held)
    pairs = panel.start()
    for points in pairs.points.values():
        points.add([[5, 5], [5, 50], [40, 8], [40, 55]])
    assert panel.use_as_result()
    return panel


@pytest.mark.parametrize("closed", ["panel", "viewer"])
@pytest.mark.parametrize("begin", [begin_applying, begin_landmarks])
def test_work_under_way_ends_with_its_panel_or_viewer(viewer, qtbot, monkeypatch, begin, closed):
    held = Held()
    for name in ("vis", "ir"):
        viewer.add_image(np.zeros(SHAPE), name=name)
    panel = begin(viewer, monkeypatch, held)
    qtbot.waitUntil(held.begun.is_set, timeout=10_000)
    before = [layer.name for layer in viewer.layers]
    if closed == "viewer":
        viewer.close()
    else:
        viewer.window.remove_dock_widget(panel)
        panel.deleteLater()
    qtbot.waitUntil(held.cancelled.is_set, timeout=10_000)
    if closed == "panel":
        assert [layer.name for layer in viewer.layers] == before


def test_an_error_in_mid_work_is_notified_and_the_panels_go_on(viewer, qtbot, monkeypatch, notes):
    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")  # torch raises these, and napari's workers swallow them

    for name in ("vis", "ir"):
        viewer.add_image(np.zeros(SHAPE), name=name)
    again = {begin_applying: "run", begin_landmarks: "use_as_result"}
    for begin, method in again.items():
        before = len(viewer.layers)
        with monkeypatch.context() as patch:
            panel = begin(viewer, patch, fail)
            panel.wait()
        assert notes[-1][0] == "error" and "out of luck" in notes[-1][1]
        assert not panel.running
        assert getattr(panel, method)()
        panel.wait()
        assert len(viewer.layers) > before + 1
