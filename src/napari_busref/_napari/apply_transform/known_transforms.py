"""Transforms in the metadata of layers, and adding transformed layers to a viewer.

Needs `napari.layers` but neither Qt nor a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any

from napari.layers import Image, Labels, Layer

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.transforms.transform import Transform

__all__ = ["KnownTransform", "known_transforms", "put_layers"]


@dataclass(frozen=True, eq=False)
class KnownTransform:
    """A transform in the metadata of a layer.

    Attributes
    ----------
    transform : Transform
        Between the images at full resolution.
    layer : Layer
        The layer with the transform, on the fixed image.
    fixed, moving : str
        Names of the registered layers; empty when unknown.
    axes : tuple of int
        Dimensions of rows and columns, counted from the last one.
    planes : mapping or None
        Results of a stack that was registered plane by plane.
    """

    transform: Transform = field(repr=False)
    layer: Layer
    fixed: str
    moving: str
    axes: tuple[int, int]
    planes: Mapping[tuple[int, ...], PlaneResult] | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """Short description of the transform."""
        if self.fixed and self.moving:
            return f"{self.moving} → {self.fixed}"
        return str(self.layer.name)


def known_transforms(layers: Sequence[Layer]) -> list[KnownTransform]:
    """Return the different transforms in the metadata of layers, latest layer first.

    Parameters
    ----------
    layers : sequence of Layer
        ``viewer.layers``.
    """
    known: list[KnownTransform] = []
    seen: list[Transform] = []
    latest = list(reversed(layers))
    # a mask or fused layer of coarser pixels defines the fixed image's position less exactly
    for layer in sorted(latest, key=_is_coarser):
        record = _record(layer)
        transform = record.get("transform")
        if not isinstance(transform, Transform) or any(
            transform is one or transform == one for one in seen
        ):
            continue
        seen.append(transform)
        rows, cols = record.get("axes", (layer.ndim - 2, layer.ndim - 1))
        known.append(
            KnownTransform(
                record["transform"],
                layer,
                record.get("fixed") or "",
                record.get("moving") or "",
                (rows - layer.ndim, cols - layer.ndim),
                record.get("planes") if record.get("mode") == "each" else None,
            )
        )
    return sorted(known, key=lambda one: latest.index(one.layer))


def _record(layer: Layer) -> Mapping[str, Any]:
    """Return this plugin's metadata of a layer."""
    record = layer.metadata.get(METADATA_KEY)
    return record if isinstance(record, Mapping) else {}


def _is_coarser(layer: Layer) -> bool:
    """Whether a layer with a transform has other pixels than its fixed image."""
    record = _record(layer)
    if not isinstance(record.get("transform"), Transform) or not isinstance(layer, Image | Labels):
        return False
    rows, cols = record.get("axes", (-2, -1))
    sizes = (layer.data[0] if layer.multiscale else layer.data).shape[: layer.ndim]
    return (sizes[rows], sizes[cols]) != record["transform"].fixed_shape


def put_layers(layers: MutableSequence[Layer], transformed: Sequence[Layer]) -> None:
    """Add transformed layers to a viewer, or replace the earlier ones from the same sources.

    Parameters
    ----------
    layers : LayerList
        ``viewer.layers``. An earlier layer under another name stays.
    transformed : sequence of Layer
        From `apply_transform`.
    """
    for layer in transformed:
        record = layer.metadata[METADATA_KEY]
        old = next(
            (
                other
                for other in layers
                if other.metadata.get(METADATA_KEY) == record | {"name": other.name}
            ),
            None,
        )
        if old is None:
            layers.append(layer)
        else:
            position = layers.index(old)
            layers.remove(old)
            layers.insert(position, layer)
        record["name"] = layer.name  # napari may append a number
