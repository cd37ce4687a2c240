"""Realignment of training pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2gray

from napari_busref.data.samples import thermal_scene
from napari_busref.registration.features import MatchingNetworks
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.batches.realign import realigned
from napari_busref.training.recipe import DataConfig, Recipe
from napari_busref.training.stages.likelihood import LikelihoodStage

OFF = 3  # columns


@pytest.fixture(scope="module")
def sloppy() -> tuple[PairStore, torch.Tensor]:
    """A pair with an infrared image some pixels off, and that image aligned."""
    sample = thermal_scene(2, (200, 256))
    assert sample.aligned is not None
    aligned = torch.tensor(np.float32(sample.aligned / 255))[None]
    visible = torch.tensor(np.float32(rgb2gray(sample.fixed)))[None]
    return PairStore([(aligned.roll(OFF, 2), visible)]), aligned


def departure(image: torch.Tensor, wanted: torch.Tensor) -> float:
    inner = (image - wanted)[..., 16:-16, 16:-16]
    return float(inner.square().mean().sqrt())


def test_an_offset_is_taken_back(sloppy: tuple[PairStore, torch.Tensor]) -> None:
    store, aligned = sloppy
    found = realigned(store, MatchingNetworks.load())
    assert found.pairs[0][1] is store.pairs[0][1]
    before = departure(store.pairs[0][0], aligned)
    assert departure(found.pairs[0][0], aligned) < 0.6 * before


def test_a_pair_that_would_move_far_stays(sloppy: tuple[PairStore, torch.Tensor]) -> None:
    (infrared, visible), *_ = sloppy[0].pairs
    unrelated = PairStore([(infrared.flip(1, 2), visible)])
    assert realigned(unrelated, MatchingNetworks.load()).pairs[0][0] is unrelated.pairs[0][0]


@pytest.mark.parametrize("realign", ["", "likelihood"])
def test_only_where_the_recipe_says_so(
    sloppy: tuple[PairStore, torch.Tensor], realign: str
) -> None:
    stage = LikelihoodStage(Recipe(stage="likelihood", steps=1, data=DataConfig(realign=realign)))
    assert (stage.prepare(sloppy[0]) is sloppy[0]) == (not realign)
