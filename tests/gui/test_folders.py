"""The panel 'Register folders' in a real viewer."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from napari_busref import write_image
from napari_busref._napari.register.settings import Settings

SETTINGS = Settings(model="identity", fusion_model="average", device="cpu")


@pytest.fixture
def panel(viewer, tmp_path):
    rng = np.random.default_rng(0)
    for folder, end in (("vis", "V"), ("ir", "T")):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            image = rng.random((40, 48)).astype(np.float32)
            write_image(tmp_path / folder / f"{name}_{end}.tif", image)
    (tmp_path / "ir" / "c_T.png").write_bytes(b"no image")
    write_image(tmp_path / "vis" / "c_V.png", np.zeros((40, 48), np.uint8))
    write_image(tmp_path / "vis" / "alone.png", np.zeros((40, 48), np.uint8))
    _, widget = viewer.window.add_plugin_dock_widget("napari-busref", "Register folders")
    widget.settings = SETTINGS
    widget.fixed_folder.setText(str(tmp_path / "vis"))
    widget.moving_folder.setText(str(tmp_path / "ir"))
    widget.output_folder.setText(str(tmp_path / "out"))
    return widget


def cells(panel):
    table = panel.table
    return [
        [table.item(row, column).text() for column in range(table.columnCount())]
        for row in range(table.rowCount())
    ]


def test_all_pairs_of_two_folders(viewer, panel, tmp_path, notes):
    panel.button.click()
    panel.wait()
    names = [row["name"] for _, row in panel.rows]
    assert names == ["a_T", "b_T", "c_T"]
    assert [row[0] for row in cells(panel)] == names
    assert [row[1] for row in cells(panel)][2] == "✗ failed"
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == names
    assert "1 failed; 1 images without a partner" in panel.outcome.text()
    assert (tmp_path / "out" / "b_T_fused.tif").exists()
    # a pair in the viewer: its fused image alone is visible
    panel.table.selectRow(1)
    panel.open_button.click()
    layers = [layer.name for layer in viewer.layers]
    assert layers[:3] == ["b_V", "b_T", "b_T_warped"] and layers[-1] == "b_T_fused"
    assert [layer.name for layer in viewer.layers if layer.visible] == ["b_T_fused"]
    assert "napari-busref" in viewer.layers[3].metadata
    assert not panel.open_row(2)  # failed: there is nothing to open
    assert "no results" in notes[-1][1]


def test_earlier_results_are_kept_or_replaced_on_request(panel, tmp_path, notes):
    (tmp_path / "ir" / "c_T.png").unlink()
    panel.match.setText("*_V,*_T")
    panel.run()
    panel.wait()
    warped = tmp_path / "out" / "a_T_warped.tif"
    before = warped.stat().st_mtime_ns
    panel.run()
    panel.wait()
    assert "choose what to do with earlier results" in panel.stage.text()
    assert "--" not in panel.stage.text()
    panel.earlier.value = "resume"
    panel.run()
    panel.wait()
    assert warped.stat().st_mtime_ns == before and len(panel.rows) == 2
    panel.earlier.value = "overwrite"
    panel.run()
    panel.wait()
    assert warped.stat().st_mtime_ns != before


def test_bad_folders_and_cancel(panel, tmp_path, notes, monkeypatch):
    panel.output_folder.setText("")
    assert not panel.run()
    assert "choose the folder of the results" in notes[-1][1]
    panel.output_folder.setText(str(tmp_path / "out"))
    panel.match.setText("size")
    panel.run()
    panel.wait()
    assert "match: got 'size'" in panel.stage.text()
    panel.match.setText("name")

    def held(*args, cancel, progress, **options):
        panel._jobs.by_name["run"].quit()
        progress("registering", 0.5)

    monkeypatch.setattr("napari_busref._napari.folders.run.run_files", held)
    panel.run()
    panel.wait()
    assert "cancelled; 0 pairs are done" in panel.stage.text()
    assert panel.controls.isEnabled()
