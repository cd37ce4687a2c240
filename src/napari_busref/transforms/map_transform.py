"""The transform that the map positions of two images define."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref.images.io import ImageFile
    from napari_busref.images.map_position import MapPosition

__all__ = ["Apart", "map_transform"]

_SIDE = 17  # control points along each side
_EXACT = 0.1  # moving pixels by which an affine may miss the two projections


class Apart(ValueError):
    """Two images that lie at different places of the map."""


def map_transform(fixed: ImageFile, moving: ImageFile) -> Transform | None:
    """Return the transform that the map positions of two images define.

    Both may have any coordinate reference system. `napari_busref.register` takes it as `initial`.

    Parameters
    ----------
    fixed, moving : ImageFile
        From `napari_busref.read_image`.

    Returns
    -------
    Transform or None
        Fixed pixel -> map -> moving pixel. The affine is fitted at 17 x 17 control points.
        Where it misses them by more than 0.1 moving px, a displacement makes up for it.
        None when one of the images has no map position.

    Raises
    ------
    ValueError
        When the images do not overlap, or PROJ does not know a coordinate reference system.
    ModuleNotFoundError
        Without rasterio (``napari-busref[geo]``).
    """
    here, there = fixed.map_position, moving.map_position
    if here is None or there is None:
        return None
    shapes = _shape(fixed), _shape(moving)
    points, mapped = _control_points(here, there, shapes[0])
    affine = _fitted(points.reshape(-1, 2), mapped.reshape(-1, 2))
    if not _overlap(affine, mapped, *shapes):
        raise Apart(f"the images do not overlap on the map ({here.name} and {there.name})")
    missed = mapped - (points @ affine[:2, :2].T + affine[:2, 2])
    displacement = None
    if np.linalg.norm(missed, axis=-1).max() > _EXACT:
        displacement = _everywhere(points, missed @ np.linalg.inv(affine[:2, :2]).T, shapes[0])
    return Transform(affine, displacement, fixed_shape=shapes[0], moving_shape=shapes[1])


def _shape(image: ImageFile) -> tuple[int, int]:
    rows = image.axes.index("Y") if "Y" in image.axes else 0
    height, width = image.data.shape[rows : rows + 2]
    return height, width


def _control_points(
    here: MapPosition, there: MapPosition, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fixed pixels from edge to edge, and the same places in moving pixels, (17, 17, 2)."""
    sides = (np.linspace(0, max(size - 1, 1), _SIDE) for size in shape)
    points = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
    mapped = there.to_pixels(here.to_map(points.reshape(-1, 2)), here.crs)
    if not np.isfinite(mapped).all():
        raise Apart(f"{there.name} does not reach where the fixed image lies ({here.name})")
    return points, mapped.reshape(points.shape)


def _fitted(points: NDArray[np.float64], mapped: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine of least squares, through the mean so that large numbers cost no digits."""
    middle, target = points.mean(0), mapped.mean(0)
    linear = np.linalg.lstsq(points - middle, mapped - target, rcond=None)[0].T
    affine = np.eye(3)
    affine[:2, :2], affine[:2, 2] = linear, target - linear @ middle
    return affine


def _overlap(
    affine: NDArray[np.float64],
    mapped: NDArray[np.float64],
    fixed: tuple[int, int],
    moving: tuple[int, int],
) -> bool:
    """Whether points of one image lie in the other; one may be smaller than a step."""
    sides = (np.linspace(0, size - 1, _SIDE) for size in moving)
    there = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
    back = (there - affine[:2, 2]) @ np.linalg.inv(affine[:2, :2]).T
    return any(
        bool(((inside > -0.5) & (inside < np.array(shape) - 0.5)).all(-1).any())
        for inside, shape in ((mapped, moving), (back, fixed))
    )


def _everywhere(
    points: NDArray[np.float64], values: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Smooth values at the control points, for every pixel: (2, H, W)."""
    from scipy.interpolate import RectBivariateSpline  # importing it costs 0.26 s

    rows, cols = points[:, 0, 0], points[0, :, 1]
    field = np.empty((2, *shape), np.float32)
    for axis in (0, 1):
        spline = RectBivariateSpline(rows, cols, values[..., axis])
        field[axis] = spline(np.arange(shape[0]), np.arange(shape[1]))
    return field
