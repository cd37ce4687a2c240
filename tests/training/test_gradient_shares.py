"""Every loss term that a recipe names moves the shipped weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import rgb2gray

from napari_busref import load_sample
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.recipe import Recipe, load_recipe
from napari_busref.training.stages import build_stage

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
#: Recipe of the shipped weights -> their name, and the weight of every term.
TERMS = {
    "gaf-night": ("gaf", {"similarity": "loss.ssim", "detail": "", "brightness": ""}),
    "superfusion-fusion": (
        "superfusion",
        {
            "similarity": "loss.ssim",
            "detail": "",
            "intensity": "loss.fuse_intensity",
            "brightness": "",
        },
    ),
    "mda": ("mda", {"image": "1", "feature": "", "patch": "", "style": "", "brightness": ""}),
    "refusion-sky": ("refusion", {"fusion": "1", "reconstruction": "", "brightness": ""}),
}
MIN_SHARE = 0.015


def _weight(recipe: Recipe, term: str, setting: str) -> float:
    """Weight of a term: a number, a setting of the recipe, or the setting of its name."""
    if setting.isdigit():
        return float(setting)
    table, key = setting.split(".") if setting else ("fusion", term)
    return float(getattr(getattr(recipe, table), key))


@pytest.fixture(scope="module")
def store() -> PairStore:
    sample = load_sample("thermal")
    images = (np.asarray(sample.aligned) / 255, rgb2gray(sample.fixed))
    return PairStore([tuple(torch.from_numpy(x).float()[None] for x in images)])  # type: ignore[list-item]


def _shares(name: str, store: PairStore) -> dict[str, float]:
    """Share of every term's gradient in the sum of their norms, at the shipped weights."""
    weights, terms = TERMS[name]
    recipe = load_recipe(RECIPES / f"{name}.toml", {"start_from": weights, "batch": 2})
    torch.manual_seed(0)
    stage = build_stage(recipe)
    stage.load_start()
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    losses = stage(stage.draw(store))
    assert set(losses) - {"loss", "outer"} == set(terms)
    norms = {}
    for term, setting in terms.items():
        loss = _weight(recipe, term, setting) * losses[term]
        found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        squares = [g.square().sum() for g in found if g is not None]
        norms[term] = float(torch.stack(squares).sum().sqrt())
    return {term: norm / sum(norms.values()) for term, norm in norms.items()}


@pytest.mark.parametrize("name", list(TERMS))
def test_each_term_has_its_share_of_the_gradient(name: str, store: PairStore) -> None:
    shares = _shares(name, store)
    assert all(share >= MIN_SHARE for share in shares.values()), shares


def test_no_term_of_mda_is_smaller_than_ours(store: PairStore) -> None:
    shares = _shares("mda", store)
    assert min(shares, key=lambda term: shares[term]) == "brightness", shares


@pytest.mark.parametrize("part", ["affine_net", "deformable_net"])
def test_the_losses_of_busref_move_both_networks(part: str, store: PairStore) -> None:
    recipe = load_recipe(
        RECIPES / "registration-balanced.toml", {"start_from": "busref", "batch": 4}
    )
    torch.manual_seed(0)
    stage = build_stage(recipe)
    stage.load_start()
    trained = [p for p in getattr(stage.model, part).parameters() if p.requires_grad]
    norms = dict.fromkeys(("endpoint", "mncc", "guide"), 0.0)
    for _ in range(3):
        losses = stage(stage.draw(store))
        for term in norms:
            loss = getattr(recipe.loss, term) * losses[term]
            found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
            norms[term] += float(sum(g.square().sum() for g in found if g is not None)) ** 0.5
    shares = {term: norm / sum(norms.values()) for term, norm in norms.items()}
    assert min(shares.values()) > 0.1, shares
