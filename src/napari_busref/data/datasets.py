"""Read the aligned pairs of the development data (``../shared/data``)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from imageio.v3 import imread
from skimage.transform import downscale_local_mean

from napari_busref.data.task_pairs import exposure_pairs, focus_pairs, medical_pairs

DATASETS: dict[str, int] = {"roadscene": 1, "vis-nir": 2}
"""Known data sets and their reduction factor; the protocol halves near-infrared images."""

TASK_DATASETS = ("mri-pet", "mri-ct", "multi-focus", "multi-exposure")
"""Data sets of other tasks; ``visible`` is the image whose colours fusion keeps."""


def default_root() -> Path | None:
    """Find the data folder beside a development checkout, or None."""
    root = Path(__file__).resolve().parents[4] / "shared" / "data"
    return root if root.is_dir() else None


def load_pairs(
    dataset: str,
    data_root: str | Path | None = None,
    split: str = "val",
    *,
    reduce: int | None = None,
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Load the aligned pairs of one data set.

    Parameters
    ----------
    dataset : str
        A key of ``DATASETS``, one of ``TASK_DATASETS``, or a folder under ``data_root``. It has
        folders ``infrared`` and ``visible`` with files of the same names, and ``split.json``
        (``{"train": [...], "val": [...]}``).
    data_root : path, optional
        Folder of the data sets; by default ``../shared/data`` beside the checkout.
    split : str
        ``"train"`` or ``"val"``.
    reduce : int, optional
        Average blocks of this side in pixels; by default as in ``DATASETS``.

    Returns
    -------
    list of (name, infrared, visible)
        ``infrared`` uint8 (H, W), ``visible`` uint8 (H, W, 3).

    Raises
    ------
    ValueError
        If the folder, the split or a pair cannot be read.
    """
    if dataset in ("multi-focus", "multi-exposure"):
        return focus_pairs(split) if dataset == "multi-focus" else exposure_pairs(split)
    root = Path(data_root) if data_root is not None else default_root()
    if root is None:
        raise ValueError(
            "data_root must be given: no ../shared/data lies beside this installation"
        )
    if dataset in TASK_DATASETS:
        return medical_pairs(root, dataset, split)
    folder = root / dataset
    listing = folder / "split.json"
    if not listing.is_file():
        raise ValueError(f"dataset {dataset!r} needs {listing}, which does not exist")
    names = json.loads(listing.read_text()).get(split)
    if not names:
        raise ValueError(f"split must be one that {listing} lists, got {split!r}")
    factor = DATASETS.get(dataset, 1) if reduce is None else reduce
    pairs = []
    for name in names:
        infrared = _grey(imread(folder / "infrared" / name))
        visible = imread(folder / "visible" / name)
        if visible.ndim == 2:
            visible = np.repeat(visible[..., None], 3, 2)
        if infrared.shape != visible.shape[:2]:
            raise ValueError(
                f"{folder}: infrared and visible of {name} differ in size, "
                f"{infrared.shape} and {visible.shape[:2]}"
            )
        pairs.append(
            (Path(name).stem, _reduce(infrared, factor), _reduce(visible[..., :3], factor))
        )
    return pairs


def _grey(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else image[..., 0]


def _reduce(image: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return image
    height, width = (n // factor * factor for n in image.shape[:2])
    blocks = (factor, factor, *(1,) * (image.ndim - 2))
    return np.rint(downscale_local_mean(image[:height, :width], blocks)).astype(image.dtype)
