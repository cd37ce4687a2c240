"""The panel "Fine-tune" in a real viewer, with tiny pairs and few steps."""

from __future__ import annotations

import numpy as np
import pytest
from imageio.v3 import imwrite

from napari_busref.models import card, list_models
from napari_busref.training.finetuning.plan import trainings_folder

KEY = "napari-busref"
SHAPE = (48, 64)


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_BUSREF_DATA", str(tmp_path / "data"))


@pytest.fixture
def train(viewer):
    _, widget = viewer.window.add_plugin_dock_widget(KEY, "Fine-tune")
    widget.choices.registration.value, widget.choices.fusion.value = None, "gaf"  # faster to train
    widget.choices.name.setText("our camera")
    widget.choices.steps.setValue(3)
    widget.choices.batch.setValue(1)
    widget.choices.every.setValue(2)
    widget.choices.device.value = "cpu"
    return widget


def pair(seed):
    """A visible and an infrared image, 8 bits, not aligned with anything else."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices(SHAPE)
    grey = 0.5 + 0.4 * np.sin(rows / rng.uniform(3, 6)) * np.cos(cols / rng.uniform(3, 6))
    return (255 * grey).astype(np.uint8), (255 * (1 - grey**2)).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    paths = tmp_path / "vis", tmp_path / "ir"
    for path in paths:
        path.mkdir()
    for seed in range(3):
        for path, image in zip(paths, pair(seed), strict=True):
            imwrite(path / f"{seed}.png", image)
    return paths


def choose(train, folders):
    train.source.fixed_folder.setText(str(folders[0]))
    train.source.moving_folder.setText(str(folders[1]))


def names(viewer):
    return [layer.name for layer in viewer.layers]


def wait(train, qtbot):
    qtbot.waitUntil(lambda: not train.running, timeout=600_000)


def test_folders_are_trained_on_and_the_model_is_offered(viewer, train, folders, qtbot, notes):
    choose(train, folders)
    assert train.run()
    assert train.running and train.button.text() == "&Stop"
    assert not train.choices.isEnabled()
    assert not train.run()  # one at a time
    assert "a run is going on" in notes[-1][1]
    wait(train, qtbot)
    (result,) = train.results
    assert (result.name, result.steps) == ("our camera", 3)
    assert "our camera" in list_models("fusion")
    assert card("our camera")["data"] == {f"{folders[0]} and {folders[1]}": "2 aligned pairs"}
    assert "our camera (fusion): Q_AB/F on held-out pairs" in train.outcome.text()
    assert [step for step, _ in train.curve.losses] == [1, 2, 3]
    assert [step for step, _ in train.curve.scores] == [0, 2, 3]
    assert names(viewer) == [
        "held-out visible",
        "held-out infrared",
        "before training",
        "training now",
    ]
    np.testing.assert_allclose(viewer.layers[0].data, pair(2)[0] / 255, atol=1e-3)
    assert not np.array_equal(viewer.layers[2].data, viewer.layers[3].data)
    assert viewer.layers[3].metadata[KEY]["step"] == 3
    assert "our camera" in train.choices.fusion.choices and "our camera" in train.models.choices
    assert not train.grab().toImage().isNull()
    _, register = viewer.window.add_plugin_dock_widget(KEY, "Register and fuse")
    assert "our camera" in register.fusion_model.choices

    # an existing name is refused before any work
    assert train.run()
    wait(train, qtbot)
    assert "there is a model 'our camera' already" in train.stage.text()
    assert ("error", f"Fine-tune: {train.stage.text()}") in notes
    train.remove_model_button.click()
    assert "our camera" not in list_models() and not train.models_row.isVisibleTo(train)


def test_a_stopped_training_of_layers_is_resumed(viewer, train, qtbot):
    stack = np.stack([pair(seed)[0] for seed in range(3)])
    fixed = viewer.add_image(stack, name="vis", scale=(1, 2, 2), units=("s", "um", "um"))
    moving = viewer.add_image(
        np.stack([pair(seed)[1] for seed in range(3)]),
        name="ir",
        scale=(1, 2, 2),
        units=("s", "um", "um"),
    )
    train.source.source.value = "layers"
    assert (train.source.fixed.value, train.source.moving.value) == (fixed, moving)
    assert train.source.add_pair()
    assert train.source.pair_list.item(0).text() == "vis  +  ir  (3 planes)"
    train.choices.steps.setValue(100_000)
    assert train.run()
    qtbot.waitUntil(lambda: len(train.curve.losses) > 1, timeout=600_000)
    train.button.click()
    wait(train, qtbot)
    assert "stopped" in train.stage.text()
    assert train.button.isEnabled() and train.choices.isEnabled()
    assert train.unfinished_row.isVisibleTo(train)
    assert train.unfinished.value == trainings_folder() / "our camera"
    assert [layer.units[-1] for layer in viewer.layers] == [fixed.units[-1]] * 6
    viewer.layers.remove(fixed)
    viewer.layers.remove("training now")
    assert train.source.pair_list.count() == 0
    before = len(train.curve.losses)
    train.finish_button.click()
    wait(train, qtbot)
    (result,) = train.results
    assert result.steps >= before > 0
    assert "our camera" in list_models("fusion")
    assert not train.unfinished_row.isVisibleTo(train)


def test_wrong_choices_are_said_and_the_panel_stays_usable(viewer, train, folders, qtbot, notes):
    def last(text):
        assert text in notes[-1][1] and text in train.stage.text()
        assert train.button.isEnabled() and not train.running

    assert not train.run()
    last("visible folder: none is chosen")
    choose(train, (folders[0], folders[0].parent))
    assert not train.run()
    last("infrared folder: no image in the folder")
    train.choices.fusion.value = None
    assert not train.run()
    last("choose a model to continue from")
    train.choices.fusion.value = "gaf"
    train.source.source.value = "layers"
    assert not train.source.add_pair()
    last("open two aligned image layers")
    viewer.add_image(pair(0)[0], name="vis")
    small = viewer.add_image(pair(0)[1][:40], name="ir")
    assert not train.run()
    last("have 48 x 64 px and 40 x 64 px")
    small.data = pair(0)[1]
    small.translate = (5, 0)
    assert not train.source.add_pair()
    last("do not cover each other")
    small.translate = (0, 0)
    assert train.run()  # the worker refuses a single pair that is too small to split
    wait(train, qtbot)
    last("give at least two pairs")
    train.choices.name.setText("gaf")
    assert train.run()
    wait(train, qtbot)
    last("is a model of this package")
    assert not train.resume()
    last("no training that was stopped")


def test_a_panel_that_is_closed_leaves_a_checkpoint(viewer, train, folders, qtbot):
    choose(train, folders)
    train.choices.steps.setValue(100_000)
    assert train.run()
    qtbot.waitUntil(lambda: len(train.curve.losses) > 1, timeout=600_000)
    job = train._jobs.by_name["run"]
    viewer.window.remove_dock_widget(train)
    train.deleteLater()
    qtbot.waitUntil(lambda: not job.is_running, timeout=300_000)
    checkpoint = trainings_folder() / "our camera" / "fusion" / "checkpoint.ckpt"
    assert checkpoint.is_file()
    _, again = viewer.window.add_plugin_dock_widget(KEY, "Fine-tune")
    assert again.unfinished.value == trainings_folder() / "our camera"
    # the training continues without its images
    again.resume_button.click()
    assert again.running
    qtbot.waitUntil(lambda: len(again.curve.losses) > 2, timeout=600_000)
    steps = [step for step, _ in again.curve.losses]
    assert steps == sorted(set(steps)) and steps[0] == 1  # including the earlier ones
    again.cancel()
    wait(again, qtbot)
    assert again.unfinished.value == trainings_folder() / "our camera"


def test_closing_the_viewer_leaves_a_checkpoint(viewer, train, folders, qtbot):
    choose(train, folders)
    train.choices.steps.setValue(100_000)
    assert train.run()
    qtbot.waitUntil(lambda: len(train.curve.losses) > 1, timeout=600_000)
    job = train._jobs.by_name["run"]
    viewer.close()
    qtbot.waitUntil(lambda: not job.is_running, timeout=300_000)
    assert (trainings_folder() / "our camera" / "fusion" / "checkpoint.ckpt").is_file()
