"""Train a tiny model on built-in samples and use it.

    python examples/05_train_tiny_model.py

The script needs `napari-busref[train]`. It trains the two stages of BusReF registration for
seconds. A useful model needs real pairs and the recipes of `training/README.md`.
"""

from pathlib import Path

import numpy as np
import torch
from skimage.color import rgb2gray

from napari_busref import load_sample, register
from napari_busref.data.samples import thermal_scene
from napari_busref.training import run
from napari_busref.training.batches.pair_store import PairStore

STEPS = 40
out = Path("example-output/05_train_tiny_model")
out.mkdir(parents=True, exist_ok=True)

BUS = f"""
stage = "bus"
steps = {STEPS}
batch = 4
data.crop_side = 64
model.channels = 16
log_every = 10
"""
REGISTRATION = f"""
stage = "registration"
steps = {STEPS}
batch = 4
requires = "{(out / "bus").as_posix()}"
data.crop_side = 64
model.channels = 16
model.affine_sides = [96, 96]
model.deformable_sides = [96]
loss.guide = 0.0  # no fusion network was trained
log_every = 10
"""


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None]


# Aligned pairs (infrared, visible), each (1, H, W) in [0, 1]. Training draws the warps.
scenes = [thermal_scene(seed=seed, shape=(128, 160)) for seed in (1, 2, 3)]
store = PairStore(
    [(tensor(scene.aligned / 255), tensor(rgb2gray(scene.fixed))) for scene in scenes]
)

for stage, recipe in (("bus", BUS), ("registration", REGISTRATION)):
    (out / f"{stage}.toml").write_text(recipe)
    weights = run(
        stage,
        out / f"{stage}.toml",
        output=out / stage,  # checkpoint, log and weights
        device="cpu",
        store=store,
        progress=lambda message, done: print(f"{done:4.0%} {message}"),
    )

# `model` takes the path of a weights file in place of a name.
sample = load_sample("thermal")
result = register(sample.fixed, sample.moving, model=str(weights), device="cpu")
print(f"quality with these weights: {result.quality.score:.2f} (they were trained for seconds)")
