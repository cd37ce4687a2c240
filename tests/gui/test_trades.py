"""The switch of the trade, keys and colours of every panel, in a real window."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("napari")

import napari_busref
from napari_busref._napari.layers.trades import TRADES, current_trade, set_trade

KEY = "napari-busref"
MANIFEST = Path(napari_busref.__file__).with_name("napari.yaml")
WIDGETS = yaml.safe_load(MANIFEST.read_text())["contributions"]["widgets"]
TITLES = [widget["display_name"] for widget in WIDGETS]


def texts_of(panel):
    """All texts that a user can read."""
    from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QTableWidget, QWidget

    found = []
    for widget in panel.findChildren(QWidget):
        found += [widget.toolTip(), widget.accessibleName()]
        if isinstance(widget, QLabel | QAbstractButton):
            found.append(widget.text())
        if isinstance(widget, QComboBox):
            found += [widget.itemText(row) for row in range(widget.count())]
        if isinstance(widget, QTableWidget):
            headers = map(widget.horizontalHeaderItem, range(widget.columnCount()))
            found += [header.text() for header in headers]
    return [text for text in found if text]


@pytest.fixture
def pair(viewer):
    for name in ("one", "two"):
        viewer.add_image(np.zeros((40, 48)), name=name)


def test_every_panel_speaks_the_trade(viewer, pair):
    panels = {title: viewer.window.add_plugin_dock_widget(KEY, title)[1] for title in TITLES}
    for name, trade in TRADES.items():
        set_trade(name)
        others = {word for other in TRADES.values() for word in (other.moving, other.fixed)}
        others -= {trade.moving, trade.fixed, "fixed", "moving", "reference"}
        for title, panel in panels.items():
            texts = [text for text in texts_of(panel) if "infrared-visible" not in text]
            said = [text.lower().replace("&", "") for text in texts]
            assert not [text for text in said if re.search(r"\{\w+\}", text)], title
            for word in others:
                wrong = [text for text in said if re.search(rf"\b{word}\b", text)]
                assert not wrong, (name, title, word)
            assert any(trade.moving in text for text in said), title


def test_the_switch_changes_all_open_panels_and_is_remembered(viewer, pair):
    from qtpy.QtWidgets import QComboBox

    panels = {title: viewer.window.add_plugin_dock_widget(KEY, title)[1] for title in TITLES}
    register, landmarks = panels["Register and fuse"], panels["Landmarks"]
    assert any("Infrared" in text for text in texts_of(register))
    switch = register.findChild(QComboBox, "trade")
    assert [switch.itemText(row) for row in range(switch.count())] == [
        "thermal camera",
        "microscopy",
        "remote sensing",
        "general",
    ]
    switch.setCurrentIndex(1)
    assert current_trade().name == "microscopy"
    for title, panel in panels.items():
        texts = " ".join(texts_of(panel)).replace("&", "")
        assert "eference" in texts and "Infrared" not in texts, title
    headers = landmarks.table
    assert headers.horizontalHeaderItem(1).text() == "reference"
    tasks = register.advanced.controls["task"]
    view = tasks.native.view()
    rows = [row for row in range(tasks.native.count()) if not view.isRowHidden(row)]
    assert {tasks.native.itemText(row) for row in rows} == {
        "two stains or channels",
        "two focal planes",
    }
    switch.setCurrentIndex(0)
    register.advanced.expand(animate=False)
    assert not tasks.native.isVisibleTo(register)  # one task: nothing to choose
    assert "Infrared" in " ".join(texts_of(landmarks)).replace("&", "")


def letters(panel):
    """Letters of the keyboard shortcuts that a panel uses, of what can be seen."""
    from qtpy.QtWidgets import QAbstractButton, QLabel

    found = []
    for widget in [*panel.findChildren(QLabel), *panel.findChildren(QAbstractButton)]:
        mark = re.search(r"&(\w)", widget.text())
        if mark and widget.isVisibleTo(panel):
            found.append(mark.group(1).lower())
    return found


def test_no_key_collides_with_menus_shortcuts_or_within_a_panel(viewer, pair):
    from napari.settings import get_settings
    from qtpy.QtWidgets import QMainWindow

    panels = {title: viewer.window.add_plugin_dock_widget(KEY, title)[1] for title in TITLES}
    panels["Register and fuse"].advanced.expand(animate=False)
    panels["Register and fuse"].verdict.steps.show()
    window = next(panel.window() for panel in panels.values())
    assert isinstance(window, QMainWindow)
    menus = [action.text() for action in window.menuBar().actions()]
    taken = {text[text.index("&") + 1].lower() for text in menus if "&" in text}
    assert {"f", "v", "p", "w", "h"} <= taken
    for bindings in get_settings().shortcuts.shortcuts.values():
        for binding in bindings:
            mark = re.fullmatch(r"Alt\+(\w)", str(binding))
            taken |= {mark.group(1).lower()} if mark else set()
    for name in TRADES:
        set_trade(name)
        for title, panel in panels.items():
            modes = list(panel.mode.choices) if title == "Compare" else [None]
            for mode in modes:
                if mode is not None:
                    panel.mode.value = mode
                used = letters(panel)
                assert used, title
                assert not taken & set(used), (title, taken & set(used))
                assert len(used) == len(set(used)), (title, mode, sorted(used))


def test_changed_settings_are_marked_and_reset(viewer, pair):
    _, panel = viewer.window.add_plugin_dock_widget(KEY, "Register and fuse")
    form = panel.advanced
    from napari_busref._napari.widgets.forms import caption_of

    def bold(name):
        return caption_of(form.controls[name].native).font().bold()

    assert form.text().endswith("Advanced settings") and not form.reset_button.isEnabled()
    form.controls["search"].value = "wide"
    form.controls["fill_value"].value = "-1"
    form.controls["mask"].value = False
    assert form.text().endswith("· 3 changed") and form.different == {
        "search",
        "fill_value",
        "mask",
    }
    assert bold("search") and bold("fill_value") and not bold("refine")
    assert form.controls["mask"].native.font().bold()
    form.expand(animate=False)
    assert form.text().endswith("· 3 changed")
    form.reset_button.click()
    assert not form.different and form.text().endswith("Advanced settings")
    assert not bold("search") and not form.reset_button.isEnabled()


def test_no_cell_of_a_table_is_cut_in_a_narrow_panel(viewer, pair):
    from qtpy.QtWidgets import QApplication, QStyle

    from napari_busref._napari.compare.metrics import Measured
    from napari_busref.metrics.alignment import ALIGNMENT_METRICS

    values = dict.fromkeys(ALIGNMENT_METRICS, -0.0001234)
    for title in ("Compare", "Landmarks"):
        _, panel = viewer.window.add_plugin_dock_widget(KEY, title)
        if title == "Compare":
            panel.table.show_measured(Measured(values, values, {}, (9, 9)))
        else:
            panel.start()
            points = np.array([[1, 1], [1, 1500], [1400, 1], [1500, 1600], [700, 800]])
            panel.pairs.points["fixed"].add(points)
            panel.pairs.points["moving"].add(points[:, ::-1] * 1.5 + [[0, 90]])
            panel.refresh()
        panel.setFixedWidth(300)
        QApplication.processEvents()
        table = panel.table
        margin = 2 * table.style().pixelMetric(QStyle.PixelMetric.PM_FocusFrameHMargin)
        for row in range(table.rowCount()):
            for column in range(table.columnCount()):
                item = table.item(row, column)
                if item is None or table.columnSpan(row, column) > 1:
                    continue
                parts = item.text().split() if column == 0 else [item.text()]  # names wrap
                width = max(map(table.fontMetrics().horizontalAdvance, parts), default=0)
                assert width + margin <= table.columnWidth(column), (title, item.text())
        if title == "Compare":  # the other one scrolls
            total = sum(map(table.columnWidth, range(table.columnCount())))
            assert total <= table.viewport().width() + 1
        viewer.window.remove_dock_widget(panel)
