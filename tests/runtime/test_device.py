from __future__ import annotations

import pytest
import torch

from napari_busref.runtime.device import available_devices, describe, resolve_device


def test_auto_prefers_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert available_devices() == ["cuda", "cuda:1", "cpu"]
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("CUDA:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="cuda:2"):
        resolve_device("cuda:2")


def test_without_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device() == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert describe("cpu").startswith("cpu (")
    for name in ("cuda", "mps", torch.device("cuda")):
        with pytest.raises(
            ValueError, match=r"device: .* not available, accepted here: auto, cpu"
        ):
            resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "meta", "cuda:x"])
def test_unknown(name):
    with pytest.raises(ValueError, match="device: got"):
        resolve_device(name)


def test_wrong_type():
    with pytest.raises(TypeError, match="device: got int"):
        resolve_device(0)
