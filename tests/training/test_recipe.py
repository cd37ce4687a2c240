"""Recipes accept sensible values only."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_busref.models.fusion.gaf import GafConfig
from napari_busref.training.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("gpu", [False, True])
def test_the_committed_recipes_are_accepted(path, gpu):
    assert load_recipe(path, gpu=gpu).steps > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_every", 0),
        ("validate_every", -1),
        ("checkpoint_every", 0),
        ("steps", True),
        ("steps", 0),
        ("steps", 1e3),
        ("batch", 10**9),
        ("learning_rate", float("nan")),
        ("learning_rate", -1.0),
        ("clip", float("inf")),
        ("threads", -2),
        ("warmup", 1.5),
        ("train_bus", 1),
        ("data.crop_side", 0),
        ("data.datasets", [1]),
        ("data.datasets", []),
        ("data.crop_range", [1.0, 0.6]),
        ("data.aspects", ["wide"]),
        ("fusion.window", 0),
        ("augment.gamma", [0.6]),
        ("loss.guide", True),
    ],
)
def test_senseless_values_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"recipe: {name} must be"):
        load_recipe(RECIPES / "gaf.toml", {name: value})


@pytest.mark.parametrize("value", [10**9, 1e9, 1.5, True, "8"])
def test_senseless_sizes_of_a_model_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"model\.width: got"):
        GafConfig.from_plain({"width": value})
    with pytest.raises(ValueError, match=r"model\.channels: unknown; accepted are"):
        GafConfig.from_plain({"channels": 8})
