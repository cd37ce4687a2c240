"""The words of the trades, without Qt."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("napari")

from napari.layers import Image

import napari_busref
from napari_busref._napari.layers.image_grids import pixel_size
from napari_busref._napari.layers.planes import shown_plane
from napari_busref._napari.layers.trades import (
    TRADES,
    current_trade,
    in_trade,
    set_trade,
    worded,
)
from napari_busref._napari.register.settings import PANEL_OPTIONS
from napari_busref._napari.widgets.words import quality_html
from napari_busref.registration.quality import Evidence, Quality
from napari_busref.runtime.options import OPTIONS

QUALITY = Quality(0.9, True, (), 0.5, 1.0, 0.4, 0.1, 3.25, -1.5, 1.25, 5.0, Evidence(0.5, 1.0))
ROLES = {
    "thermal": ("infrared image", "visible image"),
    "microscopy": ("moving stain", "reference stain"),
    "remote sensing": ("sensed image", "reference image"),
    "general": ("moving image", "fixed image"),
}


@pytest.mark.parametrize("name", ROLES)
def test_each_trade_names_the_two_images(name):
    trade = TRADES[name]
    assert (trade.moving_image, trade.fixed_image) == ROLES[name]
    assert trade.moving_image.startswith(trade.moving)
    said = worded("{Moving_image} onto {a_fixed} one, {unknown}", trade)
    article = "an" if trade.fixed[0] in "aeiou" else "a"
    assert said == f"{ROLES[name][0].capitalize()} onto {article} {trade.fixed} one, {{unknown}}"
    assert set(trade.tasks) <= set(OPTIONS["task"].values)


def test_the_manifest_offers_the_trades():
    manifest = Path(napari_busref.__file__).with_name("napari.yaml").read_text()
    groups = yaml.safe_load(manifest)["contributions"]["configurations"]
    described = groups["panels"]["properties"]["trade"]
    assert described["enum"] == list(TRADES)
    assert described["default"] == "thermal"


def test_a_trade_is_chosen_by_name():
    set_trade("microscopy")
    assert current_trade() is TRADES["microscopy"]
    assert worded("the {fixed} layer") == "the reference layer"
    with pytest.raises(ValueError, match="trade: got 'cooking', need one of thermal, microscopy"):
        set_trade("cooking")


def test_every_word_in_the_texts_of_the_settings_is_known():
    for option in PANEL_OPTIONS:
        for text in (option.label, option.tooltip, *(option.ends or ())):
            for _, name, _, _ in string.Formatter().parse(text):
                assert name is None or name in TRADES["general"].words, text
            if option.name not in ("task", "model", "fusion_model"):
                assert "infrared" not in worded(text, TRADES["microscopy"]).lower()


@pytest.mark.parametrize("name", ROLES)
def test_the_verdict_speaks_the_trade(name):
    trade = TRADES[name]
    doubtful = replace(
        QUALITY,
        reliable=False,
        reasons=("only 3% of the fixed image is covered by the moving image",),
    )
    said = quality_html(doubtful, 12.0, trade=trade, pixel=(0.5, "µm"))
    assert f"only 3% of the {trade.fixed_image} is covered by the {trade.moving_image}" in said
    assert f"50 % of the {trade.fixed_image}" in said
    thermal = name == "thermal"
    assert ("an error below 5 px is likely" in said) == trade.calibrated
    assert ("a hint only, for it was not calibrated on such pairs" in said) != trade.calibrated
    assert trade.calibrated == (name in ("thermal", "remote sensing"))
    assert ("12.0 px (6 µm)" in said) != thermal  # micrometres tell a thermographer nothing
    assert "µm" not in quality_html(doubtful, 12.0, trade=trade)


def test_the_size_of_a_pixel():
    from napari.components import ViewerModel

    viewer = ViewerModel()
    plain = viewer.add_layer(Image(np.zeros((8, 8)), name="plain"))
    small = viewer.add_layer(
        Image(np.zeros((8, 8)), name="small", scale=(0.25, 0.25), units=("um", "um"))
    )
    assert pixel_size(shown_plane(plain, viewer)) is None
    side, unit = pixel_size(shown_plane(small, viewer))
    assert (side, unit) == (0.25, "µm")


def test_texts_of_the_python_interface():
    assert in_trade("the moving image", TRADES["microscopy"]) == "the moving stain"
