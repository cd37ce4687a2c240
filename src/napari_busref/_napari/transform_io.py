"""Transform files as layers: napari's reader and writer for ``.busref.h5``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_busref._napari.layers import METADATA_KEY
from napari_busref._napari.results import displacement_layer
from napari_busref.transform import EXTENSION, Transform, read_metadata

__all__ = ["get_reader", "read_transform", "write_transform"]

_SPATIAL = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
_KEPT = ("parameters", "timings", "fixed", "moving")


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[tuple[Any, dict[str, Any], str]]] | None:
    """Return `read_transform` if every path is named like a transform file.

    Parameters
    ----------
    path : str or sequence of str

    Returns
    -------
    callable or None
    """
    if all(str(one).lower().endswith(EXTENSION) for one in _paths(path)):
        return read_transform
    return None


def read_transform(path: str | Sequence[str]) -> list[tuple[Any, dict[str, Any], str]]:
    """Read transform files, each as a Vectors layer that knows its transform.

    Parameters
    ----------
    path : str or sequence of str
        Files that `Transform.save` or `write_transform` wrote.

    Returns
    -------
    list of LayerData
        Arrows of the displacement, where the fixed layer was when the file was saved from napari.
        ``metadata["napari-busref"]["transform"]`` is the `Transform`; what else was known is there
        too (``quality``, ``parameters``, ``timings``, ``initial``, ``fixed``, ``moving``).

    Raises
    ------
    ValueError, OSError
        When a file is missing, damaged or of another program.
    """
    return [_read(Path(one)) for one in _paths(path)]


def write_transform(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Save the transform that a layer of this plugin carries.

    Parameters
    ----------
    path : str
        Must end in ``.busref.h5``.
    data : array_like
        Not used: the dense field is in the layer's metadata.
    meta : dict
        As from `Layer.as_layer_data_tuple`.

    Returns
    -------
    list of str
        The file.

    Raises
    ------
    ValueError
        When the layer carries no transform, or the name does not end in ``.busref.h5``.
    """
    known = meta.get("metadata", {}).get(METADATA_KEY, {})
    transform = known.get("transform") if isinstance(known, Mapping) else None
    if not isinstance(transform, Transform):
        raise ValueError(
            f"layer {meta.get('name', '')!r} carries no transform; save a displacement, warped or "
            "fused layer that 'Register and fuse' has made"
        )
    stored = {key: known[key] for key in ("quality", *_KEPT) if known.get(key) is not None}
    if isinstance(initial := known.get("initial"), Transform):
        stored["initial"] = initial.affine
    spatial = {key: meta[key] for key in _SPATIAL if meta.get(key) is not None}
    if spatial:
        spatial["units"] = [str(unit) for unit in spatial.get("units", ())]
        stored["napari"] = spatial | {"axes": known.get("axes", (0, 1))}
    return [str(transform.save(path, _plain(stored)))]


def _read(path: Path) -> tuple[Any, dict[str, Any], str]:
    transform = Transform.load(path)
    stored = read_metadata(path)
    known: dict[str, Any] = {key: stored[key] for key in _KEPT if key in stored}
    name = path.name[: -len(EXTENSION)]
    initial = None
    if "initial" in stored:
        initial = Transform(
            np.asarray(stored["initial"], float),
            fixed_shape=transform.fixed_shape,
            moving_shape=transform.moving_shape,
        )
    spatial = dict(stored.get("napari", {}))
    axes = tuple(spatial.pop("axes", (0, 1)))
    if "units" in spatial:
        spatial["units"] = spatial["units"] or None
    layer = displacement_layer(
        transform,
        initial,
        transform.mask(),
        axes=axes,
        name=name,
        metadata={
            METADATA_KEY: known
            | {
                "transform": transform,
                "quality": _quality(stored.get("quality")),
                "initial": initial,
                "axes": axes,
            }
        },
        **spatial,
    )
    data, meta, kind = layer.as_layer_data_tuple()
    return data, meta, kind


def _quality(stored: Any) -> Any:
    """Return a `Quality` if that is what was stored, else what was stored."""
    from napari_busref.quality import Quality

    if not isinstance(stored, Mapping):
        return stored
    try:
        return Quality.from_dict(stored)
    except TypeError:  # of another version
        return dict(stored)


def _plain(value: Any) -> Any:
    """What JSON can hold; NaN and infinity become null."""
    if is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, Transform):
            return {"affine": _plain(value.affine)}
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _paths(path: str | Sequence[str]) -> list[str]:
    return [os.fspath(path)] if isinstance(path, str | os.PathLike) else [str(p) for p in path]
