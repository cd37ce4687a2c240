"""The transforms that layers carry, and where carried layers go.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from napari.layers import Image, Labels, Layer

from napari_busref._napari.layers.grids import Rescaled
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.transforms.transform import Transform

__all__ = ["KnownTransform", "known_transforms", "put_layers"]


@dataclass(frozen=True, eq=False)
class KnownTransform:
    """A transform that a layer carries in its metadata.

    Attributes
    ----------
    transform : Transform or Rescaled
        The latter where its displacement field is kept on coarser pixels than those of the images.
    layer : Layer
        Which lies on the fixed image.
    fixed, moving : str
        Names of the layers that were registered; empty when not known.
    axes : tuple of int
        Dimensions of rows and columns, counted from the last one.
    planes : mapping or None
        What was found for each plane of a stack, when it was registered plane by plane.
    """

    transform: Transform | Rescaled = field(repr=False)
    layer: Layer
    fixed: str
    moving: str
    axes: tuple[int, int]
    planes: Mapping[tuple[int, ...], PlaneResult] | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The transform in a few words."""
        if self.fixed and self.moving:
            return f"{self.moving} → {self.fixed}"
        return str(self.layer.name)


def known_transforms(layers: Sequence[Layer]) -> list[KnownTransform]:
    """Return the different transforms that layers carry, latest layer first.

    Parameters
    ----------
    layers : sequence of Layer
        ``viewer.layers``.
    """
    known: list[KnownTransform] = []
    seen: list[Transform] = []
    latest = list(reversed(layers))
    # a mask or a fused layer of coarser pixels says less well where the fixed image lies
    for layer in sorted(latest, key=_is_coarser):
        found = _knowledge(layer)
        transform = found.get("transform")
        if not isinstance(transform, Transform) or any(
            transform is one or transform == one for one in seen
        ):
            continue
        seen.append(transform)
        rows, cols = found.get("axes", (layer.ndim - 2, layer.ndim - 1))
        known.append(
            KnownTransform(
                _whole(found),
                layer,
                found.get("fixed") or "",
                found.get("moving") or "",
                (rows - layer.ndim, cols - layer.ndim),
                found.get("planes") if found.get("mode") == "each" else None,
            )
        )
    return sorted(known, key=lambda one: latest.index(one.layer))


def _knowledge(layer: Layer) -> Mapping[str, Any]:
    found = layer.metadata.get(METADATA_KEY)
    return found if isinstance(found, Mapping) else {}


def _whole(found: Mapping[str, Any]) -> Transform | Rescaled:
    """The transform between the images at full resolution."""
    transform, rescaled = found["transform"], found.get("rescaled")
    if isinstance(rescaled, Rescaled) and rescaled.fixed_shape != transform.fixed_shape:
        return rescaled
    return cast(Transform, transform)


def _is_coarser(layer: Layer) -> bool:
    """Whether a layer carries a transform and has other pixels than its fixed image."""
    found = _knowledge(layer)
    if not isinstance(found.get("transform"), Transform) or not isinstance(layer, Image | Labels):
        return False
    rows, cols = found.get("axes", (-2, -1))
    sizes = (layer.data[0] if layer.multiscale else layer.data).shape[: layer.ndim]
    return (sizes[rows], sizes[cols]) != _whole(found).fixed_shape


def put_layers(layers: MutableSequence[Layer], carried: Sequence[Layer]) -> None:
    """Add carried layers to a viewer, each in place of what the same layer gave before.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``. A layer that was renamed since stays.
    carried : sequence of Layer
        From `apply_transform`.
    """
    for layer in carried:
        known = layer.metadata[METADATA_KEY]
        old = next(
            (
                other
                for other in layers
                if other.metadata.get(METADATA_KEY) == known | {"name": other.name}
            ),
            None,
        )
        if old is None:
            layers.append(layer)
        else:
            position = layers.index(old)
            layers.remove(old)
            layers.insert(position, layer)
        known["name"] = layer.name  # napari may have appended a number
