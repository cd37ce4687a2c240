"""`ImageGrid`: the positions of an image's pixels in physical space, and their unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from napari_busref.images.io import ImageFile

__all__ = ["METRES", "ImageGrid", "unit_name"]

#: Metres in one unit, under the names that pint, UDUNITS-2 and OME-NGFF share.
METRES = {
    "angstrom": 1e-10,
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "decimeter": 0.1,
    "meter": 1.0,
    "kilometer": 1e3,
    "inch": 0.0254,
    "foot": 0.3048,
    "yard": 0.9144,
    "mile": 1609.344,
}
_ALIASES = {
    "": "pixel",
    "none": "pixel",
    "px": "pixel",
    "pixels": "pixel",
    "Å": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",  # micro sign
    "μm": "micrometer",  # Greek mu
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "km": "kilometer",
    "in": "inch",
    "ft": "foot",
    "yd": "yard",
}


def unit_name(unit: Any) -> str:
    """Return the long name of a unit: ``um`` and ``micrometre`` are ``micrometer``.

    Parameters
    ----------
    unit : object
        A name, a symbol or an object that prints as one, such as a pint unit. None is ``pixel``.

    Returns
    -------
    str
        A name of `METRES`, ``pixel``, or any other text unchanged.
    """
    text = "" if unit is None else str(unit).strip()
    return _ALIASES.get(text, text.replace("metre", "meter"))


def _short(value: Any) -> str:
    """Numbers with six digits, in nested tuples."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return f"{value:.6g}"


@dataclass(frozen=True)
class ImageGrid:
    """The pixels of a two-dimensional image in physical space.

    The centre of pixel ``(row, col)`` lies at ``origin + direction @ (spacing * (row, col))``.
    All values are in the order (row, col), as napari's ``scale``, ``translate`` and ``rotate``.

    Parameters
    ----------
    shape : tuple of int
        ``(rows, cols)``.
    spacing : tuple of float
        Size of a pixel along rows and columns, positive.
    origin : tuple of float
        Position of the centre of pixel ``(0, 0)``.
    direction : tuple of tuple of float
        Its columns are the unit vectors along rows and columns.
    unit : str
        Of `spacing` and `origin`, see `unit_name`.

    Raises
    ------
    ValueError
        When a value is not finite, a spacing is not positive, or the direction is singular.

    Examples
    --------
    >>> ImageGrid((480, 640), spacing=(0.5, 0.5), unit="µm").to("mm").spacing
    (0.0005, 0.0005)
    """

    shape: tuple[int, int]
    spacing: tuple[float, float] = (1.0, 1.0)
    origin: tuple[float, float] = (0.0, 0.0)
    direction: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    unit: str = "pixel"

    def __post_init__(self) -> None:
        rows, cols = (int(size) for size in self.shape)
        if min(rows, cols) < 1:
            raise ValueError(f"shape: got {self.shape}, need (rows, cols), both at least 1")
        values = {}
        for name, shape in (("spacing", (2,)), ("origin", (2,)), ("direction", (2, 2))):
            try:
                array = np.asarray(getattr(self, name), float)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: need numbers: {error}") from None
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, need finite numbers of shape {shape}"
                )
            values[name] = array.tolist()
        if min(values["spacing"]) <= 0:
            raise ValueError(f"spacing: got {self.spacing}, need two positive numbers")
        if abs(np.linalg.det(np.array(values["direction"]))) < 1e-9:
            raise ValueError(f"direction: got {self.direction}, which cannot be inverted")
        object.__setattr__(self, "shape", (rows, cols))
        object.__setattr__(self, "spacing", tuple(values["spacing"]))
        object.__setattr__(self, "origin", tuple(values["origin"]))
        object.__setattr__(self, "direction", tuple(map(tuple, values["direction"])))
        object.__setattr__(self, "unit", unit_name(self.unit))

    def __repr__(self) -> str:
        values = {"spacing": self.spacing, "origin": self.origin, "direction": self.direction}
        plain = {
            "spacing": (1.0, 1.0),
            "origin": (0.0, 0.0),
            "direction": ((1.0, 0.0), (0.0, 1.0)),
        }
        words = [
            f"{name}={_short(value)}" for name, value in values.items() if value != plain[name]
        ]
        return f"ImageGrid({', '.join([str(self.shape), *words, f'unit={self.unit!r}'])})"

    @classmethod
    def from_matrix(
        cls, shape: Sequence[int], matrix: ArrayLike, unit: Any = "pixel"
    ) -> ImageGrid:
        """Make the grid of a matrix from pixels to physical space.

        Parameters
        ----------
        shape : sequence of int
            ``(rows, cols)``.
        matrix : array_like, shape (2, 3) or (3, 3)
            Acts on ``(row, col, 1)``.
        unit : str
            Unit of physical space.
        """
        given = np.asarray(matrix, float)
        linear = given[:2, :2]
        spacing = np.hypot(*linear)
        if not (spacing > 0).all():
            raise ValueError(f"matrix: got {given.tolist()}, which cannot be inverted")
        rows, cols = shape
        (a, b), (c, d) = (linear / spacing).tolist()
        return cls(
            (int(rows), int(cols)),
            tuple(spacing.tolist()),
            tuple(given[:2, 2].tolist()),
            ((a, b), (c, d)),
            unit_name(unit),
        )

    @classmethod
    def from_image(cls, image: ImageFile) -> ImageGrid:
        """Make the grid of an image file; without a pixel size, the unit is the pixel."""
        rows = image.axes.index("Y") if "Y" in image.axes else 0
        return cls.from_metadata(image.data.shape[rows : rows + 2], image.metadata)

    @classmethod
    def from_metadata(cls, shape: Sequence[int], metadata: Mapping[str, Any] | None) -> ImageGrid:
        """Make the grid of an image of that shape from `ImageFile.metadata`."""
        rows, cols = (int(size) for size in shape)
        known = metadata or {}
        spacing, unit = known.get("spacing"), known.get("unit")
        if spacing is None or unit is None:
            return cls((rows, cols))
        height, width = (float(size) for size in spacing)
        return cls((rows, cols), (height, width), unit=unit_name(unit))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Matrix from ``(row, col, 1)`` in pixels to physical space, shape (3, 3)."""
        matrix = np.eye(3)
        matrix[:2, :2] = np.array(self.direction) * self.spacing
        matrix[:2, 2] = self.origin
        return matrix

    @property
    def is_rectangular(self) -> bool:
        """Whether rows and columns are at right angles (no shear)."""
        direction = np.array(self.direction)
        return bool(np.allclose(direction.T @ direction, np.eye(2), atol=1e-6))

    @property
    def is_upright(self) -> bool:
        """Whether rows and columns run along the axes of physical space (no shear or rotation)."""
        return bool(np.allclose(self.direction, np.eye(2), atol=1e-12))

    @property
    def has_length(self) -> bool:
        """Whether the unit is a length, which can be converted."""
        return self.unit in METRES

    def to(self, unit: str) -> ImageGrid:
        """Return the same grid in another unit.

        Raises
        ------
        ValueError
            When the units differ and one of them is not a length.
        """
        target = unit_name(unit)
        if target == self.unit:
            return self
        if not self.has_length or target not in METRES:
            raise ValueError(
                f"unit: cannot convert {self.unit} to {unit}; lengths can be converted: "
                f"{', '.join(METRES)}"
            )
        factor = METRES[self.unit] / METRES[target]
        height, width = self.spacing
        row, col = self.origin
        return ImageGrid(
            self.shape,
            (_rounded(height * factor), _rounded(width * factor)),
            (_rounded(row * factor), _rounded(col * factor)),
            self.direction,
            target,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, from which `from_dict` makes an equal grid."""
        return {
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": [list(row) for row in self.direction],
            "unit": self.unit,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ImageGrid:
        """Make a grid from the dictionary of `as_dict`.

        Raises
        ------
        ValueError
            When a value is missing or invalid.
        """
        try:
            return cls(**{name: stored[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError) as error:
            raise ValueError(f"grid: is not complete: {error}") from None


def _rounded(value: float) -> float:
    """Round to 15 digits: 0.5 µm is then 0.0005 mm, and not 0.0004999999999999999 mm."""
    return float(f"{value:.15g}") if math.isfinite(value) else value
