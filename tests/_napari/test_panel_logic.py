"""The panel "Register and fuse" without a window: settings, texts, undo."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")

import yaml
from napari.components import LayerList
from napari.layers import Image, Shapes

import napari_busref
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.undo import Undo
from napari_busref._napari.register.settings import PANEL_OPTIONS, Settings, _valid
from napari_busref._napari.widgets.words import (
    headline,
    pair_text,
    quality_html,
    reasons_text,
    shortened,
)
from napari_busref.registration.quality import Evidence, Quality, assess, unregistered
from napari_busref.transforms.transform import Transform

LOOK = {"palette", "scale_bar"}  # of another style than natural


def test_the_manifest_remembers_every_setting_with_its_default():
    manifest = Path(napari_busref.__file__).with_name("napari.yaml").read_text()
    group = yaml.safe_load(manifest)["contributions"]["configurations"]["registration"]
    described = group["properties"]
    assert {name: entry["default"] for name, entry in described.items()} == asdict(Settings())
    assert {option.name for option in PANEL_OPTIONS} == set(described)
    for option in PANEL_OPTIONS:
        offered = None if option.choices is None else [value for _, value in option.choices()]
        if "enum" in described[option.name]:
            assert described[option.name]["enum"] == offered
        elif offered is not None:  # an open list, such as models
            assert getattr(Settings(), option.name) in offered


def test_what_is_no_longer_offered_becomes_the_default():
    remembered = Settings(model="gone", device="cpu", search="sideways", fused=False)
    assert _valid(remembered) == Settings(device="cpu", fused=False)


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        (Settings(), {"weights", *LOOK}),
        (Settings(refine="none"), {"transform", "weights", *LOOK}),
        (Settings(model="busref"), {"transform", "weights", *LOOK}),
        (
            Settings(model="busref", fused=False),
            {
                "transform",
                "on_cancel",
                "fusion_model",
                "task",
                "infrared",
                "detail",
                "style",
                "weights",
                *LOOK,
            },
        ),
        (Settings(refine="none", planes="each"), {"transform", "weights", *LOOK}),
        (Settings(fusion_model="refusion"), LOOK),
        (
            Settings(fused=False),
            {"fusion_model", "task", "infrared", "detail", "style", "weights", *LOOK},
        ),
        (Settings(style="msx"), {"fusion_model", "task", "infrared", "weights"}),
    ],
)
def test_settings_that_change_nothing(settings, unused):
    assert settings.unused == unused


@pytest.mark.parametrize(
    ("settings", "block_confidence", "searched"),
    [
        (Settings(), None, True),  # nothing was found
        (Settings(), 0.59, True),
        (Settings(), 0.6, False),
        (Settings(search="auto", model="busref"), None, True),
        (Settings(model="busref"), None, False),
        (Settings(search="near"), 0.1, False),
        (Settings(search="none"), None, False),
        (Settings(search="wide"), 0.9, True),
    ],
)
def test_which_runs_have_tried_a_wide_search(settings, block_confidence, searched):
    evidence = None if block_confidence is None else Evidence(block_confidence, 1.0)
    assert settings.searched_wide(replace(QUALITY, evidence=evidence)) == searched


def test_reasons_are_said_once_and_without_names_of_python():
    mask = np.ones((4, 4), bool)
    nothing = unregistered(
        mask,
        "the edges of the two images do not agree more than by chance; an error below 5 px is "
        "unlikely (probability 9%); 100% of the picture is doubtful: an error below 5 px is "
        "unlikely there; a wide search, or an initial transform may help; the initial transform "
        "is returned",
    )
    assert reasons_text(nothing) == [
        "the edges of the two images do not agree more than by chance",
        "an error below 5 px is unlikely (probability 9%)",
    ]
    assert quality_html(nothing, 0.0).count("<li>") == 2
    assert reasons_text(unregistered(mask, "no texture; the initial transform is returned")) == [
        "no texture"
    ]
    doubtful = ("an error below 5 px is unlikely (probability 9%)",)
    whole = "100% of the picture is doubtful: an error below 5 px is unlikely there"
    part = whole.replace("100", "40")
    for reasons, said in (((*doubtful, whole), doubtful), ((*doubtful, part),) * 2):
        assert reasons_text(replace(QUALITY, reliable=False, reasons=reasons)) == list(said)
    mirrored = ("the moving image fits when mirrored: allow it with mirrored=True",)
    (said,) = reasons_text(replace(QUALITY, reliable=False, reasons=mirrored))
    assert said.startswith("the infrared image fits") and "advanced settings" in said
    assert "mirrored=" not in said


def test_a_pose_of_a_wide_search_is_not_searched_again_however_confident():
    evidence = Evidence(0.7, 9.0, chosen="wide 1")
    assert Settings().searched_wide(replace(QUALITY, evidence=evidence))
    assert not Settings().searched_wide(
        replace(QUALITY, evidence=replace(evidence, chosen="near 1"))
    )


def test_settings_as_arguments_of_register():
    assert Settings().registration() == {
        "model": "auto",
        "search": None,
        "mirrored": False,
        "refine": None,
        "transform": "affine",
        "fill_value": None,
        "device": "auto",
        "on_cancel": "raise",
    }
    found = Settings(search="wide", refine="none", on_cancel="best").registration()
    assert (found["search"], found["refine"], found["on_cancel"]) == ("wide", "none", "best")
    assert Settings().fusion() == {
        "model": None,
        "task": "infrared-visible",
        "infrared": 0.5,
        "detail": 0.5,
    }
    learned = Settings(fusion_model="refusion", weights=True, detail=0.75)
    assert learned.fusion()["loss_weights"] and learned.fusion()["detail"] == 0.75
    assert "weights" in learned.roles
    assert "weights" not in Settings(weights=True).roles  # gaf has none
    assert "doubt" in Settings(doubt=True).roles - Settings().roles
    assert Settings(mask=False, displacement="grid").roles == {"warped", "fused", "grid"}
    assert Settings(displacement="none").field_role is None


QUALITY = Quality(0.9, True, (), 0.5, 1.0, 0.4, 0.1, 3.25, -1.5, 1.25, 5.0, Evidence(0.5, 1.0))


def test_quality_in_words():
    text = quality_html(QUALITY, 12.34)
    for words in (
        "looks right",
        "score 0.90 of 1: an error below 5 px is likely",
        "3.2 px",
        "-1.50°",
        "1.250",
        "12.3 px",
        "50 % of the visible image",
        "0.10 → 0.40",
    ):
        assert words in text
    no_edges = quality_html(replace(QUALITY, edge_agreement=0.0, edge_agreement_before=0.0), 1.0)
    assert "unknown → unknown" in no_edges
    reasons = ("a < b", "an error below 5 px is unlikely (probability 20%)")
    doubt = quality_html(replace(QUALITY, score=0.2, reliable=False, reasons=reasons), 1.0)
    assert "it may be wrong" in doubt and "unlikely" in doubt and "<li>a &lt; b</li>" in doubt
    nothing = quality_html(unregistered(np.ones((4, 4), bool), "no texture"), 0.0)
    assert "Nothing was found" in nothing
    assert "no texture" in nothing
    assert "score" not in nothing and "edge agreement" not in nothing
    cut = replace(
        QUALITY,
        score=0.0,
        reliable=False,
        reasons=("it was cancelled",),
        status="cancelled",
    )
    said = quality_html(cut, 12.34)
    assert "Cancelled: this is the best so far, not checked" in said and "3.2 px" in said
    assert "it was cancelled" in said and "<td>not measured</td>" in said and "score" not in said


def test_the_verdict_names_its_pair_and_cuts_long_names_in_the_middle():
    pair = pair_text("2026-11-20_flight_0017_T.tif", "2026-11-20_flight_0017_V.tif")
    assert pair == "2026-11-…7_T.tif → 2026-11-…7_V.tif"
    assert shortened("infrared") == "infrared"
    assert headline(QUALITY, "a → b") == "✓ a → b: looks right"
    assert "a &lt; b" in quality_html(QUALITY, 1.0, "a < b")


def test_a_low_probability_is_said_once():
    rng = np.random.default_rng(0)
    noise = rng.random((2, 64, 64)).astype(np.float32)
    start, everywhere = Transform.identity((64, 64)), np.ones((64, 64), bool)
    quality = assess(
        noise[0],
        noise[1],
        everywhere,
        start,
        Evidence(0.05, 30.0),
        initial=start,
        before=noise[1],
        before_mask=everywhere,
    )
    assert quality.score < 0.5
    assert quality_html(quality, 0.0).count("below 5 px") == 1


def ours(layer):
    layer.metadata[METADATA_KEY] = {"role": "warped", "name": layer.name}
    return layer


def test_undo_brings_layers_and_their_order_back():
    layers = LayerList([ours(Image(np.zeros((4, 4)), name=name)) for name in "abc"])
    grid = ours(Shapes([np.array([[0.0, 0], [3, 3]])], shape_type="path", name="grid"))
    layers.append(grid)
    a, b, c, _ = layers
    undo = Undo(layers)
    old = a.data
    a.data, a.scale = np.ones((5, 5)), (2, 2)
    a.metadata[METADATA_KEY]["role"] = "fused"
    layers.remove(b)
    c.visible = False
    grid.data = [np.array([[1.0, 1], [2, 2]])]
    layers.append(Image(np.zeros((2, 2)), name="new"))
    undo.done(layers)
    mine = Image(np.zeros((2, 2)), name="mine")
    later = Image(np.zeros((2, 2)), name="later")
    layers.extend([mine, later])
    undo.also([later, a])
    undo.restore(layers)
    assert [layer.name for layer in layers] == ["a", "b", "c", "grid", "mine"]
    assert a.data is old
    assert tuple(a.scale) == (1, 1)
    assert a.metadata[METADATA_KEY]["role"] == "warped"
    assert layers[1] is b
    assert c.visible
    np.testing.assert_array_equal(layers["grid"].data[0], [[0, 0], [3, 3]])
    assert layers["grid"].shape_type == ["path"]


def test_undo_leaves_what_the_user_removed():
    layers = LayerList([ours(Image(np.zeros((4, 4)), name="a"))])
    undo = Undo(layers)
    new = Image(np.zeros((2, 2)), name="new")
    layers.append(new)
    undo.done(layers)
    layers.clear()
    undo.restore(layers)
    assert not layers
