"""Parameter files of elastix: ``TransformParameters.0.txt``.

The transforms are those of ITK: from physical points ``(x, y)`` of the fixed image to those of the
moving image.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.transforms.formats.grid import ImageGrid
from napari_busref.transforms.formats.physical import (
    affine_from_physical,
    from_positions,
    positions,
    swapped,
)
from napari_busref.transforms.transform import Transform

__all__ = ["is_elastix", "linear_matrix", "read_elastix"]

_LINE = re.compile(r"^[ \t]*\((\w+)\s([^()]*)\)[ \t\r]*(?://.*)?$", re.MULTILINE)
_VALUE = re.compile(r'"([^"]*)"|(\S+)')
# elastix's names, and those of the same transforms in ITK
_LINEAR = {
    "TranslationTransform": "TranslationTransform",
    "EulerTransform": "Euler2DTransform",
    "SimilarityTransform": "Similarity2DTransform",
    "AffineTransform": "AffineTransform",
}
# of parameters, by ITK's name
_COUNTS = {
    "AffineTransform": 6,
    "MatrixOffsetTransformBase": 6,
    "Euler2DTransform": 3,
    "Rigid2DTransform": 3,
    "Similarity2DTransform": 4,
    "TranslationTransform": 2,
}
_SPLINES = ("BSplineTransform", "RecursiveBSplineTransform")

_Values = dict[str, list[str]]


def is_elastix(text: str) -> bool:
    """Whether a text is a parameter file of elastix."""
    return "(Transform " in text and "(TransformParameters" in text


def read_elastix(path: Path, text: str, fixed: ImageGrid, moving: ImageGrid) -> Transform:
    """Read a translation, Euler, similarity, affine or B-spline transform.

    Parameters
    ----------
    path : Path
        Named in errors.
    text : str
        The content of the file.
    fixed, moving : ImageGrid
        Grids of the two images, in the unit of the file.

    Returns
    -------
    Transform
        An affine, or a B-spline sampled at every fixed pixel. Outside its grid a B-spline
        displaces nothing, as in elastix.

    Raises
    ------
    ValueError
        When the file is damaged, three-dimensional, continues another file, or holds another
        transform.
    """
    values: _Values = {}
    for name, content in _LINE.findall(text):
        values.setdefault(name, [quoted or bare for quoted, bare in _VALUE.findall(content)])
    try:
        kind = values["Transform"][0]
        dimensions = {values[f"{image}ImageDimension"][0] for image in ("Fixed", "Moving")}
        if dimensions == {"2"}:
            _check_alone(values)
            if values.get("UseDirectionCosines") == ["false"]:
                fixed, moving = (
                    ImageGrid(grid.shape, grid.spacing, grid.origin, unit=grid.unit)
                    for grid in (fixed, moving)
                )
            parameters = _numbers(values, "TransformParameters")
            if kind in _SPLINES:
                return _spline(values, parameters, fixed, moving)
            if kind not in _LINEAR:
                raise ValueError(
                    f"holds a {kind}, read are {', '.join((*_LINEAR, *_SPLINES))}; elastix writes "
                    'others as ITK transforms by (ITKTransformOutputFileNameExtension "tfm")'
                )
            center = _numbers(values, "CenterOfRotationPoint", 2, "0 0")
            matrix = linear_matrix(_LINEAR[kind], parameters, center)
            assert matrix is not None
            return Transform(
                affine_from_physical(swapped(matrix), fixed, moving),
                fixed_shape=fixed.shape,
                moving_shape=moving.shape,
            )
    except KeyError as error:
        raise ValueError(
            f"path: {path} is an elastix parameter file without {error.args[0]}"
        ) from None
    except ValueError as error:
        raise ValueError(f"path: the elastix parameter file {path} {error}") from None
    raise ValueError(
        f"path: {path} is a three-dimensional transform of elastix, need a two-dimensional one"
    )


def linear_matrix(
    kind: str, parameters: NDArray[np.float64], center: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Compute the matrix of ITK's 2-D linear transforms: M (p - center) + center + t.

    Parameters
    ----------
    kind : str
        ITK's name.
    parameters : ndarray of float64
        In ITK's order.
    center : ndarray of float64, shape (2,)
        Centre of rotation, (x, y).

    Returns
    -------
    ndarray of float64, shape (3, 3)
        Acts on ``(x, y, 1)``; None for another kind.

    Raises
    ------
    ValueError
        When the number of parameters is wrong, or they are not finite.
    """
    count = _COUNTS.get(kind)
    if count is None:
        return None
    if len(parameters) != count:
        raise ValueError(f"has {len(parameters)} parameters of a {kind}, need {count}")
    if kind in ("AffineTransform", "MatrixOffsetTransformBase"):
        a, b, c, d, x, y = parameters
        linear = np.array([[a, b], [c, d]])
    elif kind in ("Euler2DTransform", "Rigid2DTransform"):
        angle, x, y = parameters
        linear = _rotation(angle)
    elif kind == "Similarity2DTransform":
        scale, angle, x, y = parameters
        linear = scale * _rotation(angle)
    else:
        (x, y), linear, center = parameters, np.eye(2), np.zeros(2)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.array([x, y]) + center - linear @ center
    if not np.isfinite(matrix).all():
        raise ValueError("some parameters are not finite")
    return matrix


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _check_alone(values: _Values) -> None:
    """Refuse what other files complete: a file opens only itself."""
    for name in ("InitialTransformParametersFileName", "InitialTransformParameterFileName"):
        if (before := values.get(name, ["NoInitialTransform"])[0]) != "NoInitialTransform":
            raise ValueError(
                f"continues {before!r}, and other files are not opened; elastix writes all steps "
                'as one by (ITKTransformOutputFileNameExtension "tfm")'
            )
    if values.get("UseBinaryFormatForTransformationParameters") == ["true"]:
        raise ValueError("keeps its parameters in another file, which is not opened")


def _numbers(
    values: _Values, name: str, count: int | None = None, default: str | None = None
) -> NDArray[np.float64]:
    given = values.get(name, default.split()) if default is not None else values[name]
    try:
        numbers = np.array(given, float)
    except ValueError:
        raise ValueError(f"has no numbers as {name}") from None
    if (count is not None and len(numbers) != count) or not np.isfinite(numbers).all():
        raise ValueError(f"has {len(numbers)} values as {name}, need {count or 'finite'} numbers")
    return numbers


def _spline(
    values: _Values, parameters: NDArray[np.float64], fixed: ImageGrid, moving: ImageGrid
) -> Transform:
    """Sample a B-spline at every fixed pixel."""
    if values.get("UseCyclicTransform") == ["true"]:
        raise ValueError("holds a cyclic B-spline, need a plain one")
    order = int(_numbers(values, "BSplineTransformSplineOrder", 1, "3")[0])
    if order not in (1, 2, 3):
        raise ValueError(f"holds a B-spline of order {order}, need 1, 2 or 3")
    columns, rows = _numbers(values, "GridSize", 2).astype(int).tolist()
    if min(columns, rows) <= order or len(parameters) != 2 * columns * rows:
        raise ValueError(
            f"has {len(parameters)} parameters for a grid of {columns} x {rows}, need two for "
            f"each point and more than {order} points a side"
        )
    spacing, index = _numbers(values, "GridSpacing", 2), _numbers(values, "GridIndex", 2, "0 0")
    if not (spacing > 0).all():
        raise ValueError(f"has a GridSpacing of {spacing.tolist()}, need positive numbers")
    # elastix writes directions column by column
    direction = _numbers(values, "GridDirection", 4, "1 0 0 1").reshape(2, 2).T
    to_points = np.linalg.inv(direction * spacing)
    here = positions(fixed)[::-1]  # (x, y)
    origin = _numbers(values, "GridOrigin", 2).reshape(2, 1, 1)
    at = np.tensordot(to_points, here - origin, 1) - index.reshape(2, 1, 1)
    coefficients = parameters.reshape(2, rows, columns)
    moved = np.stack(
        [
            ndimage.map_coordinates(part, at[::-1], order=order, prefilter=False, mode="nearest")
            for part in coefficients
        ]
    )
    margin = (order - 1) / 2
    sizes = np.array([columns, rows]).reshape(2, 1, 1)
    moved[:, ((at < margin) | (at > sizes - 1 - margin)).any(0)] = 0
    return from_positions((here + moved)[::-1], fixed, moving)
