"""A user's own models: listed, loaded, removed and rejected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from napari_busref.models import card, list_models, load_model
from napari_busref.models.user_folder import (
    data_folder,
    find_user_model,
    list_user_models,
    user_models_folder,
)
from napari_busref.models.user_models import add_user_model, remove_user_model
from napari_busref.models.weights import FOLDER

SHIPPED = FOLDER / "gaf.safetensors"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_BUSREF_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "models"


def test_a_model_is_offered_loaded_and_removed(folder: Path) -> None:
    before = list_models()
    path = add_user_model(SHIPPED, "our camera", facts={"base": {"name": "gaf"}})
    assert path == folder / "our camera.safetensors" == find_user_model("our camera")
    assert list_models() == [*before, "our camera"]
    assert list_models("fusion")[-1] == "our camera"
    assert list_user_models("registration") == []
    assert card("our camera")["base"] == {"name": "gaf"}
    assert card("our camera")["name"] == "our camera"
    own, shipped = load_model("our camera", kind="fusion"), load_model("gaf")
    for name, value in shipped.state_dict().items():
        assert torch.equal(own.state_dict()[name], value)
    with pytest.raises(ValueError, match="is for fusion; one for registration"):
        load_model("our camera", kind="registration")
    remove_user_model("our camera")
    assert list_models() == before
    assert list(folder.iterdir()) == []
    with pytest.raises(ValueError, match="model must be one of"):
        load_model("our camera")


def test_a_taken_name_needs_overwriting() -> None:
    add_user_model(SHIPPED, "mine")
    with pytest.raises(ValueError, match="'mine' already"):
        add_user_model(SHIPPED, "mine")
    add_user_model(SHIPPED, "mine", facts={"steps": 7}, overwrite=True)
    assert card("mine")["steps"] == 7


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a.b", " a", "-a", "x" * 65, "ä", 3])
def test_names_that_are_no_file_names_everywhere(name: object) -> None:
    with pytest.raises(ValueError, match="name: got"):
        add_user_model(SHIPPED, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["auto", "gaf", "bus", "average"])
def test_names_of_this_package(name: str) -> None:
    with pytest.raises(ValueError, match="is a model of this package"):
        add_user_model(SHIPPED, name)


def test_what_is_no_model_is_neither_taken_nor_offered(tmp_path: Path, folder: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(SHIPPED.read_bytes()[:-1])
    with pytest.raises(ValueError, match="card"):
        add_user_model(damaged, "mine")
    damaged.with_suffix(".json").write_text(SHIPPED.with_suffix(".json").read_text())
    with pytest.raises(ValueError, match="damaged"):
        add_user_model(damaged, "mine")
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "no card.safetensors").write_bytes(b"")
    (folder / "bad card.safetensors").write_bytes(b"")
    (folder / "bad card.json").write_text("[1")
    (folder / "short card.safetensors").write_bytes(b"")
    (folder / "short card.json").write_text(json.dumps({"kind": "fusion"}))
    (folder / "gaf.safetensors").write_bytes(b"of another")
    assert list_user_models() == []
    assert len(load_model("gaf").state_dict()) > 0  # the shipped one
    with pytest.raises(ValueError, match="your models are: none"):
        remove_user_model("mine")


def test_the_folder_is_that_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAPARI_BUSREF_DATA")
    assert data_folder().name == "napari-busref"
    assert user_models_folder() == data_folder() / "models"
