"""Damaged cards and weights of a user's models: skipped in lists, named in errors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from napari_busref._cli.main import app
from napari_busref.models import list_models, load_model, registry
from napari_busref.models.config import check_sizes
from napari_busref.models.weights import FOLDER, card
from napari_busref.runtime.file_safety import memory_limited

WRONG = {
    "list": [],
    "text": "x",
    "deep": "deep",
    "data": {"data": 5},
    "data of numbers": {"data": [1, 2]},
    "scores": {"scores": ["x"]},
    "scores of lists": {"scores": {"epe": [1, {}]}},
    "kind": {"kind": ["registration"]},
    "architecture": {"architecture": {}},
    "unknown architecture": {"architecture": "Other"},
    "config": {"config": 3},
    "config of other names": {"config": {"x": 1}},
    "config of other types": {"config": {"channels": "many"}},
    "sha256": {"sha256": 5},
    "steps": {"steps": {"a": []}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_BUSREF_DATA", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def add(folder: Path, kind: str, name: str) -> Path:
    weights = folder / f"{name}.safetensors"
    shutil.copyfile(FOLDER / "gaf.safetensors", weights)
    content = WRONG[kind]
    if isinstance(content, dict):
        content = card("gaf") | content
    text = "[" * 100_000 if kind == "deep" else json.dumps(content)
    weights.with_suffix(".json").write_text(text)
    return weights


def test_wrong_cards_do_not_break_the_list(folder: Path) -> None:
    for number, kind in enumerate(WRONG):
        add(folder, kind, f"own{number}")
    for arguments in (["models"], ["models", "--json"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.exception
        assert "gaf" in result.output
    assert "own0" not in list_models()


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_cards_are_named(folder: Path, kind: str) -> None:
    weights = add(folder, kind, "own")
    readable = kind in ("data of numbers", "scores of lists", "steps")
    if readable:  # loading needs none of these
        assert load_model(weights) is not None
        return
    with pytest.raises(ValueError, match="own"):
        load_model(weights)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gaf", {"width": 4096}),
        ("matcher", {"size": 10**400}),
        ("superfusion", {"radius": 300}),
        ("busref", {"affine_sides": [65536]}),
        ("busref", {"deformable_sides": [64] * 65536}),
        ("superfusion-fusion", {"attention_stride": 0}),
        ("refusion", {"heads": float("nan")}),
    ],
)
def test_huge_cards_build_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, config: dict
) -> None:
    content = card(name)
    monkeypatch.setitem(registry._ARCHITECTURES, content["architecture"], pytest.fail)
    content["config"] = content["config"] | config
    (folder / "own.json").write_text(json.dumps(content))
    (folder / "own.safetensors").touch()
    with pytest.raises(
        ValueError, match=rf"own.* model\.{next(iter(config))}: got .{{,64}}, need"
    ):
        load_model(folder / "own.safetensors")


def test_sizes_of_the_networks_of_a_set_are_checked() -> None:
    with pytest.raises(ValueError, match=r"model\.size: got 4096, need"):
        check_sizes({"matcher": {"size": 4096}})


def test_weights_stay_within_the_memory_limit(folder: Path) -> None:
    """Half numbers take twice the memory as float32."""
    weights = folder / "own.safetensors"
    save_file({"a": torch.zeros(3_000_000, dtype=torch.float16)}, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.with_suffix(".json").write_text(json.dumps(card("gaf") | {"sha256": digest}))
    for limit in (0.004, 0.008):
        with memory_limited(limit), pytest.raises(ValueError, match=r"own.* above the limit"):
            load_model(weights)
    with memory_limited(0.02), pytest.raises(ValueError, match="do not fit the architecture"):
        load_model(weights)
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ValueError, match="is no plain file"):
        load_model(weights)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 64, b"\x80\x04\x95."])
def test_damaged_weights_are_named(folder: Path, content: bytes) -> None:
    weights = add(folder, "steps", "own")
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"own.* damaged or do not match"):
        load_model(weights)
    known = card("gaf") | {"sha256": hashlib.sha256(content).hexdigest()}
    weights.with_suffix(".json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"own.* is not a safetensors file"):
        load_model(weights)
