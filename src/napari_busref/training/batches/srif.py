"""Read the pairs of SRIF (``srif/KIND``): turned back by their affine, cut to what both show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from imageio.v3 import imread
from numpy.typing import NDArray
from skimage.transform import AffineTransform, warp

from napari_busref.data.datasets import default_root

PREFIX = "srif/"

_TRAIN_PAIRS = 100  # of 120; the others are ``val``
_RIM = 3  # px cut off: JPEG rings beside the black corners


def load_srif(
    dataset: str, data_root: str | Path | None = None, split: str = "train"
) -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Load the aligned pairs of one kind.

    The published affine turns the moving image back. The largest centred rectangle in which both
    images have content is cut out, which leaves no black corner.

    Parameters
    ----------
    dataset : str
        ``"srif/night"`` or another folder with ``NNN_fixed.jpg``, ``NNN_moving.jpg`` and
        ``NNN.txt``, the affine from fixed to moving pixels.
    data_root : path, optional
        Folder of the data sets; by default ``../shared/data`` beside the checkout.
    split : str
        ``"train"`` (pairs 001 to 100) or ``"val"`` (101 to 120).

    Returns
    -------
    list of (name, infrared, visible)
        ``infrared`` uint8 (H, W), ``visible`` uint8 (H, W, 3).

    Raises
    ------
    ValueError
        If the folder or the split cannot be read.
    """
    root = Path(data_root) if data_root is not None else default_root()
    folder = (root or Path()) / dataset
    numbers = sorted(path.stem for path in folder.glob("[0-9][0-9][0-9].txt"))
    if root is None or not numbers:
        raise ValueError(f"dataset {dataset!r} needs pairs in {folder}, which holds none")
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    pairs = []
    for number in numbers:
        if (int(number) <= _TRAIN_PAIRS) == (split == "train"):
            visible = imread(folder / f"{number}_fixed.jpg")
            moving = imread(folder / f"{number}_moving.jpg")
            infrared, window = _turn_back(moving, np.loadtxt(folder / f"{number}.txt"), visible)
            pairs.append((number, infrared[window], visible[window]))
    return pairs


def _turn_back(
    moving: NDArray[np.uint8], affine: NDArray[np.float64], fixed: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
    """Infrared image on the grid of ``fixed``, and the window that both images fill."""
    grey = moving if moving.ndim == 2 else moving.mean(2)
    shape = fixed.shape[:2]
    transform = AffineTransform(np.vstack([affine, [0, 0, 1]]))
    # cubic: linear interpolation takes a tenth of the gradients
    image = warp(grey.astype(float), transform, output_shape=shape, order=3, mode="edge")
    inner = np.zeros(grey.shape)
    inner[_RIM:-_RIM, _RIM:-_RIM] = 1
    shown = warp(inner, transform, output_shape=shape, order=0, cval=0) > 0
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), _centred_window(shown)


def _centred_window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Largest rectangle about the centre that lies in the mask."""
    folded = mask & mask[::-1] & mask[:, ::-1] & mask[::-1, ::-1]
    height, width = mask.shape
    quarter = folded[height // 2 :, width // 2 :]
    # for each row the columns from the centre without a gap, then the fewest of the rows so far
    columns = np.minimum.accumulate(np.cumprod(quarter, axis=1).sum(1))
    rows = np.arange(1, len(columns) + 1)
    best = int(np.argmax(rows * columns))
    half, across = best + 1, int(columns[best])
    top, left = height // 2, width // 2
    return slice(top - half, top + half), slice(left - across, left + across)
