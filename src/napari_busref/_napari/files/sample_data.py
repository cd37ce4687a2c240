"""The built-in image pairs as napari sample data (File > Open Sample > BusReF)."""

from __future__ import annotations

from typing import Any

from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref.data import samples

__all__ = ["stain_pair", "thermal_scene"]

LayerData = tuple[Any, dict[str, Any], str]


def thermal_scene() -> list[LayerData]:
    """Open the visible and the warped infrared image of the thermal scene.

    Returns
    -------
    list of LayerData
        Visible (fixed) below infrared (moving). The infrared layer's
        ``metadata["napari-busref"]["truth"]`` is the true `Transform`.
    """
    return _layers(samples.thermal_scene(), "visible", "infrared", colormap="inferno")


def stain_pair() -> list[LayerData]:
    """Open two stains of one tissue section, the second warped.

    Returns
    -------
    list of LayerData
        As `thermal_scene`: fixed below moving.
    """
    return _layers(samples.stain_pair(), "nuclei", "protein", colormap="magma")


def _layers(
    sample: samples.Sample, fixed_name: str, moving_name: str, colormap: str
) -> list[LayerData]:
    moving: dict[str, Any] = {
        "name": moving_name,
        "rgb": sample.moving.ndim == 3,
        "opacity": 0.6,
        "metadata": {METADATA_KEY: {"truth": sample.truth}},
    }
    if not moving["rgb"]:
        moving["colormap"] = colormap
    fixed = {"name": fixed_name, "rgb": sample.fixed.ndim == 3}
    return [(sample.fixed, fixed, "image"), (sample.moving, moving, "image")]
