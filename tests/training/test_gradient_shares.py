"""Every loss term that GAF's recipe names moves the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from skimage.color import rgb2gray

from napari_busref import load_sample
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.recipe import load_recipe
from napari_busref.training.stages import build_stage

RECIPE = Path(__file__).resolve().parents[2] / "training" / "recipes" / "gaf-night.toml"
MIN_SHARE = 0.02


def test_each_term_of_gaf_has_its_share_of_the_gradient() -> None:
    """At the shipped weights, where the total gradient is small."""
    recipe = load_recipe(RECIPE, {"start_from": "gaf", "batch": 2})
    torch.manual_seed(0)
    stage = build_stage(recipe)
    stage.load_start()
    sample = load_sample("thermal")
    images = (np.asarray(sample.aligned) / 255, rgb2gray(sample.fixed))
    store = PairStore([tuple(torch.from_numpy(x).float()[None] for x in images)])  # type: ignore[list-item]
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    losses = stage(stage.draw(store))
    weights = {
        "similarity": recipe.loss.ssim,
        "detail": recipe.fusion.detail,
        "brightness": recipe.fusion.brightness,
    }
    norms = {
        name: float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
        for name, weight in weights.items()
        for gradients in [torch.autograd.grad(weight * losses[name], trained, retain_graph=True)]
    }
    total = sum(norms.values())
    assert set(losses) == {"loss", *weights}
    assert all(norm / total >= MIN_SHARE for norm in norms.values()), norms
