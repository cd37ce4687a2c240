"""Layers and view changes that follow from landmarks. Needs no Qt."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Vectors
from numpy.typing import ArrayLike, NDArray

from napari_busref._napari.layers.pair import world_transform
from napari_busref._napari.layers.planes import Plane
from napari_busref._napari.register.result_layers import result_layers
from napari_busref._napari.register.stacks import register_stack
from napari_busref.runtime.progress import Progress
from napari_busref.transforms.landmarks import LandmarkFit, fit_landmarks
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_busref.registration.quality import Quality

__all__ = [
    "LandmarkResult",
    "expected_transform",
    "landmark_result",
    "residual_arrows",
    "view_change",
]

_SMALLEST_ERROR = 1e-6  # fixed pixels; a thin plate has none
_PROBE = 8.0  # pixels over which the local scale of a transform is measured


@dataclass(frozen=True, eq=False)
class LandmarkResult:
    """Result of a landmark fit, without registration.

    Attributes
    ----------
    transform : Transform
    quality : Quality
    layers : list of Layer
        Not added to a viewer yet.
    planes : tuple of Plane
        The fixed and the moving one.
    """

    transform: Transform
    quality: Quality
    layers: list[Layer]
    planes: tuple[Plane, Plane]


def landmark_result(
    fit: LandmarkFit,
    fixed: Plane,
    moving: Plane,
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> LandmarkResult:
    """Resample the moving plane by a fit, without registration.

    Parameters
    ----------
    fit : LandmarkFit
        Of these two planes.
    fixed, moving : Plane
        From `napari_busref._napari.layers.planes.shown_plane`.
    progress : Progress, optional
    cancel : threading.Event, optional

    Returns
    -------
    LandmarkResult
        Warped layer, mask and displacement. The displacement starts from the layers' positions.
    """
    if progress is not None:
        progress("computing the transform", 0.0)
    transform = fit.transform
    found = register_stack(
        fixed,
        moving,
        initial=transform,
        model="identity",
        fuse=False,
        device="cpu",
        progress=progress,
        cancel=cancel,
    )
    parameters = found.registration.parameters | {"landmarks": fit.model, "rms_px": fit.rms}
    found = replace(
        found,
        initial=world_transform(fixed, moving),
        registration=replace(found.registration, parameters=parameters),
    )
    layers = result_layers(found, fixed, moving, roles=("warped", "mask", "displacement"))
    return LandmarkResult(transform, found.quality, layers, (fixed, moving))


def residual_arrows(
    fit: LandmarkFit, fixed: Plane, points: NDArray[np.float64], name: str
) -> Vectors | None:
    """Draw the error of each landmark on the fixed image, enlarged to be seen.

    Parameters
    ----------
    fit : LandmarkFit
    fixed : Plane
    points : ndarray, shape (N, 2)
        Landmarks of the fit, (row, col) in fixed pixels.
    name : str
        Of the layer; the factor is added.

    Returns
    -------
    Vectors or None
        Arrows from the fitted position to the landmark, longest a tenth of the image; the
        feature ``magnitude`` is in fixed pixels. None where all errors are 0.
    """
    longest = float(fit.residuals.max(initial=0))
    if longest < _SMALLEST_ERROR:
        return None
    factor = max(1.0, np.floor(max(fixed.shape) / 10 / longest))
    start, arrow = np.tile(fixed.start, (len(points), 1)), np.zeros((len(points), fixed.ndim))
    axes = list(fixed.axes)
    start[:, axes], arrow[:, axes] = points, factor * fit.errors
    return Vectors(
        np.stack([start, arrow], axis=1),
        name=f"{name} (x {factor:.0f})" if factor > 1 else name,
        features={"magnitude": fit.residuals},
        edge_color="magnitude",
        edge_colormap="plasma",  # whose low end can be seen on dark images
        edge_contrast_limits=(0.0, longest),
        edge_width=max(fixed.shape) / 200,
        vector_style="arrow",
        **fixed.spatial,
    )


def expected_transform(
    fixed: Plane,
    moving: Plane,
    fixed_points: NDArray[np.float64],
    moving_points: NDArray[np.float64],
) -> Transform:
    """Estimate the transform from the landmarks placed so far.

    Parameters
    ----------
    fixed, moving : Plane
    fixed_points, moving_points : ndarray, shape (N, 2)
        (row, col) in pixels.

    Returns
    -------
    Transform
        The affine fit. With too few pairs, the layers' positions or an equal field of view.

    Raises
    ------
    ValueError
        When there are too few pairs and the layers do not overlap.
    """
    shapes = fixed.shape, moving.shape
    try:
        fit = fit_landmarks(
            fixed_points, moving_points, fixed_shape=shapes[0], moving_shape=shapes[1]
        )
    except ValueError:
        return world_transform(fixed, moving) or Transform.equal_field_of_view(*shapes)
    return fit.transform


def view_change(
    transform: Transform,
    point: NDArray[np.float64],
    planes: tuple[Plane, Plane],
    centre: ArrayLike,
    *,
    inverse: bool = False,
) -> tuple[NDArray[np.float64], float]:
    """Compute the view of one image that shows a point where the other image shows it now.

    Parameters
    ----------
    transform : Transform
        From the fixed to the moving image.
    point : ndarray, shape (2,)
        (row, col) in pixels of the first of the two planes.
    planes : tuple of Plane
        Shown now, and shown next.
    centre : array_like, shape (2,)
        World coordinates (along rows and columns) of the centre of the view.
    inverse : bool
        True when the first plane is the moving one.

    Returns
    -------
    centre : ndarray, shape (2,)
        Of the next view.
    zoom : float
        Factor by which the zoom changes.
    """
    probes = point + np.array([[0, 0], [_PROBE, 0], [0, _PROBE]])
    there = transform.points(probes, inverse=inverse)
    now, then = (
        points @ plane.matrix[:, :2].T + plane.matrix[:, 2]
        for points, plane in zip((probes, there), planes, strict=True)
    )
    areas = [abs(np.linalg.det(world[1:] - world[0])) for world in (now, then)]
    zoom = float(np.sqrt(areas[0] / areas[1]))
    return then[0] + (np.asarray(centre, float) - now[0]) / zoom, zoom
