"""Which files a command reads and writes."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WARPED = re.compile(r"_warped$")  # what `register` calls its output; still pairs with the input
_BY_PRODUCT = re.compile(r"_(mask|fused)$")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A fixed and a moving image file, and the name their outputs start with."""

    name: str
    fixed: Path
    moving: Path


def image_files(folder: Path, argument: str) -> dict[str, Path]:
    """The readable images of a folder (not of its subfolders) by stem.

    Raises
    ------
    ValueError
        When there are none, or two of them have the same stem.
    """
    from napari_busref.io import READABLE

    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in READABLE or not path.is_file():
            continue
        if path.stem in found:
            raise ValueError(
                f"{argument}: {found[path.stem].name} and {path.name} in {folder} have the same "
                "stem, so pairs are not clear"
            )
        found[path.stem] = path
    if not found:
        accepted = ", ".join(sorted(READABLE))
        raise ValueError(f"{argument}: no image in the folder {folder}, accepted: {accepted}")
    return found


def find_pairs(fixed: Path, moving: Path) -> tuple[list[Pair], list[Path]]:
    """Pair two files, or the files of two folders that have the same stem.

    In folders a moving file may also be called ``<stem>_warped``, as `register` names its
    output; files that end in ``_mask`` or ``_fused`` are then left alone.

    Returns
    -------
    pairs : list of Pair
    alone : list of Path
        Images of the folders that have no partner.

    Raises
    ------
    ValueError
        When one is a file and the other a folder, or nothing pairs.
    FileNotFoundError
        When one does not exist.
    """
    for argument, path in (("FIXED", fixed), ("MOVING", moving)):
        if not path.exists():
            raise FileNotFoundError(f"{argument}: no such file or folder: {path}")
    if fixed.is_dir() != moving.is_dir():
        folder = "FIXED" if fixed.is_dir() else "MOVING"
        raise ValueError(
            f"FIXED and MOVING: only {folder} is a folder, need two files or two folders"
        )
    if not fixed.is_dir():
        return [Pair(_WARPED.sub("", moving.stem), fixed, moving)], []
    left, right = image_files(fixed, "FIXED"), image_files(moving, "MOVING")
    partners: dict[str, Path] = {}
    for stem, path in right.items():
        key = stem if stem in left else _WARPED.sub("", stem)
        if key in partners:
            raise ValueError(
                f"MOVING: {partners[key].name} and {path.name} in {moving} both belong to "
                f"{left[key].name}"
            )
        if key in left or not _BY_PRODUCT.search(stem):
            partners[key] = path
    pairs = [Pair(key, left[key], partners[key]) for key in left if key in partners]
    if not pairs:
        raise ValueError(f"FIXED and MOVING: no two files of the same stem in {fixed}, {moving}")
    alone = [path for key, path in left.items() if key not in partners]
    alone += [path for key, path in partners.items() if key not in left]
    return pairs, alone


def output_folder(folder: Path) -> None:
    """Create the folder for results and make sure that it can be written.

    Raises
    ------
    OSError
        ``--output`` is a file, or cannot be made or written.
    """
    from napari_busref.io import check_writable

    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--output: {folder} is a file, need a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PermissionError(
            f"--output: the folder {folder} cannot be written: {reason}"
        ) from error


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise when an output is there already, unless it may be overwritten.

    Raises
    ------
    FileExistsError
        Names the first existing file and how many more there are.
    """
    existing = [] if overwrite else [path for path in paths if path.exists()]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise FileExistsError(f"--output: {existing[0]}{more} exists; use --overwrite to replace")


def output_suffix(fixed: Path, image: NDArray[Any], wanted: str | None = None) -> str:
    """The extension of an image written for the grid of `fixed`.

    TIFF stays TIFF and NPY stays NPY; PNG and JPEG become PNG (lossless) where PNG can hold the
    type of the image, else TIFF.
    """
    if wanted is not None:
        return f".{wanted}"
    suffix = fixed.suffix.lower()
    if suffix in (".tif", ".tiff", ".npy"):
        return suffix
    png = image.dtype.name in ("bool", "uint8") or (
        image.dtype.name == "uint16" and image.ndim == 2
    )
    return ".png" if png else ".tif"


def mask_picture(mask: NDArray[np.bool_], suffix: str) -> NDArray[Any]:
    """The mask as a file of that extension holds it: bool in NPY, else 0 and 255."""
    import numpy as np

    return mask if suffix == ".npy" else mask.astype(np.uint8) * 255


def plain(value: Any) -> Any:
    """Turn dataclasses, arrays and numpy numbers into what JSON can hold; NaN becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and numpy numbers
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
