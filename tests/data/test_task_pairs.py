"""Pairs of the tasks beside infrared-visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imageio.v3 import imwrite
from scipy import ndimage as ndi

from napari_busref.data.datasets import load_pairs
from napari_busref.data.task_pairs import originals


@pytest.mark.parametrize("dataset", ["multi-focus", "multi-exposure"])
def test_made_pairs_are_the_same_every_time_and_split_by_photograph(dataset: str) -> None:
    train, val = load_pairs(dataset, split="train"), load_pairs(dataset, split="val")
    names = [{name.rpartition("-")[0] for name, _, _ in pairs} for pairs in (train, val)]
    assert len(train) >= 40 and len(val) >= 12 and not names[0] & names[1]
    for (_, infrared, visible), again in zip(val, load_pairs(dataset), strict=True):
        assert infrared.dtype == visible.dtype == np.uint8
        assert visible.shape == (*infrared.shape, 3)
        assert np.array_equal(infrared, again[1]) and np.array_equal(visible, again[2])


def test_each_of_a_focus_pair_is_sharper_somewhere() -> None:
    _, second, first = load_pairs("multi-focus")[0]
    detail = [
        ndi.uniform_filter(ndi.laplace(image.astype(float)) ** 2, 15)
        for image in (first @ np.array([0.299, 0.587, 0.114]), second)
    ]
    sharper = detail[0] > 2 * detail[1], detail[1] > 2 * detail[0]
    assert min(part.mean() for part in sharper) > 0.2


def test_the_original_is_what_one_of_a_focus_pair_shows_everywhere() -> None:
    known = originals("val")
    for name, second, first in load_pairs("multi-focus")[:4]:
        pair = (first @ np.array([0.299, 0.587, 0.114]), second.astype(float))
        apart = np.minimum(*(np.abs(image - known[name]) for image in pair))
        # the transition between near and far is unsharp in both
        assert (apart <= 1.5).mean() > 0.9


def test_exposures_clip_at_opposite_ends() -> None:
    for _, dark, bright in load_pairs("multi-exposure")[:3]:
        assert dark.mean() < 100 < bright.mean()
        assert (bright == 255).mean() > (dark == 255).mean()


def test_every_fourth_slice_is_held_out(tmp_path: Path) -> None:
    for modality in ("mri", "source"):
        (tmp_path / "medical" / "mri-ct" / modality).mkdir(parents=True)
        for number in range(9):
            image = np.full((8, 8, 3), number, np.uint8)
            imwrite(tmp_path / "medical" / "mri-ct" / modality / f"{number}.png", image)
    train = [name for name, _, _ in load_pairs("mri-ct", tmp_path, "train")]
    val = [name for name, _, _ in load_pairs("mri-ct", tmp_path, "val")]
    assert val == ["1", "5"] and sorted(train + val) == [str(n) for n in range(9)]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset 'mri-pet' needs pictures in"):
        load_pairs("mri-pet", tmp_path)
    with pytest.raises(ValueError, match="split must be 'train' or 'val', got 'test'"):
        load_pairs("multi-focus", split="test")
