"""Properties of every panel, in a real window."""

from __future__ import annotations

import threading
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("napari")
from qtpy.QtCore import QPoint, QRect
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QProgressBar,
    QScrollArea,
    QScrollBar,
    QTabBar,
    QTableWidget,
)
from superqt import QCollapsible

import napari_busref
from napari_busref.runtime.progress import Reporter
from napari_busref.transforms.transform import Transform

KEY = "napari-busref"
MANIFEST = Path(napari_busref.__file__).with_name("napari.yaml")
CONTRIBUTIONS = yaml.safe_load(MANIFEST.read_text())["contributions"]
TITLES = [widget["display_name"] for widget in CONTRIBUTIONS["widgets"]]
SHAPE = (48, 64)


CONTROLS = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)


def controls_of(panel):
    """All controls that take the mouse or the keyboard."""
    return [
        control
        for kind in CONTROLS
        for control in panel.findChildren(kind)
        if not isinstance(control, QScrollBar)
        and not isinstance(control.parent(), QTableWidget)
        and control.objectName() != "qt_spinbox_lineedit"  # part of a control
    ]


def test_every_control_of_every_panel_is_explained_and_reached_by_the_keyboard(viewer):
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QApplication

    assert len(TITLES) == 7
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
    from qtpy.QtWidgets import QStyleOptionComboBox

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


def open_by_the_menu(title):
    from napari._app_model import get_app_model

    ids = {one["display_name"]: one["command"] for one in CONTRIBUTIONS["widgets"]}
    get_app_model().commands.execute_command(ids[title]).result()


def docks_of(viewer):
    """The docks of this plugin by title, in the order of opening."""
    from napari_busref._napari.widgets.docks import DockedPanel

    window = viewer.window._qt_window
    panels = sorted(window.findChildren(DockedPanel), key=lambda panel: panel._number)
    return {panel.TITLE: panel.parent() for panel in panels}


def in_front(viewer, title, qtbot):
    """Wait until a panel is in front of the others, which Qt animates."""
    dock = docks_of(viewer)[title]
    qtbot.waitUntil(lambda: not dock.visibleRegion().isEmpty(), timeout=5000)


@pytest.fixture
def shown(plugin, plugin_settings, make_napari_viewer):
    """A viewer on the screen, not behind a proxy."""
    return make_napari_viewer(show=True)


def test_panels_open_as_tabs_of_one_column(shown, qtbot):
    viewer = shown
    window = viewer.window._qt_window
    other = viewer.window.add_dock_widget(QLabel("of another plugin"), area="right")
    for title in TITLES:
        viewer.window.add_plugin_dock_widget(KEY, title)
        in_front(viewer, title, qtbot)
        docks = docks_of(viewer)
        first = next(iter(docks.values()))
        assert len(window.tabifiedDockWidgets(first)) == len(docks) - 1
    assert list(docks) == TITLES
    tabs = next(bar for bar in window.findChildren(QTabBar) if bar.count() == len(TITLES))
    texts = [tabs.tabText(number) for number in range(tabs.count())]
    short = {"Register", "Compare", "Landmarks", "Apply", "Import", "Train"}
    assert short | {"Folders"} == set(texts)
    assert not window.tabifiedDockWidgets(other)
    # a panel that the user has torn off is left alone, and no anchor for others
    docks[TITLES[0]].setFloating(True)
    viewer.window.remove_dock_widget(docks[TITLES[1]])
    qtbot.wait(50)
    viewer.window.add_plugin_dock_widget(KEY, TITLES[1])
    in_front(viewer, TITLES[1], qtbot)
    docks = docks_of(viewer)
    assert docks[TITLES[0]].isFloating()
    assert docks[TITLES[1]] in window.tabifiedDockWidgets(docks[TITLES[2]])


def test_a_panel_that_a_panel_opens_is_the_one_of_the_menu(shown, qtbot):
    viewer = shown
    for title in ("Register and fuse", "Landmarks"):
        open_by_the_menu(title)
        in_front(viewer, title, qtbot)
    docks = docks_of(viewer)
    landmarks = docks["Landmarks"].widget()
    assert landmarks.open_panel("Register and fuse") is docks["Register and fuse"].widget()
    in_front(viewer, "Register and fuse", qtbot)
    assert len(viewer.window.dock_widgets) == 2
    compare = landmarks.open_panel("Compare")
    in_front(viewer, "Compare", qtbot)
    assert len(docks_of(viewer)) == len(viewer.window.dock_widgets) == 3
    docks_of(viewer)["Landmarks"].raise_()
    in_front(viewer, "Landmarks", qtbot)
    open_by_the_menu("Compare")  # napari hides what is open
    assert compare.parent().isHidden()
    open_by_the_menu("Compare")
    in_front(viewer, "Compare", qtbot)
    assert len(docks_of(viewer)) == 3


@pytest.mark.parametrize("size", [(1024, 768), (1300, 850)])
def test_nothing_lies_over_anything_and_scrolling_reaches_every_control(shown, fake, qtbot, size):
    viewer, window = shown, shown.window._qt_window
    window.resize(*size)
    viewer.add_image(np.zeros((3, *SHAPE), np.uint8), name="a visible layer with a long name")
    viewer.add_image(np.zeros((3, *SHAPE), np.uint8), name="an infrared layer with a long name")
    fake.reliable = False
    for title in TITLES:
        _, panel = viewer.window.add_plugin_dock_widget(KEY, title)
        in_front(viewer, title, qtbot)
        qtbot.wait(300)  # what is unfolded takes its height from what is drawn
        work_in(panel)
        qtbot.wait(300)
        assert (window.width(), window.height()) == size, title
        assert panel.height() >= 240 and panel.width() >= 290, title
        assert overlaps_in(panel) == [], title
        scroll = panel.findChild(QScrollArea)
        for control in controls_of(panel):
            if control.isVisibleTo(panel):
                scroll.ensureWidgetVisible(control)
                corner = control.mapTo(scroll.viewport(), QPoint(0, 0))
                inside = scroll.viewport().rect().contains(QRect(corner, control.size()))
                assert inside, (title, control.objectName())


def work_in(panel):
    """Bring a panel to the state in which it shows most."""
    for box in panel.findChildren(QCollapsible):
        box.expand(animate=False)
    if panel.TITLE == "Register and fuse":
        panel.run()
        panel.wait()
        assert panel.verdict.steps.isVisibleTo(panel)
    elif panel.TITLE == "Landmarks":
        for points in panel.start().points.values():
            points.add([[0, 5, 5], [0, 5, 50], [0, 40, 8], [0, 40, 55], [0, 20, 20]])
        panel.refresh()
        assert panel.table.rowCount() == 5
    elif panel.TITLE == "Compare":
        panel.compare()
        panel.wait()
        panel.measure()
        panel.wait()
        assert panel.table.rowCount() > 2


def overlaps_in(panel):
    """Pairs of controls and texts that lie over each other, or are cut by their parent."""
    kinds = (QLabel, QTableWidget, QProgressBar, *CONTROLS)
    parts = []
    for kind in kinds:
        for part in panel.findChildren(kind):
            inner = any(isinstance(above, kinds) for above in parents(part, panel))
            if part.isVisibleTo(panel) and not inner and not isinstance(part, QScrollBar):
                parts.append((part, QRect(part.mapTo(panel, QPoint(0, 0)), part.size())))
    found = [
        (one.objectName(), other.objectName())
        for (one, here), (other, there) in combinations(parts, 2)
        if here.intersects(there)
    ]
    return found + [
        part.objectName()
        for part, _ in parts
        if not part.parent().rect().contains(part.geometry())
    ]


def parents(widget, top):
    """The widgets between a widget and a panel."""
    while (widget := widget.parent()) is not top:
        yield widget


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
