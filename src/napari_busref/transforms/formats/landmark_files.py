"""Files of landmarks: a table in pixels, BigWarp's table, and the ``.points`` file of QGIS."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.tables import delimiter, number, read_table, rows
from napari_busref.transforms.formats.grid import ImageGrid
from napari_busref.transforms.formats.physical import apply_to, inverted
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref.transforms.landmarks import LandmarkModel

__all__ = [
    "POINTS",
    "STYLES",
    "LandmarkStyle",
    "is_landmarks",
    "read_landmark_transform",
    "read_landmarks",
    "write_landmarks",
]

LandmarkStyle = Literal["pixels", "bigwarp", "qgis"]
"""Kinds of files: pixels of both images, BigWarp's table, points of QGIS."""
STYLES: tuple[str, ...] = get_args(LandmarkStyle)

#: Extension of the points of QGIS's georeferencer.
POINTS = ".points"

_Points = NDArray[np.float64]


def read_landmarks(path: Path, fixed: ImageGrid, moving: ImageGrid) -> tuple[_Points, _Points]:
    """Read pairs of points: in pixels or of BigWarp (``.csv``), or of QGIS (``.points``).

    Parameters
    ----------
    path : Path
    fixed, moving : ImageGrid
        Grids of the two images. A table in pixels needs their shapes only. BigWarp's points are
        in the units of both grids. QGIS's source points are pixels of the moving image; its map
        points are positions in the fixed grid, or pixels when its unit is the pixel.

    Returns
    -------
    fixed_points, moving_points : ndarray of float64, shape (N, 2)
        (row, col) in pixels of each image, without the pairs that are switched off.

    Raises
    ------
    ValueError
        When the file is damaged or three-dimensional.
    """
    text = _text(path)
    if path.name.lower().endswith(POINTS):
        return _qgis(path, text, fixed, moving)
    if _is_pixels(text):
        return _in_pixels(path, text)
    return _bigwarp(path, text, fixed, moving)


def write_landmarks(
    path: Path,
    fixed_points: ArrayLike,
    moving_points: ArrayLike,
    fixed: ImageGrid,
    moving: ImageGrid,
    style: LandmarkStyle | None = None,
) -> Path:
    """Write pairs of points so that `read_landmarks` reads the same ones.

    Parameters
    ----------
    path : Path
    fixed_points, moving_points : array_like, shape (N, 2)
        (row, col) in pixels of each image.
    fixed, moving : ImageGrid
        As of `read_landmarks`.
    style : str, optional
        One of `STYLES`. By default QGIS for ``.points``, else pixels.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        When the points do not fit, or for another style.
    OSError
        When the file cannot be written.
    """
    chosen = style or ("qgis" if path.name.lower().endswith(POINTS) else "pixels")
    if chosen not in STYLES:
        raise ValueError(f"style: got {style!r}, need one of {', '.join(STYLES)}")
    here, there = (np.asarray(points, float) for points in (fixed_points, moving_points))
    if here.shape != there.shape or here.ndim != 2 or here.shape[1] != 2:
        raise ValueError(
            f"points: got shapes {here.shape} and {there.shape}, need twice the same (N, 2)"
        )
    with replacing(path) as target, target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_lines(chosen, here, there, fixed, moving))
    return path


def read_landmark_transform(path: Path, fixed: ImageGrid, moving: ImageGrid) -> Transform:
    """Fit a transform to the landmarks of a file, as the program that wrote it does by default.

    Parameters
    ----------
    path, fixed, moving
        As of `read_landmarks`.

    Returns
    -------
    Transform
        A thin plate for BigWarp, an affine for the others.

    Raises
    ------
    ValueError
        As `read_landmarks`, and when the points do not determine the transform.
    """
    # importing it costs 0.26 s, which opening a panel need not wait for
    from napari_busref.transforms.landmarks import landmark_transform

    points = read_landmarks(path, fixed, moving)
    bends = not path.name.lower().endswith(POINTS) and not _is_pixels(_text(path))
    model: LandmarkModel = "thin-plate" if bends else "affine"
    try:
        return landmark_transform(
            *points, fixed_shape=fixed.shape, moving_shape=moving.shape, model=model
        )
    except ValueError as error:
        raise ValueError(f"path: {path}: {error}") from None


def is_landmarks(text: str) -> bool:
    """Whether a table holds landmarks: in pixels, or of BigWarp (a name, then true or false)."""
    if _is_pixels(text):
        return True
    first = itertools.islice(rows(text), 2)  # a header may come first
    return any(len(row) >= 6 and _is_flag(row[1]) for row in first)


_PIXELS = ("number", "fixed_row", "fixed_col", "moving_row", "moving_col")


def _lines(
    style: str, here: _Points, there: _Points, fixed: ImageGrid, moving: ImageGrid
) -> list[tuple[object, ...]]:
    """The cells of a file of landmarks."""
    if style == "pixels":
        rows = _plain_numbers(here, there)
        return [_PIXELS, *((number, *row) for number, row in enumerate(rows, 1))]
    if style == "bigwarp":
        world = [
            apply_to(grid.matrix, points.T)[::-1]
            for grid, points in ((moving, there), (fixed, here))
        ]
        rows = _plain_numbers(*(one.T for one in world))
        return [(f"Pt-{number}", "true", *row) for number, row in enumerate(rows)]
    place = _corner(here) if _is_plain(fixed) else apply_to(fixed.matrix, here.T)[::-1].T
    rows = _plain_numbers(place, _corner(there))
    return [("mapX", "mapY", "sourceX", "sourceY", "enable"), *((*row, 1) for row in rows)]


def _plain_numbers(*columns: _Points) -> list[list[float]]:
    """Rows of numbers without digits of rounding errors."""
    rows: list[list[float]] = np.round(np.column_stack(columns), 9).tolist()
    return rows


def _corner(points: _Points) -> _Points:
    """The reverse of `_from_corner`: (x, y), and y is negative."""
    return np.stack([points[:, 1] + 0.5, -points[:, 0] - 0.5], 1)


def _is_plain(grid: ImageGrid) -> bool:
    """Whether a grid has no place on a map."""
    return np.array_equal(grid.matrix, np.eye(3)) and not grid.has_length


def _header(text: str) -> list[str]:
    return [cell.strip().lower() for cell in next(rows(text), [])]


def _is_pixels(text: str) -> bool:
    return set(_PIXELS[1:]) <= set(_header(text))


def _in_pixels(path: Path, text: str) -> tuple[_Points, _Points]:
    columns = [_header(text).index(name) for name in _PIXELS[1:]]
    lines = [row for row in itertools.islice(rows(text), 1, None) if any(row)]
    if any(len(row) <= max(columns) for row in lines):
        raise ValueError(f"path: {path} is damaged: a landmark has fewer than four numbers")
    mark = delimiter(text)
    pairs = np.array(
        [
            _floats([row[at] for at in columns], path, line, mark)
            for line, row in enumerate(lines, 1)
        ]
    )
    if not np.isfinite(pairs).all():
        raise ValueError(f"path: {path} is damaged: a landmark is not finite")
    here, there = np.split(pairs.reshape(-1, 4), 2, axis=1)
    return here, there


def _is_flag(cell: str) -> bool:
    return cell.strip().lower() in ("true", "false")


def _text(path: Path) -> str:
    try:
        return read_table(path)
    except UnicodeDecodeError:
        raise ValueError(f"path: {path} holds no landmarks: it is not text") from None


def _bigwarp(
    path: Path, text: str, fixed: ImageGrid, moving: ImageGrid
) -> tuple[_Points, _Points]:
    """Name, active, then x, y of the moving and x, y of the fixed image.

    In three dimensions z follows each y. Of one plane it is the same everywhere.
    """
    pairs = []
    mark = delimiter(text)
    for line, row in enumerate(rows(text), 1):
        if not any(row) or (line == 1 and len(row) > 1 and not _is_flag(row[1])):
            continue
        if len(row) not in (6, 8) or not _is_flag(row[1]):
            raise ValueError(
                f"path: {path} is damaged: line {line} is no landmark of BigWarp (name, "
                "active, x and y of the moving and of the fixed image)"
            )
        values = _floats(row[2:], path, line, mark)
        if len(row) == 6:
            values = [*values[:2], 0.0, *values[2:], 0.0]
        # BigWarp writes infinite positions where one image lacks the point
        if row[1].strip().lower() == "true" and np.isfinite(values).all():
            pairs.append(values)
    x, y, z, fixed_x, fixed_y, fixed_z = np.reshape(pairs, (-1, 6)).T
    if pairs and (np.ptp(z) or np.ptp(fixed_z)):
        raise ValueError(
            f"path: {path} holds three-dimensional landmarks, need those of one plane"
        )
    return (
        _pixels(fixed, np.stack([fixed_y, fixed_x])),
        _pixels(moving, np.stack([y, x])),
    )


def _qgis(path: Path, text: str, fixed: ImageGrid, moving: ImageGrid) -> tuple[_Points, _Points]:
    """Columns by name: map and source positions, and whether the pair is enabled."""
    lines = [one for one in text.splitlines() if one.strip(" ,;\t") and not one.startswith("#")]
    mark = delimiter(text)
    table = csv.DictReader(lines, delimiter=mark)
    names = [(name or "").strip() for name in table.fieldnames or ()]
    source = "source" if "sourceX" in names else "pixel"
    needed = ("mapX", "mapY", f"{source}X", f"{source}Y")
    if missing := [name for name in needed if name not in names]:
        raise ValueError(
            f"path: {path} holds no points of QGIS: it has no column {missing[0]}, need mapX, "
            "mapY, sourceX and sourceY"
        )
    table.fieldnames = names
    pairs = [
        _floats([row[name] or "" for name in needed], path, line, mark)
        for line, row in enumerate(table, 1)
        if (row.get("enable") or "1").strip().lower() not in ("0", "0.0", "false")
    ]
    map_x, map_y, x, y = np.reshape(pairs, (-1, 4)).T
    if _is_plain(fixed):
        fixed_points = _from_corner(map_x, map_y)
    else:
        fixed_points = _pixels(fixed, np.stack([map_y, map_x]))
    _check_nearby(path, fixed_points, fixed)
    return fixed_points, _from_corner(x, y)


def _from_corner(x: _Points, y: _Points) -> _Points:
    """Convert positions in an image without a place on the map to (row, col).

    QGIS counts from the outer corner of the first pixel, and y upwards: rows are negative.
    """
    rows = -y if (y <= 0).all() else y
    return np.stack([rows - 0.5, x - 0.5], 1)


def _check_nearby(path: Path, points: _Points, fixed: ImageGrid) -> None:
    """Refuse map coordinates that a grid without its place on the map cannot hold."""
    size = np.array(fixed.shape)
    if len(points) and not ((points > -size) & (points < 2 * size)).all(1).any():
        raise ValueError(
            f"path: {path} holds map positions far outside the fixed image; need fixed as an "
            "ImageGrid with the origin, spacing and direction of its place on the map"
        )


def _pixels(grid: ImageGrid, positions: _Points) -> _Points:
    return np.ascontiguousarray(apply_to(inverted(grid.matrix), positions).T)


def _floats(cells: list[str], path: Path, line: int, separator: str) -> list[float]:
    try:
        return [number(cell, separator) for cell in cells]
    except ValueError:
        raise ValueError(f"path: {path} is damaged: landmark {line} is no number") from None
