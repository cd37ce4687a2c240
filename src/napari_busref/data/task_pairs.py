"""Pairs for the other fusion tasks: medical slices, and synthetic multi-focus and -exposure pairs.

The synthetic pairs are made from the photographs of scikit-image. No real pair of either kind
serves for training.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from imageio.v3 import imread
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage import data as photographs
from skimage.transform import resize

TaskPair = tuple[str, NDArray[np.uint8], NDArray[np.uint8]]

_TRAIN = ("astronaut", "chelsea", "camera", "coins", "retina", "gravel", "brick", "grass")
_VAL = ("coffee", "rocket", "page", "moon")
_DRAWS = {"train": 6, "val": 3}
_SIDE = 320  # pixels, the shorter side of a photograph
_HELD_OUT = 4  # every fourth medical slice is held out


def medical_pairs(root: Path, dataset: str, split: str) -> list[TaskPair]:
    """Read MRI slices as ``infrared``, with PET (colour) or CT slices as ``visible``.

    Every fourth slice is ``val``. Slices of one head resemble each other, so ``val`` does not
    measure how well a model generalises to another head.
    """
    folder = root / "medical" / dataset
    names = sorted(path.name for path in (folder / "mri").glob("*.png"))
    if not names:
        raise ValueError(f"dataset {dataset!r} needs pictures in {folder / 'mri'}: none there")
    chosen = [
        name for i, name in enumerate(names) if (i % _HELD_OUT == 1) == (_split(split) == "val")
    ]
    pairs = []
    for name in chosen:
        mri, source = imread(folder / "mri" / name), imread(folder / "source" / name)
        pairs.append((Path(name).stem, mri[..., 0] if mri.ndim == 3 else mri, _colour(source)))
    return pairs


def focus_pairs(split: str) -> list[TaskPair]:
    """Blur the near or the far part of photographs, along a depth-like mask."""
    pairs = []
    for name, image, rng in _photographs(split):
        near = _depth_mask(image.shape[:2], rng)[..., None]
        sigma = rng.uniform(1.5, 4.0)
        blurred = np.stack([ndi.gaussian_filter(image[..., c], sigma) for c in range(3)], 2)
        first = near * image + (1 - near) * blurred
        second = near * blurred + (1 - near) * image
        pairs.append((name, _levels(second @ _BT601), _levels(first)))
    return pairs


def exposure_pairs(split: str) -> list[TaskPair]:
    """Over- and underexpose photographs by stops, with clipping and noise."""
    pairs = []
    for name, image, rng in _photographs(split):
        linear = (image / 255) ** 2.2
        shots = []
        for stops in (rng.uniform(1.0, 2.5), -rng.uniform(1.5, 3.0)):
            exposed = np.clip(linear * 2.0**stops + rng.normal(0, 5e-4, linear.shape), 0, 1)
            shots.append(255 * exposed ** (1 / 2.2))
        pairs.append((name, _levels(shots[1] @ _BT601), _levels(shots[0])))
    return pairs


def originals(split: str) -> dict[str, NDArray[np.uint8]]:
    """Return the brightness of the photograph behind each synthetic pair, by its name."""
    return {name: _levels(image @ _BT601) for name, image, _ in _photographs(split)}


_BT601 = np.array([0.299, 0.587, 0.114])


def _photographs(split: str) -> list[tuple[str, NDArray[np.float64], np.random.Generator]]:
    found = []
    for name in _TRAIN if _split(split) == "train" else _VAL:
        image = _colour(getattr(photographs, name)()).astype(float)
        factor = _SIDE / min(image.shape[:2])
        if factor < 1:
            size = (round(image.shape[0] * factor), round(image.shape[1] * factor))
            image = resize(image, size, anti_aliasing=True)
        for draw in range(_DRAWS[split]):
            # the same pairs in every session, and other ones for every photograph
            rng = np.random.default_rng([zlib.crc32(name.encode()), draw])
            found.append((f"{name}-{draw}", image, rng))
    return found


def _depth_mask(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Threshold smooth noise on a slope at its median, with a soft edge: near is 1, far 0."""
    height, width = shape[:2]
    noise = ndi.gaussian_filter(rng.standard_normal((height, width)), 0.12 * min(height, width))
    y, x = np.mgrid[:height, :width]
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * x / width + np.sin(angle) * y / height
    depth = noise / noise.std() + 1.5 * slope / slope.std()
    edge = ndi.gaussian_filter((depth > np.median(depth)).astype(float), rng.uniform(0.5, 2.5))
    result: NDArray[np.float64] = np.clip(edge, 0, 1)
    return result


def _split(split: str) -> str:
    if split not in _DRAWS:
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    return split


def _colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]


def _levels(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
