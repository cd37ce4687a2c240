"""The button "Save result…", with models that need no weights."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("zarr")
from napari.components import ViewerModel

from napari_busref import read_image
from napari_busref._napari.register import result_saver as module
from napari_busref._napari.register.panel import RegisterAndFuse
from napari_busref._napari.register.settings import Settings
from napari_busref.images import pyramid

QUICK = Settings(
    model="identity", search="none", refine="none", device="cpu", fusion_model="average"
)


@pytest.fixture
def panel(plugin, plugin_settings, qtbot):
    viewer = ViewerModel()
    widget = RegisterAndFuse(viewer)
    qtbot.addWidget(widget)
    rng = np.random.default_rng(0)
    viewer.add_image(rng.integers(0, 255, (40, 56, 3), np.uint8), name="vis", rgb=True)
    viewer.add_image(rng.integers(0, 255, (40, 56), np.uint8), name="ir", colormap="inferno")
    widget.reset_choices()
    widget.settings = QUICK
    return widget


def run_to_the_end(panel, qtbot, start):
    with qtbot.waitSignal(panel.idle, timeout=120_000):
        assert start()


def test_save_asks_where_and_whether_to_replace(panel, qtbot, tmp_path, monkeypatch):
    assert not panel.save_button.isEnabled()
    assert not panel.save_result(tmp_path / "a.tif")
    run_to_the_end(panel, qtbot, panel.run)
    verdict = panel.verdict.text.text()
    asked = []
    monkeypatch.setattr(module, "ask_where", lambda *_: (tmp_path / "pair.ome.zarr", False))
    monkeypatch.setattr(module, "ask_to_replace", lambda *said: asked.append(said[1]) or True)
    for _ in range(2):
        with qtbot.waitSignal(panel.idle, timeout=120_000):
            panel.save_button.click()
            assert panel.running
            assert "Cancel" in panel.button.text().replace("&", "")
        assert panel.stage.text().startswith(f"saved 4 files in {tmp_path}")
    assert len(asked) == 1 and "already holds pair.busref.h5" in asked[0]
    fused = read_image(tmp_path / "pair_fused.ome.zarr").data
    assert np.array_equal(fused, panel._viewer.layers["vis fused"].data)
    assert panel.verdict.text.text() == verdict


def test_cancel_and_failure_keep_the_result(panel, qtbot, tmp_path, monkeypatch):
    run_to_the_end(panel, qtbot, panel.run)
    verdict, result = panel.verdict.text.text(), panel.result
    assert not panel.save_result(tmp_path / "pair.png")
    assert "a plane is saved as" in panel.stage.text()
    write = pyramid.PyramidWriter.write

    def cancelled(*args):
        write(*args)
        panel._jobs.by_name["run"].cancel.set()

    monkeypatch.setattr(pyramid.PyramidWriter, "write", cancelled)
    run_to_the_end(panel, qtbot, lambda: panel.save_result(tmp_path / "pair.ome.zarr"))
    assert panel.stage.text() == "cancelled; what was done stays"
    names = sorted(path.name for path in tmp_path.glob("pair*"))
    assert names == ["pair.busref.h5", "pair_mask.ome.zarr"]  # complete ones
    assert (panel.verdict.text.text(), panel.result) == (verdict, result)


def test_a_typed_extension_counts_more_than_the_chosen_kind(panel, monkeypatch):
    kinds = {"zarr": (".ome.zarr", False), "tiff": (".tif", False), "cog": (".tif", True)}
    for typed, kind, name, cloud in (
        ("a", "zarr", "a.ome.zarr", False),
        ("a", "cog", "a.tif", True),
        ("a.TIF", "cog", "a.TIF", True),
        ("a.tif", "zarr", "a.tif", False),
        ("a.ome.zarr", "cog", "a.ome.zarr", False),
    ):
        answer = typed, kind
        monkeypatch.setattr(
            module.QFileDialog, "getSaveFileName", lambda *_, answer=answer, **__: answer
        )
        found = module.ask_where(panel, "a", kinds)
        assert found is not None and (found[0].name, found[1]) == (name, cloud)
    monkeypatch.setattr(module.QFileDialog, "getSaveFileName", lambda *_, **__: ("", ""))
    assert module.ask_where(panel, "a", kinds) is None
