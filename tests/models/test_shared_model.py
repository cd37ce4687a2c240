"""Shipped networks are loaded once; those of a user are read again."""

from __future__ import annotations

import torch

from napari_busref.models.registry import _MODELS, load_model, register_model, shared_model


def test_a_shipped_network_is_loaded_once() -> None:
    first = shared_model("likelihood", kind="features")
    assert shared_model("likelihood", kind="features") is first
    assert load_model("likelihood", kind="features") is not first


def test_a_users_network_is_made_again(monkeypatch) -> None:
    monkeypatch.setattr("napari_busref.models.registry._MODELS", dict(_MODELS))
    register_model("mine", "fusion", trained=False)(lambda config: torch.nn.Identity())
    assert shared_model("mine", kind="fusion") is not shared_model("mine", kind="fusion")
