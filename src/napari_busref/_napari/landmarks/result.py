"""Layers and view changes that follow from landmarks. Needs no Qt."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
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

__all__ = ["LandmarkResult", "expected_transform", "landmark_result", "view_change"]

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
