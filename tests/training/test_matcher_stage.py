"""The stage that trains the matching head, and its losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from napari_busref.geometry import base_grid, inside, offsets, warp
from napari_busref.models import load_model
from napari_busref.training import run
from napari_busref.training.batches.augment import random_curve
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.batches.warps import fixed_to_moving
from napari_busref.training.losses.busref import contrastive_loss, offset_loss
from napari_busref.training.losses.local_correlation import aggregate_costs, local_correlation
from napari_busref.training.losses.search import search_loss
from napari_busref.training.recipe import load_recipe
from napari_busref.training.stages.matcher import MatcherStage

RECIPE = """
stage = "matcher"
steps = 4
batch = 2
threads = 1
log_every = 1
[data]
crop_side = 96
aspects = [1.0]
[model]
channels = 16
width = 8
size = 8
"""


def test_the_window_finds_a_shift():
    rng = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(1, 16, 20, 24, generator=rng), dim=1)
    moved_features = torch.roll(features, (2, -1), (2, 3))
    window = local_correlation(features, moved_features, 3)
    aggregated = aggregate_costs(window, torch.ones(1, 1, 20, 24), 5)
    found = offsets(3, aggregated)[aggregated.argmax(1)][0, 5:-5, 5:-5]
    assert (found == torch.tensor([-1.0, 2.0])).all()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "matcher.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def bus(store: PairStore, recipes: dict[str, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    run("bus", recipes["bus"], output=folder, store=store, device="cpu")
    return folder


@pytest.mark.parametrize("joint", [False, True])
def test_trains_on_the_bus(
    bus: Path, recipe: Path, store: PairStore, tmp_path: Path, joint: bool
) -> None:
    weights = run(
        "matcher",
        recipe,
        output=tmp_path / "matcher",
        store=store,
        device="cpu",
        overrides={"requires": str(bus), "train_bus": joint},
    )
    model = load_model(weights, kind="features")
    trained = dict(model.state_dict())
    kept = [
        torch.equal(trained[f"bus.{name}"], value)
        for name, value in load_model(bus / "bus.safetensors").state_dict().items()
        if name.startswith(("down", "extract"))
    ]
    assert all(kept) is not joint
    described = model(torch.rand(2, 1, 48, 64))
    assert described.shape == (2, 8, 24, 32)
    torch.testing.assert_close(described.norm(dim=1), torch.ones(2, 24, 32))


def test_losses_are_small_for_features_that_know(
    bus: Path, recipe: Path, store: PairStore
) -> None:
    """Random features, warped like the image, give small losses."""
    stage = MatcherStage(load_recipe(recipe, {"requires": str(bus), "batch": 4}))
    torch.manual_seed(0)
    batch = stage.draw(store)
    size = (batch.fixed.shape[-2], batch.fixed.shape[-1])
    code = torch.nn.functional.interpolate(torch.randn(4, 16, 24, 24), size, mode="bicubic")

    def features(image: torch.Tensor) -> torch.Tensor:
        return normalize(torch.nn.functional.avg_pool2d(image, 2), dim=1)

    points = batch.warps.aligned_points(base_grid(*size, code))
    truth = fixed_to_moving(batch.warps, size)
    mask = inside(truth, *size).float()
    moved = features(warp(code, points, padding="border"))
    with torch.no_grad():
        right = stage._contrastive_loss(features(code), moved, truth, mask)
        wrong = stage._contrastive_loss(features(code), moved.flip(2), truth, mask)
        assert right < 0.6 < 2 < wrong
        still = base_grid(*size, code).expand(4, -1, -1, -1)
        alike = stage._local_loss(features(code), features(code), still, torch.ones_like(mask))
        apart = stage._local_loss(
            features(code), features(code).roll(4, 3), still, torch.ones_like(mask)
        )
        assert alike < 0.5 < 3 < apart


def test_contrast_tells_places_apart_but_not_neighbours() -> None:
    descriptors = torch.eye(6)[None]
    positions = torch.tensor([[[0.0, 0], [9, 0], [18, 0], [27, 0], [36, 0], [45, 0]]])
    valid = torch.ones(1, 6, dtype=torch.bool)
    sharp = torch.tensor(0.05)
    right = contrastive_loss(descriptors, descriptors, sharp, valid, (positions, positions))
    wrong = contrastive_loss(
        descriptors, descriptors.roll(1, 1), sharp, valid, (positions, positions)
    )
    assert right < 1e-3 < 5 < wrong
    # equal descriptors less than two cells apart are no error
    twin = descriptors.clone()
    twin[:, 1] = twin[:, 0]
    far = contrastive_loss(twin, twin, sharp, valid, (positions, positions))
    positions[0, 1] = torch.tensor([1.0, 0])
    near = contrastive_loss(twin, twin, sharp, valid, (positions, positions))
    assert near < 1e-3 < 0.1 < far


def test_a_search_tells_the_true_translation_from_others_and_from_other_images() -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(3, 16, 16, 16), (72, 64), mode="bicubic")
    features, all_valid = normalize(smooth, dim=1), torch.ones(3, 1, 72, 64)
    right, found = search_loss(features, features, all_valid)
    assert right < 0.1
    assert found == 1
    for wrong in (features.roll(8, 2), features.roll(1, 0)):
        loss, found = search_loss(features, wrong, all_valid)
        assert loss > 3
        assert found == 0
    # a sample without an overlap does not count
    valid = all_valid.clone()
    valid[0] = 0
    loss, found = search_loss(features, features * valid, valid)
    assert loss < 0.1
    assert found == 1


def test_images_of_the_wide_search_are_drawn_where_asked(
    bus: Path, recipe: Path, store: PairStore
) -> None:
    stage = MatcherStage(
        load_recipe(
            recipe,
            {"requires": str(bus), "augment.local_contrast": 1.0, "loss.search": 1.0},
        )
    )
    light = torch.linspace(0.2, 1, 96).expand(1, 1, 96, 96)
    image = torch.rand(1, 1, 96, 96)
    ones, chosen = torch.ones_like(image), torch.zeros(1, 1, 1, 1)
    even, uneven = (stage._evened(x, ones, chosen) for x in (image, image * light))
    assert (even - uneven).abs().mean() < 0.1 * (image - image * light).abs().mean()
    losses = stage(stage.draw(store))
    assert losses["search"] > 0
    torch.testing.assert_close(
        losses["loss"],
        sum(
            getattr(stage.recipe.loss, name) * losses[term]
            for name, term in (("matching", "contrast"), ("search", "search"), ("votes", "votes"))
        ),
    )


def test_offsets_between_cells_are_shared() -> None:
    table = offsets(2, torch.zeros(1))
    shift = torch.zeros(1, 2, 1, 1)
    shift[0, 0] = 0.5  # between (0, 0) and (1, 0)
    mask = torch.ones(1, 1, 1, 1)
    logits = torch.full((1, 25, 1, 1), -20.0)
    logits[0, (table == torch.tensor([0.0, 0])).all(1)] = 0
    logits[0, (table == torch.tensor([1.0, 0])).all(1)] = 0
    assert offset_loss(logits, shift, mask, table) == pytest.approx(0.693, abs=1e-3)
    outside = torch.full((1, 2, 1, 1), 7.0)
    assert offset_loss(logits, outside, mask, table) == 0


def test_random_curves_keep_the_range_and_differ() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 200).expand(5, 1, 1, 200)
    curved = random_curve(ramp)
    assert curved.min() >= 0 and curved.max() <= 1
    assert (curved[0] - curved[1]).abs().max() > 0.1
    falling = (curved.diff(dim=3) < 0).any(3)
    assert falling.any()  # not monotone
