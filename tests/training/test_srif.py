"""SRIF's pairs: turned back by their affine and cut to what both images show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imageio.v3 import imwrite
from scipy import ndimage as ndi
from skimage.transform import AffineTransform, warp

from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.batches.srif import load_srif
from napari_busref.training.recipe import DataConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One pair for training and one held out; the second image is the first, turned by 30°."""
    scene = ndi.gaussian_filter(np.random.default_rng(0).random((96, 128)), 3)
    scene = 55 + 200 * (scene - scene.min()) / np.ptp(scene)
    folder = tmp_path / "srif" / "night"
    folder.mkdir(parents=True)
    centre = np.array([63.5, 47.5])
    turn = (
        AffineTransform(translation=-centre)
        + AffineTransform(rotation=np.pi / 6)
        + AffineTransform(translation=centre)
    )
    moving = warp(scene, turn.inverse, order=1, cval=0)  # black corners
    for number in ("001", "101"):
        imwrite(folder / f"{number}_fixed.jpg", np.repeat(scene[..., None], 3, 2).astype(np.uint8))
        imwrite(folder / f"{number}_moving.jpg", moving.astype(np.uint8))
        np.savetxt(folder / f"{number}.txt", turn.params[:2])
    return tmp_path


@pytest.mark.parametrize(("split", "number"), [("train", "001"), ("val", "101")])
def test_a_turned_image_comes_back_without_its_corners(
    root: Path, split: str, number: str
) -> None:
    ((name, infrared, visible),) = load_srif("srif/night", root, split)
    assert name == number
    assert infrared.shape == visible.shape[:2]
    assert min(infrared.shape) > 48
    difference = np.abs(infrared.astype(float) - visible[..., 0])
    assert difference.mean() < 3
    assert infrared.min() > 40  # a corner is black


def test_a_recipe_can_name_a_folder_of_srif(root: Path) -> None:
    store = PairStore.from_config(DataConfig(datasets=("srif/night",), root=str(root)))
    assert len(store.pairs) == 1
    twice = PairStore.from_config(DataConfig(datasets=("srif/night",) * 2, root=str(root)))
    assert twice.pairs[0][0] is twice.pairs[1][0]  # drawn twice as often, held once


def test_a_missing_folder_and_an_unknown_split_are_named(root: Path) -> None:
    with pytest.raises(ValueError, match="srif/day"):
        load_srif("srif/day", root)
    with pytest.raises(ValueError, match="split"):
        load_srif("srif/night", root, "test")
