"""From layers to arrays: the shown plane of a layer, where it lies, and where to start.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_busref.transform import Transform

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = [
    "METADATA_KEY",
    "Plane",
    "expand",
    "guess_pair",
    "initial_transform",
    "shown_plane",
]

#: Where the layers of this plugin keep what they know: ``layer.metadata[METADATA_KEY]``.
METADATA_KEY = "napari-busref"

_INFRARED = {"ir", "infrared", "thermal", "nir", "swir", "mwir", "lwir", "flir", "moving"}
_VISIBLE = {"vis", "visible", "rgb", "color", "colour", "optical", "eo", "fixed", "reference"}


@dataclass(frozen=True, eq=False)
class Plane:
    """One 2-D plane of an image layer, not read yet.

    Parameters
    ----------
    name : str
        The layer's name.
    source : array_like
        The layer's data at full resolution, of any array type.
    index : tuple of int and slice
        Picks the plane: a slice for each of the two `axes`, a number for every other axis.
    axes : tuple of int
        The two layer axes that the plane extends along, ascending: its rows and its columns.
    shape : tuple of int
        ``(H, W)``.
    rgb : bool
        Whether the colour channels follow.
    matrix : ndarray of float64, shape (2, 3)
        ``(row, col, 1)`` of the plane to world coordinates along the two shown dimensions.
    units : tuple
        Units (pint) of those two world coordinates.
    placed : bool
        False when the layer lies where napari puts a layer about which nothing was said.
    spatial : dict
        Keyword arguments that put a layer on this plane: ``scale``, ``translate``, ``rotate``,
        ``shear``, ``affine``, ``units`` and ``axis_labels``, with all dimensions of the layer,
        for data that `expand` gave those dimensions.
    display : dict
        Keyword arguments that make an image layer look like this one.
    """

    name: str
    source: Any = field(repr=False)
    index: tuple[int | slice, ...]
    axes: tuple[int, int]
    shape: tuple[int, int]
    rgb: bool
    matrix: NDArray[np.float64] = field(repr=False)
    units: tuple[Any, Any]
    placed: bool
    spatial: dict[str, Any] = field(repr=False)
    display: dict[str, Any] = field(repr=False)

    @property
    def ndim(self) -> int:
        """Number of dimensions of the layer, colour channels not counted."""
        return len(self.index)

    def read(self) -> NDArray[Any]:
        """Read the plane, ``(H, W)`` or ``(H, W, 3 or 4)``; may take long, call it in a worker."""
        return np.asarray(self.source[self.index])


def shown_plane(layer: Image, viewer: ViewerModel) -> Plane:
    """Return the plane of an image layer that a viewer shows.

    Parameters
    ----------
    layer : napari.layers.Image
        Of two or more dimensions, grey or RGB(A), multiscale or not (then its finest level).
    viewer : napari.Viewer or napari.components.ViewerModel
        Says which dimensions are shown, and the position along the others.

    Returns
    -------
    Plane
        Nothing of the data is read.

    Raises
    ------
    ValueError
        When the viewer shows a volume, the layer does not extend along both shown dimensions,
        or the current position lies outside the layer.
    """
    dims = viewer.dims
    missing = dims.ndim - layer.ndim
    if dims.ndisplay == 3 and layer.ndim > 2:
        raise ValueError(
            f"layer {layer.name!r}: the viewer shows a volume; switch it to 2D and move to the "
            "plane to register"
        )
    world_axes = sorted(dims.order[-2:])
    rows, cols = (axis - missing for axis in world_axes)
    if rows < 0:
        raise ValueError(
            f"layer {layer.name!r} has {layer.ndim} dimensions and does not extend along both "
            "shown dimensions of the viewer; change the order of the dimensions"
        )
    data = layer.data[0] if layer.multiscale else layer.data
    shape = tuple(int(size) for size in data.shape[: layer.ndim])
    world = np.asarray(dims.point, dtype=float)[missing:]
    if (shown_units := viewer.layers.units) is not None:  # None: napari ignores all units
        world = world * [
            _factor(shown, own)
            for shown, own in zip(shown_units[-layer.ndim :], layer.units, strict=True)
        ]
    point = np.asarray(layer.world_to_data(world), dtype=float)
    index: list[int | slice] = []
    for axis, size in enumerate(shape):
        if axis in (rows, cols):
            index.append(slice(None))
            continue
        number = int(np.floor(point[axis] + 0.5))
        if not 0 <= number < size:
            raise ValueError(
                f"layer {layer.name!r} has no plane at the viewer's position "
                f"({number} along {layer.axis_labels[axis]}, which has {size}); move the slider"
            )
        index.append(number)
    plane_shape = (shape[rows], shape[cols])
    if min(plane_shape) < 1:
        raise ValueError(f"layer {layer.name!r} is empty: its plane has shape {plane_shape}")
    return Plane(
        name=layer.name,
        source=data,
        index=tuple(index),
        axes=(rows, cols),
        shape=plane_shape,
        rgb=bool(layer.rgb),
        matrix=_plane_to_world(layer, index, rows, cols),
        units=(layer.units[rows], layer.units[cols]),
        placed=_is_placed(layer),
        spatial=_spatial(layer, index),
        display=_display(layer),
    )


def initial_transform(fixed: Plane, moving: Plane) -> Transform | None:
    """Return the transform that the two layers' places in the world stand for.

    Parameters
    ----------
    fixed, moving : Plane
        Shown by the same viewer.

    Returns
    -------
    Transform or None
        Fixed pixel → world → moving pixel, an affine. None when that means nothing: neither layer
        was placed and their sizes differ, or one was not and their units cannot be compared. Then
        `register` takes both to show the same field of view.

    Raises
    ------
    ValueError
        When the layers do not overlap.

    Notes
    -----
    Units that can be converted are. Where they cannot, napari draws the plain numbers, and so
    the plain numbers of two layers that were both placed count here too.
    """
    comparable = all(map(_comparable, fixed.units, moving.units))
    if not (fixed.placed and moving.placed) and not comparable:
        return None
    if not (fixed.placed or moving.placed) and fixed.shape != moving.shape:
        return None
    to_moving_units = np.diag(
        [_factor(given, wanted) for given, wanted in zip(fixed.units, moving.units, strict=True)]
    )
    fixed_matrix = to_moving_units @ fixed.matrix
    affine = np.eye(3)
    affine[:2, :2] = np.linalg.solve(moving.matrix[:, :2], fixed_matrix[:, :2])
    affine[:2, 2] = np.linalg.solve(moving.matrix[:, :2], fixed_matrix[:, 2] - moving.matrix[:, 2])
    if np.allclose(affine, np.eye(3), rtol=0, atol=1e-9):
        affine = np.eye(3)
    transform = Transform(affine, fixed_shape=fixed.shape, moving_shape=moving.shape)
    grid = np.stack(
        np.meshgrid(*(np.linspace(0, size - 1, 65) for size in fixed.shape), indexing="ij"), -1
    )
    limit = np.array(moving.shape) - 0.5
    source = transform.points(grid)
    if not ((source >= -0.5) & (source <= limit)).all(axis=-1).any():
        raise ValueError(
            f"layers {moving.name!r} and {fixed.name!r} do not overlap in the viewer; move one of "
            "them, or correct its scale and translate"
        )
    return transform


def expand(data: NDArray[Any], plane: Plane) -> NDArray[Any]:
    """Give a plane the dimensions of its layer, each other one of length 1.

    Parameters
    ----------
    data : ndarray, shape (H, W) or (H, W, C)

    Returns
    -------
    ndarray
        A view; ``plane.spatial`` puts it where the plane is.
    """
    others = [axis for axis in range(plane.ndim) if axis not in plane.axes]
    return np.expand_dims(data, others) if others else data


def guess_pair(layers: Sequence[Layer]) -> tuple[Image | None, Image | None]:
    """Guess which layers are the infrared and the visible image.

    Parameters
    ----------
    layers : sequence of Layer
        ``viewer.layers``. What this plugin computed is passed over.

    Returns
    -------
    moving, fixed : Image or None
        Two different layers, judged by words in their names and by colour; among equals the
        lower layer is the fixed one. None where there are not enough images.
    """
    images = [
        layer
        for layer in layers
        if isinstance(layer, Image) and "role" not in layer.metadata.get(METADATA_KEY, {})
    ]
    if not images:
        return None, None
    fixed = max(images, key=_visibility)  # the first of equals
    others = [layer for layer in images if layer != fixed]
    return (min(others, key=_visibility) if others else None), fixed


def _visibility(layer: Image) -> int:
    words = set(re.split(r"[^a-z]+", layer.name.lower()))
    return 2 * bool(words & _VISIBLE) - 2 * bool(words & _INFRARED) + bool(layer.rgb)


def _plane_to_world(
    layer: Image, index: Sequence[int | slice], rows: int, cols: int
) -> NDArray[np.float64]:
    """Probe the layer's whole data-to-world map, of which no public attribute is the matrix."""
    origin = np.array([0.0 if isinstance(part, slice) else part for part in index])
    base = np.asarray(layer.data_to_world(origin))[[rows, cols]]
    columns = []
    for axis in (rows, cols):
        step = origin.copy()
        step[axis] = 1.0
        columns.append(np.asarray(layer.data_to_world(step))[[rows, cols]] - base)
    matrix = np.stack([*columns, base], axis=1)
    if abs(np.linalg.det(matrix[:, :2])) < 1e-12 * max(np.abs(matrix[:, :2]).max(), 1e-30) ** 2:
        raise ValueError(
            f"layer {layer.name!r} is seen edge-on: its rotation, shear or affine turns it out "
            "of the shown plane"
        )
    return matrix


def _is_placed(layer: Image) -> bool:
    affine = np.asarray(layer.affine.affine_matrix)
    return not (
        np.allclose(layer.scale, 1)
        and np.allclose(layer.translate, 0)
        and np.allclose(layer.rotate, np.eye(layer.ndim))
        and np.allclose(layer.shear, 0)
        and np.allclose(affine, np.eye(len(affine)))
    )


def _spatial(layer: Image, index: Sequence[int | slice]) -> dict[str, Any]:
    linear = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear).linear_matrix
    start = np.array([0.0 if isinstance(part, slice) else part for part in index])
    return {
        "scale": np.array(layer.scale),
        "translate": np.array(layer.translate) + linear @ start,
        "rotate": np.array(layer.rotate),
        "shear": np.array(layer.shear),
        "affine": np.array(layer.affine.affine_matrix),
        "units": tuple(layer.units),
        "axis_labels": tuple(layer.axis_labels),
    }


def _display(layer: Image) -> dict[str, Any]:
    shared = {
        "gamma": layer.gamma,
        "interpolation2d": str(layer.interpolation2d),
    }
    if layer.rgb:
        return shared
    return shared | {
        "colormap": layer.colormap,
        "contrast_limits": tuple(float(limit) for limit in layer.contrast_limits),
    }


def _comparable(one: Any, other: Any) -> bool:
    return bool(one == other or one.is_compatible_with(other))


def _factor(given: Any, wanted: Any) -> float:
    """Return how many `wanted` one `given` is; 1 where that cannot be said."""
    if given == wanted or not _comparable(given, wanted):
        return 1.0
    return float((1 * given).to(wanted).magnitude)
