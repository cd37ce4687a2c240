"""The affine part as a CSV table, which spreadsheets and `numpy.loadtxt` read."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np

from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.file_safety import Refused
from napari_busref.runtime.tables import delimiter, read_table
from napari_busref.runtime.version import package_version
from napari_busref.transforms.formats.grid import ImageGrid
from napari_busref.transforms.formats.landmark_files import is_landmarks, read_landmark_transform
from napari_busref.transforms.formats.physical import (
    affine_from_physical,
    affine_to_physical,
    check_grids,
    in_unit,
)
from napari_busref.transforms.transform import Transform

__all__ = ["read_csv", "write_csv"]

_MAPS = "# maps: fixed (row, col, 1) in {fixed} to moving (row, col, 1) in {moving}"
_UNITS = re.compile(r"^# maps: fixed \(row, col, 1\) in (.+) to moving \(row, col, 1\) in (.+)$")


def write_csv(
    path: Path,
    transform: Transform,
    fixed: ImageGrid,
    moving: ImageGrid,
    *,
    affine_only: bool = False,
) -> Path:
    """Write the affine part as three lines of three numbers, below its direction and units.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``.
    transform : Transform
        Without a displacement, unless `affine_only`.
    fixed, moving : ImageGrid
        Grids of its images. The matrix maps between their physical spaces, in their units.
    affine_only : bool
        Omit the displacement, and note that in a comment line.

    Raises
    ------
    ValueError
        When the transform has a displacement and `affine_only` is False.
    """
    check_grids(transform, fixed, moving)
    lines = [
        f"# napari-busref {package_version()}: affine transform, fixed to moving",
        _MAPS.format(fixed=fixed.unit, moving=moving.unit),
    ]
    if transform.displacement is not None:
        longest = float(np.hypot(*transform.displacement).max())
        if not affine_only:
            raise ValueError(
                f"path: {path.name} cannot hold the displacement field of this transform (up to "
                f"{longest:.3g} px); affine_only=True leaves it out"
            )
        lines.append(f"# left out: a displacement field of up to {longest:.3g} fixed pixels")
    matrix = affine_to_physical(transform, fixed, moving)
    lines += [",".join(repr(float(value)) for value in row) for row in matrix]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_csv(path: Path, fixed: ImageGrid, moving: ImageGrid) -> Transform:
    """Read a table that `write_csv` wrote, any 3 x 3 or 2 x 3 matrix, or landmarks of BigWarp.

    The matrix acts on ``(row, col, 1)``.

    Parameters
    ----------
    path : Path
    fixed, moving : ImageGrid
        Grids of the two images. Units that the file names are converted; a file without them
        is in the units of the grids.

    Raises
    ------
    ValueError
        When the matrix is of another shape, or the units cannot be converted.
    """
    try:
        text = read_table(path)
        landmarks = is_landmarks(text)
        if not landmarks:
            mark = delimiter(text)
            plain = text if mark == "," else text.replace(",", ".")
            matrix = np.loadtxt(io.StringIO(plain), delimiter=mark, ndmin=2, comments="#")
    except Refused:
        raise
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"path: {path} is no table of numbers with commas, semicolons or tabs, and holds no "
            f"landmarks of BigWarp: {error}"
        ) from None
    if landmarks:
        return read_landmark_transform(path, fixed, moving)
    if matrix.shape == (2, 3):
        matrix = np.vstack([matrix, (0.0, 0.0, 1.0)])
    if matrix.shape != (3, 3) or not np.array_equal(matrix[2], (0.0, 0.0, 1.0)):
        raise ValueError(
            f"path: {path} holds a table of shape {matrix.shape}, need 3 x 3 with a last line "
            "0,0,1 (or 2 x 3)"
        )
    for line in text.splitlines():
        if match := _UNITS.match(line.strip()[:500]):
            fixed, moving = (
                in_unit(grid, unit, path)
                for grid, unit in zip((fixed, moving), match.groups(), strict=True)
            )
    return Transform(
        affine_from_physical(matrix, fixed, moving),
        fixed_shape=fixed.shape,
        moving_shape=moving.shape,
    )
