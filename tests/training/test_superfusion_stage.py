"""The stage that trains SuperFusion's matcher: losses, gradients, resuming."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from napari_busref.geometry import base_grid, warp
from napari_busref.models import load_model
from napari_busref.runtime.progress import Cancelled
from napari_busref.training import run
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.losses.busref import (
    bending_loss,
    edge_weight,
    photometric_loss,
    registered_fusion_loss,
)
from napari_busref.training.recipe import load_recipe
from napari_busref.training.stages import build_stage
from napari_busref.training.stages.superfusion import SuperFusionStage, _directions
from napari_busref.training.stages.synthetic import true_cells

RECIPE = """
stage = "superfusion"
steps = 4
batch = 2
threads = 1
log_every = 1
checkpoint_every = 2
[data]
crop_side = 48
aspects = [1.0, 1.25]
[model]
sides = [48]
[loss]
fuse = 0
consistency = 0
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "superfusion.toml"
    path.write_text(RECIPE)
    return path


def test_trains_resumes_and_loads(store: PairStore, recipe: Path, tmp_path: Path) -> None:
    whole = run("superfusion", recipe, output=tmp_path / "whole", store=store, device="cpu")
    stop = threading.Event()

    def stop_half_way(stage: str, fraction: float) -> None:
        if fraction >= 0.5:
            stop.set()

    with pytest.raises(Cancelled):
        run(
            "superfusion",
            recipe,
            output=tmp_path / "broken",
            store=store,
            device="cpu",
            progress=stop_half_way,
            cancel=stop,
        )
    resumed = run(
        "superfusion", recipe, output=tmp_path / "broken", store=store, device="cpu", resume=True
    )
    assert whole is not None and resumed is not None
    model, other = (load_model(path, kind="registration") for path in (whole, resumed))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    estimate = model(torch.rand(1, 1, 40, 50), torch.rand(1, 1, 40, 50))
    assert estimate.theta.shape == (1, 2, 3)


def test_all_terms_reach_the_matcher(
    store: PairStore, recipes: dict[str, Path], recipe: Path, tmp_path: Path
) -> None:
    """With the frozen fusion network in bfloat16: finite losses, gradients in the matcher."""
    folder = tmp_path / "weights"
    run("bus", recipes["bus"], output=folder, store=store, device="cpu", overrides={"steps": 1})
    requires = {"requires": str(folder), "steps": 1}
    run("gaf", recipes["gaf"], output=folder, store=store, device="cpu", overrides=requires)
    settings = load_recipe(
        recipe, {"requires": str(folder), "loss.fuse": 0.1, "loss.consistency": 0.1}
    )
    torch.manual_seed(0)
    stage = build_stage(settings)
    assert isinstance(stage, SuperFusionStage) and stage.fusion is not None
    with torch.autocast("cpu", torch.bfloat16):
        losses = stage(stage.draw(store))
    assert set(losses) == {
        "loss", "endpoint", "second_pass", "smooth", "matching",
        "photometric", "border", "fuse", "consistency",
    }  # fmt: skip
    assert all(torch.isfinite(value) for value in losses.values())
    for name in ("endpoint", "second_pass", "photometric", "fuse", "consistency", "matching"):
        stage.zero_grad()
        losses[name].backward(retain_graph=True)
        reached = [p.grad is not None and bool(p.grad.any()) for p in stage.model.parameters()]
        assert any(reached), name
    assert all(p.grad is None for p in stage.fusion.parameters())


def test_the_true_fields_show_what_is_wanted(store: PairStore, recipe: Path) -> None:
    """The true positions of each direction warp the source onto the aligned image."""
    stage = build_stage(load_recipe(recipe))
    torch.manual_seed(1)
    batch = stage.draw(store)
    for direction in _directions(batch, (batch.fixed.shape[-2], batch.fixed.shape[-1])):
        inner = (..., slice(6, -6), slice(6, -6))
        mask = direction.mask[inner]
        right = (warp(direction.source, direction.truth) - direction.aligned)[inner]
        unmoved = (direction.source - direction.aligned)[inner]
        assert mask.mean() > 0.5
        assert (right.abs() * mask).sum() < 0.3 * (unmoved.abs() * mask).sum()


def test_photometric_loss_prefers_the_registered_image() -> None:
    torch.manual_seed(0)
    image, mask = torch.rand(2, 1, 24, 30), torch.ones(2, 1, 24, 30)
    assert photometric_loss(image, image, mask) == 0
    assert photometric_loss(image.roll(2, 3), image, mask) > 0.1
    mask[..., 10:] = 0
    changed = torch.cat([image[..., :14], 1 - image[..., 14:]], 3)
    assert photometric_loss(changed, image, mask) == 0


def test_edges_weigh_more() -> None:
    image = torch.zeros(1, 1, 20, 20)
    image[..., 10:] = 1
    weight = edge_weight(image, 1.0)
    assert weight[..., 9:11].min() > 3
    torch.testing.assert_close(weight[..., :5], torch.ones(1, 1, 20, 5))
    torch.testing.assert_close(edge_weight(image, 0.0), torch.ones_like(image))


def test_affine_fields_bend_nothing() -> None:
    base = base_grid(12, 16, torch.zeros(1))
    matrix = torch.tensor([[1.5, 0.4], [-0.7, 2.0]])
    assert bending_loss((base @ matrix).permute(0, 3, 1, 2) + 3) < 1e-5
    assert bending_loss(base.square().permute(0, 3, 1, 2)) > 1e-3


def test_fusion_loss_prefers_the_brighter_and_sharper() -> None:
    torch.manual_seed(0)
    visible, infrared = torch.rand(1, 1, 24, 24), torch.full((1, 1, 24, 24), 0.1)
    mask = torch.ones_like(visible)
    good = registered_fusion_loss(torch.maximum(visible, infrared), visible, infrared, mask)
    assert good < registered_fusion_loss((visible + infrared) / 2, visible, infrared, mask)


def test_true_cells_are_averaged_positions() -> None:
    mask = torch.ones(1, 1, 16, 24)
    mask[..., :5] = 0
    truth = base_grid(16, 24, mask) + torch.tensor([2 * 4 / 24, 0.0])  # 4 px = a cell right
    cells, valid = true_cells(truth, mask, (4, 6))
    torch.testing.assert_close(cells[0, :, :, 0], torch.arange(1.0, 7).expand(4, 6))
    torch.testing.assert_close(cells[0, :, :, 1], torch.arange(4.0)[:, None].expand(4, 6))
    assert valid[0, 0].tolist() == [False, False, True, True, True, True]
