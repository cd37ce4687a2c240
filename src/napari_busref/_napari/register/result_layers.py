"""Make layers of results, and update the layers of an earlier run.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from napari.layers import Image, Labels, Layer, Shapes, Vectors
from numpy.typing import NDArray

from napari_busref._napari.layers.field_layers import (
    displacement_layer,
    grid_layer,
    magnitude,
    magnitude_layer,
)
from napari_busref._napari.layers.image_grids import grid_of_plane
from napari_busref._napari.layers.pair import METADATA_KEY, Plane
from napari_busref._napari.layers.plane_pairs import single_pair
from napari_busref._napari.layers.result import LayersResult, PlaneResult
from napari_busref._napari.register.visibility import keep_choice, show_picture_alone
from napari_busref.runtime.version import package_version
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from napari_busref.pipeline import RegistrationAndFusionResult

__all__ = [
    "DEFAULT_ROLES",
    "FIELD_ROLES",
    "ROLES",
    "displacement_layer",
    "latest_result",
    "result_layers",
    "shared_metadata",
    "show_field",
    "update_layers",
]

#: Roles of the layers that a run can add, from bottom to top.
ROLES = ("warped", "mask", "fused", "weights", "doubt", "magnitude", "grid", "displacement")

#: Roles of the layers that it adds by default.
DEFAULT_ROLES = ("warped", "mask", "fused", "displacement")

#: Ways to draw the displacement: an image of lengths, a deformed grid, arrows.
FIELD_ROLES = ("magnitude", "grid", "displacement")

_SPATIAL = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


def result_layers(
    result: RegistrationAndFusionResult | LayersResult,
    fixed: Plane,
    moving: Plane,
    initial: Transform | None = None,
    *,
    roles: Collection[str] = DEFAULT_ROLES,
) -> list[Layer]:
    """Make the layers of a finished run, in no viewer yet; safe in a worker thread.

    Parameters
    ----------
    result : RegistrationAndFusionResult or LayersResult
        For these two planes: of `napari_busref.register_and_fuse` at full resolution, or of
        `napari_busref._napari.register.stacks.register_stack`.
    fixed, moving : Plane
        The layers lie on `fixed`, and look like these.
    initial : Transform, optional
        The initial transform; the drawn displacement is relative to it. Ignored for a
        `LayersResult`, which holds it.
    roles : collection of str
        Which of `ROLES` to make. ``"fused"`` is left out when nothing was fused, ``"weights"``
        when the fusion model has none, ``"doubt"`` when nothing was found.

    Returns
    -------
    list of Layer
        From bottom to top: warped moving image, mask (Labels), fused image, weights of a learned
        loss (Image), doubt (Image), lengths of the displacement (Image with a colour bar),
        deformed grid (Shapes), arrows (Vectors). Only the fused image is visible, or without it
        the warped image. Of a stack, the grid shows the shown plane only; the others hold all
        planes.
        ``metadata["napari-busref"]`` of each holds ``transform`` (`Transform`), ``quality``
        (`Quality`), ``parameters``, ``timings``, ``versions``, ``initial``, the names ``fixed``
        and ``moving``, their ``fixed_grid`` and ``moving_grid`` (`ImageGrid.as_dict`), ``axes``,
        and ``role``, one of `ROLES`. Of a `LayersResult` also ``mode``, ``reading`` and
        ``planes``.

    Raises
    ------
    ValueError
        When a role is none of `ROLES`.
    """
    unknown = sorted(set(roles) - set(ROLES))
    if unknown:
        raise ValueError(f"roles: got {unknown}, need some of {ROLES}")
    if not isinstance(result, LayersResult):
        result = _as_layers_result(result, fixed, moving, initial)
    shared = shared_metadata(result, fixed, moving)

    def common(role: str, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "metadata": {METADATA_KEY: shared | {"role": role, "name": name}},
        }

    makers: dict[str, Callable[[], Layer]] = {
        "warped": lambda: _warped(result, moving, common("warped", f"{moving.name} warped")),
        "mask": lambda: _mask(result, common("mask", f"{moving.name} mask")),
        "fused": lambda: _fused(result, fixed, common("fused", f"{fixed.name} fused")),
        "weights": lambda: _weights(
            result, common("weights", f"{moving.name} weights of the loss")
        ),
        "doubt": lambda: _doubt(
            result, common("doubt", f"{moving.name} doubt (error over {_doubt_px(result):.0f} px)")
        ),
        "magnitude": lambda: _magnitude(
            result, common("magnitude", f"{moving.name} displacement (px of {fixed.name})")
        ),
        "grid": lambda: grid_layer(
            result.transform,
            result.initial,
            axes=result.pairs.axes,
            position=result.pairs.shown,
            **result.pairs.spatial,
            **common("grid", f"{moving.name} deformed grid"),
        ),
        "displacement": lambda: _arrows(
            result, common("displacement", f"{moving.name} displacement")
        ),
    }
    missing = {role for role in ("fused", "weights") if getattr(result, role) is None}
    if "doubt" in roles and all(p.quality.map is None for p in result.planes.values()):
        missing.add("doubt")
    made = [makers[role]() for role in ROLES if role in set(roles) - missing]
    show_picture_alone(made)
    return made


def show_field(layers: Sequence[Layer], role: str | None) -> list[Layer]:
    """Show one of the drawings of the displacement and hide the others.

    Parameters
    ----------
    layers : sequence of Layer
        For example ``viewer.layers``; other layers keep their visibility.
    role : str or None
        One of `FIELD_ROLES`; None hides them all.

    Returns
    -------
    list of Layer
        The visible drawings.

    Raises
    ------
    ValueError
        When `role` is none of `FIELD_ROLES`.
    """
    if role is not None and role not in FIELD_ROLES:
        raise ValueError(f"role: got {role!r}, need one of {FIELD_ROLES} or None")
    drawings = [layer for layer in layers if _metadata(layer).get("role") in FIELD_ROLES]
    for layer in drawings:
        layer.visible = _metadata(layer)["role"] == role
    return [layer for layer in drawings if layer.visible]


def latest_result(
    layers: Sequence[Layer], role: str, fixed: Layer | Plane, moving: Layer | Plane
) -> Layer | None:
    """Return the topmost layer of a role that a run on two layers added, if there is one.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``.
    role : str
        One of `ROLES`.
    fixed, moving : Layer or Plane
        What was registered; their names count.
    """
    wanted = {"role": role, "fixed": fixed.name, "moving": moving.name}
    for layer in reversed(layers):
        if wanted.items() <= _metadata(layer).items():
            return layer
    return None


def update_layers(layers: MutableSequence[Layer], new: Sequence[Layer]) -> list[Layer]:
    """Add result layers to a viewer, each in place of its predecessor if there is one.

    A predecessor is a layer of this plugin with the same role, for layers of the same names, that
    was not renamed. It keeps its position in the list and its appearance. Its visibility follows
    the new layer, unless the user changed it since the earlier run.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``.
    new : sequence of Layer
        From `result_layers`.

    Returns
    -------
    list of Layer
        The layers in the viewer, in the order of `new`. If one cannot be added, those added before
        it are removed again.
    """
    added: list[Layer] = []
    placed: list[Layer] = []
    try:
        for layer in new:
            old = _predecessor(layers, layer)
            if old is not None and not _fits(old, layer):
                position = layers.index(old)
                keep_choice(layer, bool(layer.visible), bool(old.visible), _metadata(old))
                layers.remove(old)
                layers.insert(position, layer)
                added.append(layer)
            elif old is not None:
                _copy(layer, old)
                layer = old
            else:
                layers.append(layer)
                added.append(layer)
            # napari may have appended a number to the name
            _metadata(layer)["name"] = layer.name
            placed.append(layer)
    except BaseException:
        for layer in added:
            if layer in layers:
                layers.remove(layer)
        raise
    return placed


def _as_layers_result(
    result: RegistrationAndFusionResult,
    fixed: Plane,
    moving: Plane,
    initial: Transform | None,
) -> LayersResult:
    """Convert a result at full resolution, of one pair of planes."""
    pairs = single_pair(fixed, moving)
    registration, fusion = result.registration, result.fusion
    transform = registration.transform
    return LayersResult(
        registration=registration,
        fusion=fusion,
        quality=registration.quality,
        mode="plane",
        pairs=pairs,
        initial=initial,
        fixed_grid=Grid(transform.fixed_shape),
        moving_grid=Grid(transform.moving_shape),
        transform=transform,
        planes={pairs.shown: PlaneResult(transform, registration.quality, registration.mask)},
        warped=np.expand_dims(registration.warped, pairs.hidden),
        fused=None if fusion is None else np.expand_dims(fusion.fused, pairs.hidden),
        fused_grid=Grid(transform.fixed_shape),
        fused_pairs=pairs,
    )


def shared_metadata(result: LayersResult, fixed: Plane, moving: Plane) -> dict[str, Any]:
    """What all layers of a result hold under `METADATA_KEY`."""
    registration, fusion = result.registration, result.fusion
    shared: dict[str, Any] = {
        "transform": result.transform,
        "quality": result.quality,
        "parameters": {
            "registration": dict(registration.parameters),
            "fusion": {} if fusion is None else dict(fusion.parameters),
        },
        "timings": {
            "registration": dict(registration.timings),
            "fusion": {} if fusion is None else dict(fusion.timings),
        },
        "versions": {name: package_version(name) for name in ("napari-busref", "napari", "torch")},
        "initial": result.initial,
        "fixed": fixed.name,
        "moving": moving.name,
        "axes": result.pairs.axes,
        "fixed_grid": grid_of_plane(fixed).as_dict(),
        "moving_grid": grid_of_plane(moving).as_dict(),
    }
    if result.reading:
        shared |= {
            "mode": result.mode,
            "reading": result.reading,
            "planes": result.planes,
            "cancelled": result.cancelled,
        }
    return shared


def _warped(result: LayersResult, moving: Plane, common: dict[str, Any]) -> Image:
    data = result.warped
    levels = isinstance(data, list)
    if levels and len(data) == 1:
        data, levels = data[0], False
    return Image(
        data,
        rgb=moving.rgb,
        multiscale=levels,
        **moving.display,
        **result.pairs.spatial,
        **common,
    )


def _mask(result: LayersResult, common: dict[str, Any]) -> Labels:
    pairs, grid = result.pairs, result.fixed_grid
    sizes = pairs.sizes_on(grid)
    data: Any
    if len(result.planes) == 1 and result.mode != "each":
        (found,) = result.planes.values()
        data = np.expand_dims(found.mask.astype(np.uint8), pairs.hidden)
        if data.shape != sizes:  # one mask for all planes
            data = da.broadcast_to(da.from_array(data), sizes)
    else:
        data = np.zeros(sizes, np.uint8)
        for position, found in result.planes.items():
            data[_at(position, pairs.hidden, len(sizes))] = found.mask
    return Labels(data, opacity=0.35, visible=False, **pairs.spatial_on(grid), **common)


def _fused(result: LayersResult, fixed: Plane, common: dict[str, Any]) -> Image:
    style = "natural" if result.fusion is None else result.fusion.parameters.get("style")
    drawn = style not in (None, "natural")
    return Image(
        result.fused,
        rgb=drawn or fixed.rgb,
        **({} if drawn else fixed.display),
        **result.fused_pairs.spatial_on(result.fused_grid),
        **common,
    )


def _weights(result: LayersResult, common: dict[str, Any]) -> Image:
    layer = Image(
        result.weights,
        colormap="viridis",
        contrast_limits=(0.0, 1.0),
        visible=False,
        **result.fused_pairs.spatial_on(result.fused_grid),
        **common,
    )
    layer.colorbar.visible = True
    return layer


def _magnitude(result: LayersResult, common: dict[str, Any]) -> Image:
    grid = magnitude(result.transform, result.initial)[1]
    longest = 0.0

    def lengths(one: PlaneResult) -> NDArray[np.float32]:
        nonlocal longest
        plane, _ = magnitude(one.transform, result.initial)
        longest = max(longest, float(plane.max()))
        return plane

    data = _of_planes(result, grid, lengths)
    return magnitude_layer(data, longest, **result.pairs.spatial_on(grid), **common)


def _doubt_px(result: LayersResult) -> float:
    return next(iter(result.planes.values())).quality.map_px


def _doubt(result: LayersResult, common: dict[str, Any]) -> Image:
    """Draw where an error beyond `Quality.map_px` is likely: 1 less `Quality.map`."""
    shape = next(m.shape for one in result.planes.values() if (m := one.quality.map) is not None)
    grid = Grid.over(shape, result.transform.fixed_shape)

    def doubt(one: PlaneResult) -> NDArray[np.float32]:
        known = one.quality.map
        return np.full(shape, np.nan, np.float32) if known is None else 1 - known

    layer = Image(
        _of_planes(result, grid, doubt),
        colormap="inferno",
        contrast_limits=(0.0, 1.0),
        opacity=0.6,
        visible=False,
        **result.pairs.spatial_on(grid),
        **common,
    )
    layer.colorbar.visible = True
    return layer


def _of_planes(
    result: LayersResult, grid: Grid, values: Callable[[PlaneResult], NDArray[np.float32]]
) -> Any:
    """Values on a grid, with all dimensions of the layers; 0 for planes without a result."""
    pairs, sizes = result.pairs, result.pairs.sizes_on(grid)
    if result.mode == "each":
        data = np.zeros(sizes, np.float32)
        for position, found in result.planes.items():
            data[_at(position, pairs.hidden, len(sizes))] = values(found)
        return data
    (found,) = result.planes.values()
    one = np.expand_dims(values(found), pairs.hidden)
    return one if one.shape == sizes else da.broadcast_to(da.from_array(one), sizes)


def _arrows(result: LayersResult, common: dict[str, Any]) -> Vectors:
    pairs = result.pairs
    (shown, first), *others = result.planes.items()
    planes = [(position, found.transform, found.mask) for position, found in others]
    if result.mode == "one":
        planes = [
            (position, first.transform, first.mask)
            for position in pairs.by_position
            if position != shown
        ]
    return displacement_layer(
        first.transform,
        result.initial,
        first.mask,
        axes=pairs.axes,
        position=shown,
        others=planes,
        **pairs.spatial,
        **common,
    )


def _at(position: tuple[int, ...], hidden: tuple[int, ...], ndim: int) -> tuple[Any, ...]:
    index: list[Any] = [slice(None)] * ndim
    for axis, number in zip(hidden, position, strict=True):
        index[axis] = number
    return tuple(index)


def _metadata(layer: Layer) -> dict[str, Any]:
    ours = layer.metadata.get(METADATA_KEY)
    return ours if isinstance(ours, dict) else {}


def _predecessor(layers: Sequence[Layer], layer: Layer) -> Layer | None:
    new = _metadata(layer)
    for other in layers:
        known = _metadata(other)
        if known.get("name") == other.name and all(
            known.get(key) == new[key] for key in ("role", "fixed", "moving")
        ):
            return other
    return None


def _fits(old: Layer, new: Layer) -> bool:
    return (
        old.__class__ is new.__class__  # type() of a proxy is the proxy's class
        and old.ndim == new.ndim
        and getattr(old, "rgb", None) == getattr(new, "rgb", None)
        and getattr(old, "multiscale", None) == getattr(new, "multiscale", None)
        # napari cannot give paths new features and colours at once
        and not isinstance(new, Shapes)
    )


def _copy(new: Layer, old: Layer) -> None:
    """Give an old layer the content and position of a new one."""
    same_type = getattr(old.data, "dtype", None) == getattr(new.data, "dtype", None)
    if isinstance(old, Vectors):
        old.data = new.data
        old.features = new.features
        old.edge_color = "magnitude"
        old.edge_contrast_limits = new.edge_contrast_limits
        _set_changed(old, new, ("edge_width",))
    else:
        old.data = new.data
    if isinstance(old, Image) and not old.rgb and not same_type:
        # the old limits are meaningless for another type
        old.contrast_limits_range = new.contrast_limits_range
        old.contrast_limits = new.contrast_limits
    _set_changed(old, new, _SPATIAL)
    known: Mapping[str, Any] = _metadata(new)
    before, old.metadata[METADATA_KEY] = _metadata(old), dict(known) | {"name": old.name}
    keep_choice(old, bool(new.visible), bool(old.visible), before)
    old.refresh()


def _set_changed(old: Layer, new: Layer, names: Sequence[str]) -> None:
    """Set attributes that differ; each assignment redraws the layer."""
    for name in names:
        wanted = getattr(new, name)
        if not np.array_equal(np.asarray(getattr(old, name)), np.asarray(wanted)):
            setattr(old, name, wanted)
