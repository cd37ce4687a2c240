"""The stage that trains the likelihood of displacements."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_busref.models import load_model
from napari_busref.models.features.likelihood import Likelihood
from napari_busref.training import run
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.recipe import load_recipe
from napari_busref.training.stages.likelihood import LikelihoodStage

RECIPE = """
stage = "likelihood"
steps = 3
batch = 2
threads = 1
log_every = 1
[data]
crop_side = 80
aspects = [1.0]
[warp]
rotation = 0.0
scale = [1.0, 1.0]
shear = 0.0
shift = 0.02
elastic = [0.0, 0.03]
[model]
size = 4
width = 8
radius = 4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "likelihood.toml"
    path.write_text(RECIPE)
    return path


def test_trains_and_loads(recipe: Path, store: PairStore, tmp_path: Path) -> None:
    weights = run("likelihood", recipe, output=tmp_path / "out", store=store, device="cpu")
    model = load_model(weights, kind="features")
    assert isinstance(model, Likelihood)
    assert model.radius == 4


def test_the_matcher_stays_as_it_is(recipe: Path, store: PairStore) -> None:
    stage = LikelihoodStage(load_recipe(recipe))
    losses = stage(stage.draw(store))
    losses["loss"].backward()
    assert all(p.grad is not None for p in stage.model.parameters())
    assert all(p.grad is None for p in stage.matcher.parameters())
    assert 0 <= float(losses["right"]) <= 1


def test_the_shipped_weights_know_better_than_chance(recipe: Path, store: PairStore) -> None:
    """New random images, under warps of the recipe."""
    stage = LikelihoodStage(load_recipe(recipe, {"model": {}}))
    chance = torch.log(torch.tensor(float((2 * stage.model.radius + 1) ** 2)))
    stage.model.load_state_dict(load_model("likelihood").state_dict())
    stage.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        losses = stage(stage.draw(store))
    assert float(losses["loss"]) < 0.8 * float(chance)
