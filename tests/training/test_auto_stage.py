"""The stage that continues the matcher and the likelihood of the default together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_busref.models import load_model
from napari_busref.models.registry import is_auto
from napari_busref.models.user_models import add_user_model
from napari_busref.registration.auto import Auto
from napari_busref.registration.features import MatchingNetworks
from napari_busref.registration.stages import registration_stages
from napari_busref.training import run
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.recipe import AugmentConfig, DataConfig, Recipe, load_recipe
from napari_busref.training.stages import build_stage

RECIPE = Recipe(
    stage="auto",
    steps=1,
    batch=1,
    threads=1,
    data=DataConfig(crop_side=72, aspects=(1.0,)),
    augment=AugmentConfig(remap=1.0, modalities=("network", "edges")),
)


def test_both_networks_move_and_the_set_is_used_by_name(
    store: PairStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_BUSREF_DATA", str(tmp_path / "data"))
    shared = MatchingNetworks.load().likelihood.state_dict()
    before = {key: value.clone() for key, value in shared.items()}
    weights = run("auto", RECIPE, output=tmp_path / "out", store=store, device="cpu")
    for key, value in before.items():  # the default in this process stays as it is
        assert torch.equal(shared[key], value)
    assert weights is not None
    add_user_model(weights, "ours")
    ours, shipped = load_model("ours", kind="registration"), load_model("auto")
    assert isinstance(ours, Auto)
    old = shipped.state_dict()
    moved = {
        name
        for name, value in ours.state_dict().items()
        if not torch.equal(value.half(), old[name].half())
    }
    assert {name.split(".")[0] for name in moved} == {"matcher", "likelihood"}
    assert not any(name.startswith("matcher.bus") for name in moved)
    for name, network in vars(ours.networks).items():
        alone = load_model(tmp_path / "out" / f"{name}.safetensors", kind="features")
        for key, value in alone.state_dict().items():
            assert torch.equal(value, network.state_dict()[key])
    assert is_auto("ours") and is_auto(ours) and not is_auto("busref")
    assert registration_stages((64, 64), "ours") == registration_stages((64, 64), "auto")


def test_it_starts_from_a_set_of_the_default() -> None:
    with pytest.raises(ValueError, match="start_from: stage auto needs 'auto' or a set"):
        build_stage(Recipe(stage="auto", steps=1, start_from="busref"))


def test_its_recipe_loads_for_both_devices() -> None:
    path = Path(__file__).parents[2] / "training" / "recipes" / "auto.toml"
    here, there = load_recipe(path), load_recipe(path, gpu=True)
    assert here.data.datasets == there.data.datasets and "mri-pet" in here.data.datasets
    assert (here.average, there.average) == (0.99, 0.999)
