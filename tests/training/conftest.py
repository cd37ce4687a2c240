"""A tiny store of textured pairs and recipes of tiny models: training tests need no data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from napari_busref.training.batches.pair_store import PairStore

BUS = """
stage = "bus"
steps = 6
batch = 2
threads = 1
log_every = 1
checkpoint_every = 2
[data]
crop_side = 32
[model]
channels = 16
"""
GAF = """
stage = "gaf"
steps = 3
batch = 2
threads = 1
log_every = 1
[data]
crop_side = 32
[model]
bus_channels = 16
width = 8
"""
REGISTRATION = """
stage = "registration"
steps = 3
batch = 2
threads = 1
log_every = 1
[data]
crop_side = 48
[model]
channels = 16
affine_sides = [48]
deformable_sides = [48]
"""


@pytest.fixture
def store() -> PairStore:
    """Four smooth random pairs, the infrared image with inverted contrast and less detail."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for size in ((72, 96), (80, 80), (64, 112), (90, 70)):
        coarse = torch.rand(1, 1, 12, 12, generator=generator)
        visible = interpolate(coarse, size, mode="bicubic").clamp(0, 1)[0]
        pairs.append((1 - visible.sqrt(), visible))
    return PairStore(pairs)


@pytest.fixture
def recipes(tmp_path: Path) -> dict[str, Path]:
    """Recipe files of tiny models."""
    paths = {}
    for name, text in {"bus": BUS, "gaf": GAF, "registration": REGISTRATION}.items():
        paths[name] = tmp_path / f"{name}.toml"
        paths[name].write_text(text)
    return paths
