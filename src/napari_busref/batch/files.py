"""Output files of commands: folders, extensions, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_busref.images.uri import is_ome_zarr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def output_folder(folder: Path) -> None:
    """Create the folder for results, or remove what a killed run left; check that it is writable.

    Raises
    ------
    OSError
        When ``--output`` is a file, or cannot be created or written.
    """
    from napari_busref.runtime.atomic_write import check_writable, remove_leftovers

    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--output: {folder} is a file, need a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
        remove_leftovers(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PermissionError(
            f"--output: the folder {folder} cannot be written: {reason}"
        ) from error


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse to replace existing outputs, unless `overwrite`.

    Raises
    ------
    FileExistsError
        Naming the first existing file and the number of others.
    """
    existing = [] if overwrite else [path for path in paths if path.exists()]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise FileExistsError(f"--output: {existing[0]}{more} exists; use --overwrite to replace")


def output_suffix(fixed: Path, image: NDArray[Any], file_format: str | None = None) -> str:
    """Choose the extension of an image on the grid of `fixed`.

    TIFF, NPY and OME-Zarr stay. PNG and JPEG become PNG (lossless) where PNG can hold the type of
    the image, else TIFF.
    """
    if file_format is not None:
        return ".tif" if file_format == "cog" else f".{file_format}"
    if is_ome_zarr(fixed):
        return ".ome.zarr"
    suffix = fixed.suffix.lower()
    if suffix in (".tif", ".tiff", ".npy"):
        return suffix
    png = image.dtype.name in ("bool", "uint8") or (
        image.dtype.name == "uint16" and image.ndim == 2
    )
    return ".png" if png else ".tif"


def mask_picture(mask: NDArray[np.bool_], suffix: str) -> NDArray[Any]:
    """Convert a mask for a file of that extension: bool in NPY, else 0 and 255."""
    import numpy as np

    return mask if suffix == ".npy" else mask.astype(np.uint8) * 255


def plain(value: Any) -> Any:
    """Convert dataclasses, arrays and numpy numbers for JSON; NaN becomes null."""
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
    """Write `value` as indented JSON, whole or not at all."""
    from napari_busref.runtime.atomic_write import replacing

    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # a name that is no UTF-8 becomes an escape, which JSON reads back
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
