"""From results to layers: what a run adds to the viewer, and how a second run updates it.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer, Vectors
from numpy.typing import NDArray

from napari_busref._napari.layers import METADATA_KEY, Plane, expand
from napari_busref.transform import Transform

if TYPE_CHECKING:
    from napari_busref.pipeline import RegistrationAndFusionResult

__all__ = ["displacement_layer", "result_layers", "update_layers"]

_SPATIAL = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
_ARROWS_ALONG_LONG_SIDE = 24


def result_layers(
    result: RegistrationAndFusionResult,
    fixed: Plane,
    moving: Plane,
    initial: Transform | None = None,
) -> list[Layer]:
    """Make the four layers of a finished run, in no viewer yet.

    Parameters
    ----------
    result : RegistrationAndFusionResult
        For these two planes.
    fixed, moving : Plane
        Where the layers go (exactly on `fixed`), and how they look.
    initial : Transform, optional
        Where the run started from; the arrows show what was found beyond it.

    Returns
    -------
    list of Layer
        Warped moving image, mask (Labels), fused image and displacement (Vectors), from bottom to
        top. ``metadata["napari-busref"]`` of each holds ``transform`` (`Transform`), ``quality``
        (`Quality`), ``parameters``, ``timings``, ``initial``, the names ``fixed`` and ``moving``,
        and ``role``: what the layer is.
    """
    registration, fusion = result.registration, result.fusion
    shared = {
        "transform": registration.transform,
        "quality": registration.quality,
        "parameters": {
            "registration": dict(registration.parameters),
            "fusion": dict(fusion.parameters),
        },
        "timings": {
            "registration": dict(registration.timings),
            "fusion": dict(fusion.timings),
        },
        "initial": initial,
        "fixed": fixed.name,
        "moving": moving.name,
        "axes": fixed.axes,
    }

    def common(role: str, name: str) -> dict[str, Any]:
        return fixed.spatial | {
            "name": name,
            "metadata": {METADATA_KEY: shared | {"role": role, "name": name}},
        }

    return [
        Image(
            expand(registration.warped, fixed),
            rgb=moving.rgb,
            **moving.display,
            **common("warped", f"{moving.name} warped"),
        ),
        Labels(
            expand(registration.mask.astype(np.uint8), fixed),
            opacity=0.35,
            visible=False,
            **common("mask", f"{moving.name} mask"),
        ),
        Image(
            expand(fusion.fused, fixed),
            rgb=fixed.rgb,
            **fixed.display,
            **common("fused", f"{fixed.name} fused"),
        ),
        displacement_layer(
            registration.transform,
            initial,
            registration.mask,
            axes=fixed.axes,
            **common("displacement", f"{moving.name} displacement"),
        ),
    ]


def displacement_layer(
    transform: Transform,
    initial: Transform | None = None,
    mask: NDArray[np.bool_] | None = None,
    *,
    axes: tuple[int, int] = (0, 1),
    **kwargs: Any,
) -> Vectors:
    """Draw a transform as arrows on a coarse grid of the fixed image, coloured by length.

    Parameters
    ----------
    transform : Transform
        From fixed to moving pixels.
    initial : Transform, optional
        Subtracted: an arrow points from a fixed pixel to the fixed pixel whose content `initial`
        had put there, in fixed pixels. Left out, it is the identity, and for images of different
        sizes their equal field of view.
    mask : ndarray of bool, shape (H, W), optional
        Arrows are drawn only inside (everywhere, if nothing is inside).
    axes : tuple of int
        Layer axes of rows and columns; other dimensions have coordinate 0.
    **kwargs
        For `napari.layers.Vectors`; ``scale`` tells the number of dimensions.

    Returns
    -------
    Vectors
        Data (N, 2, ndim); feature ``magnitude`` in fixed pixels. The dense field is
        ``transform.flow()``.
    """
    start, projection = _arrows(transform, initial, mask)
    ndim = len(kwargs.get("scale", (1, 1)))
    data = np.zeros((len(start), 2, ndim), np.float32)
    data[:, 0, list(axes)] = start
    data[:, 1, list(axes)] = projection
    magnitude = np.hypot(*projection.T)
    return Vectors(
        data,
        features={"magnitude": magnitude},
        edge_color="magnitude",
        edge_colormap="turbo",
        edge_contrast_limits=_magnitude_limits(magnitude),
        edge_width=max(1.5, max(transform.fixed_shape) / 250),
        vector_style="arrow",
        opacity=0.9,
        **kwargs,
    )


def update_layers(layers: MutableSequence[Layer], new: Sequence[Layer]) -> list[Layer]:
    """Put new result layers into a viewer, each in place of its predecessor if there is one.

    A predecessor is a layer of this plugin of the same role for layers of the same names, which
    nobody has renamed since. It keeps its place in the list and how the user made it look.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``.
    new : sequence of Layer
        From `result_layers`.

    Returns
    -------
    list of Layer
        Those now in the viewer, in the order of `new`. If one cannot be added, those added before
        it are taken out again.
    """
    added: list[Layer] = []
    placed: list[Layer] = []
    try:
        for layer in new:
            old = _predecessor(layers, layer)
            if old is not None and not _fits(old, layer):
                position = layers.index(old)
                layers.remove(old)
                layers.insert(position, layer)
                added.append(layer)
            elif old is not None:
                _copy(layer, old)
                layer = old
            else:
                layers.append(layer)
                added.append(layer)
            # napari may have appended a number to the name; remember what the layer is called
            _knowledge(layer)["name"] = layer.name
            placed.append(layer)
    except BaseException:
        for layer in added:
            if layer in layers:
                layers.remove(layer)
        raise
    return placed


def _arrows(
    transform: Transform, initial: Transform | None, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Starts and projections, both (N, 2), in fixed pixels."""
    shapes = transform.fixed_shape, transform.moving_shape
    if initial is None:
        initial = Transform.equal_field_of_view(*shapes)
    step = max(4.0, max(transform.fixed_shape) / _ARROWS_ALONG_LONG_SIDE)
    counts = [max(1, round(size / step)) for size in transform.fixed_shape]
    ticks = [
        ((np.arange(count) + 0.5) * (size / count) - 0.5).round()  # the middles of equal cells
        for count, size in zip(counts, transform.fixed_shape, strict=True)
    ]
    start = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 2)
    if mask is not None:
        inside = mask[tuple(start.astype(int).T)]
        start = start[inside] if inside.any() else start
    projection = initial.points(transform.points(start), inverse=True) - start
    return start, projection


def _magnitude_limits(magnitude: NDArray[np.float64]) -> tuple[float, float]:
    return 0.0, max(float(magnitude.max(initial=0.0)), 1e-3)


def _knowledge(layer: Layer) -> dict[str, Any]:
    known = layer.metadata.get(METADATA_KEY)
    return known if isinstance(known, dict) else {}


def _predecessor(layers: Sequence[Layer], layer: Layer) -> Layer | None:
    wanted = _knowledge(layer)
    for other in layers:
        known = _knowledge(other)
        if known.get("name") == other.name and all(
            known.get(key) == wanted[key] for key in ("role", "fixed", "moving")
        ):
            return other
    return None


def _fits(old: Layer, new: Layer) -> bool:
    return (
        old.__class__ is new.__class__  # type() would see napari's proxy of a layer
        and old.ndim == new.ndim
        and getattr(old, "rgb", None) == getattr(new, "rgb", None)
    )


def _copy(new: Layer, old: Layer) -> None:
    """Give an old layer the content and place of a new one."""
    same_type = getattr(old.data, "dtype", None) == getattr(new.data, "dtype", None)
    if isinstance(old, Vectors):
        old.data = new.data
        old.features = new.features
        old.edge_color = "magnitude"
        old.edge_contrast_limits = new.edge_contrast_limits
        old.edge_width = new.edge_width
    else:
        old.data = new.data
    if isinstance(old, Image) and not old.rgb and not same_type:
        # the old limits mean nothing for another type
        old.contrast_limits_range = new.contrast_limits_range
        old.contrast_limits = new.contrast_limits
    for name in _SPATIAL:
        setattr(old, name, getattr(new, name))
    known: Mapping[str, Any] = _knowledge(new)
    old.metadata[METADATA_KEY] = dict(known) | {"name": old.name}
    old.refresh()
