"""The stages of the fusion networks: they run, ship weights, and ReFusion's updates stay apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from napari_busref.models import card, load_model
from napari_busref.training import run
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.recipe import load_recipe
from napari_busref.training.stages.refusion import ReFusionStage

RECIPE = """
steps = 3
batch = 2
threads = 1
log_every = 1
[data]
crop_side = 32
"""
MODELS = {
    "superfusion-fusion": "attention_width = 4",
    "mda": "width = 8",
    "refusion": "width = 8\nheads = 4",
}


def _recipe(folder: Path, stage: str, extra: str = "") -> Path:
    path = folder / "recipe.toml"
    path.write_text(f'stage = "{stage}"\n{extra}\n{RECIPE}\n[model]\n{MODELS[stage]}\n')
    return path


@pytest.mark.parametrize("stage", list(MODELS))
def test_stage_trains_and_its_weights_fuse(stage: str, store: PairStore, tmp_path: Path) -> None:
    weights = run(
        stage, _recipe(tmp_path, stage), output=tmp_path / "out", store=store, device="cpu"
    )
    assert weights is not None and weights.stem == stage
    fused = load_model(weights, kind="fusion")(torch.rand(1, 1, 33, 41), torch.rand(1, 1, 33, 41))
    assert fused.shape == (1, 1, 33, 41)
    rows = next((tmp_path / "out" / "logs").glob("*/metrics.csv")).read_text().splitlines()
    assert len(rows) == 4 and "nan" not in "".join(rows)


def test_one_network_for_several_tasks_ships_under_several_names(
    store: PairStore, tmp_path: Path
) -> None:
    recipe = _recipe(tmp_path, "refusion", 'export = "refusion-other"')
    weights = run("refusion", recipe, output=tmp_path / "out", store=store, device="cpu")
    assert weights is not None and weights.stem == "refusion-other"
    assert card(weights)["name"] == "refusion-other"


@pytest.fixture
def stage(tmp_path: Path) -> ReFusionStage:
    torch.manual_seed(0)
    return ReFusionStage(load_recipe(_recipe(tmp_path, "refusion")))


def _reached(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def test_outer_update_reaches_the_proposal_alone(stage: ReFusionStage) -> None:
    model = stage.model
    # at its start the proposal is the same everywhere, and its inner layers hear nothing
    nn.init.normal_(model.proposal[-1].weight, std=0.1)
    before = [p.clone() for p in model.parameters()]
    stage.outer(*torch.rand(2, 2, 1, 24, 24)).backward()
    assert all(bool(p.grad.any()) for p in model.proposal.parameters() if p.grad is not None)
    assert _reached(model.proposal)
    assert not _reached(model.fusion) and not _reached(model.reconstruction)
    # the inner step is a functional one
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_fusion_update_leaves_the_proposal_alone(
    stage: ReFusionStage, store: PairStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "updates_proposal", lambda: False)
    stage(stage.draw(store))["loss"].backward()
    assert _reached(stage.model.fusion) and _reached(stage.model.reconstruction)
    assert not _reached(stage.model.proposal)


def test_outer_gradient_is_that_of_the_whole_chain(stage: ReFusionStage) -> None:
    """Against the difference quotient of one of the proposal's biases."""
    stage.double()
    visible, infrared = torch.rand(2, 2, 1, 24, 24, dtype=torch.float64)
    bias = stage.model.proposal[-1].bias
    assert isinstance(bias, nn.Parameter)
    stage.outer(visible, infrared).backward()
    assert bias.grad is not None
    step, values = 1e-4, []
    for sign in (1, -1):
        with torch.no_grad():
            bias[0] += sign * step
        values.append(float(stage.outer(visible, infrared).detach()))
        with torch.no_grad():
            bias[0] -= sign * step
    assert float(bias.grad[0]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)
