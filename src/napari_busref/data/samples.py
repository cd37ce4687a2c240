"""Built-in image pairs with a known warp: a drawn street, and a file of scikit-image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage import color, data
from skimage.transform import resize

from napari_busref.metrics.registration import SyntheticWarp, draw_warp
from napari_busref.transforms.transform import Transform

__all__ = ["Sample", "list_samples", "load_sample", "stain_pair", "thermal_scene"]

_MIN_SIDE = 64
_STREET = Path(__file__).with_name("street.npz")  # written by scripts/render_street.py
_MIN_PART = 0.6  # of the street's height and width


@dataclass(frozen=True, eq=False)
class Sample:
    """An image pair with a known warp.

    Attributes
    ----------
    fixed : numpy.ndarray
        The reference image, uint8 ``(H, W)`` or ``(H, W, 3)``.
    moving : numpy.ndarray
        The other modality, warped; uint8 ``(H, W)``, 0 outside the warped image.
    truth : Transform
        The true transform, fixed to moving.
    aligned : numpy.ndarray
        The moving modality without the warp, on the fixed grid, uint8 ``(H, W)``.
    name, title : str
        Name for `load_sample`, and a title for display.
    """

    fixed: NDArray[np.uint8]
    moving: NDArray[np.uint8]
    truth: Transform
    aligned: NDArray[np.uint8]
    name: str
    title: str

    def __repr__(self) -> str:
        shapes = f"fixed {self.fixed.shape}, moving {self.moving.shape}"
        return f"<Sample {self.name!r}: {self.title}; {shapes}>"


def thermal_scene(seed: int = 0, shape: tuple[int, int] = (384, 512)) -> Sample:
    """Make a visible and a thermal image of a street at dusk.

    Both images show the outlines of houses, trees, cars and people. Only the visible image shows
    road markings, lettering and lamplight. Only the thermal one shows the heat of bodies,
    engines, chimneys and tyres. A window may be warmer or colder than its wall.

    Parameters
    ----------
    seed : int
        Chooses the part of one stored street, and the warp, which follows the measurement
        protocol. Seed 0 shows the whole street. Any other seed shows 60 to 100 % of its height
        and width, possibly mirrored.
    shape : tuple of int
        (H, W), at least 64 pixels each. The part is resized to it; the street has (384, 512).

    Returns
    -------
    Sample
        ``fixed`` is the visible image (RGB), ``moving`` the thermal one (brighter where warmer).

    Raises
    ------
    ValueError
        If a side is below 64 pixels or the seed is negative.
    """
    if len(shape) != 2 or min(shape) < _MIN_SIDE:
        raise ValueError(f"shape: got {shape!r}, need (H, W) of at least {_MIN_SIDE} pixels each")
    _check_seed(seed)
    visible, infrared = _street((int(shape[0]), int(shape[1])), seed)
    noise = np.random.default_rng([seed, 1])
    return _warped(
        visible, infrared, seed + 5, noise, name="thermal", title="Street at dusk, with people"
    )


def stain_pair(seed: int = 0) -> Sample:
    """Separate the two stains of an immunohistochemistry section and warp one of them.

    The image is `skimage.data.immunohistochemistry` (colon, 512 x 512), a file of the
    scikit-image wheel. `skimage.color.rgb2hed` unmixes the stains (Ruifrok and Johnston 2001).
    Nuclei and membranes hardly correlate: only their outlines agree.

    Parameters
    ----------
    seed : int
        Seed of the warp, which follows the measurement protocol.

    Returns
    -------
    Sample
        ``fixed`` is haematoxylin (nuclei), ``moving`` DAB (the labelled protein), both brighter
        with more stain.

    Raises
    ------
    ValueError
        If the seed is negative.
    """
    _check_seed(seed)
    stains = color.rgb2hed(data.immunohistochemistry())
    nuclei, protein = (_stretch(stains[..., index]) for index in (0, 2))
    return _warped(
        _bytes(nuclei),
        protein,
        seed + 2,
        None,
        name="stain",
        title="Two stains of one tissue section",
    )


_SAMPLES: dict[str, Callable[[int], Sample]] = {"thermal": thermal_scene, "stain": stain_pair}


def list_samples() -> list[str]:
    """List the names that `load_sample` accepts."""
    return list(_SAMPLES)


def load_sample(name: str, seed: int = 0) -> Sample:
    """Make a built-in sample.

    Parameters
    ----------
    name : str
        One of `list_samples`.
    seed : int
        Seed of the sample.

    Raises
    ------
    ValueError
        If there is no sample of this name.
    """
    if name not in _SAMPLES:
        raise ValueError(f"name: got {name!r}, need one of {', '.join(map(repr, _SAMPLES))}")
    return _SAMPLES[name](seed)


def _street(
    shape: tuple[int, int], seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.floating[Any]]]:
    """Read both images of the street, and resize the seed's part of them."""
    with np.load(_STREET, allow_pickle=False) as stored:
        visible, infrared = stored["visible"], stored["infrared"]
    if seed:
        part = _part(infrared.shape, shape, np.random.default_rng([seed, 2]))
        visible, infrared = visible[part], infrared[part]
    if infrared.shape != shape:
        visible = np.rint(resize(visible, shape, preserve_range=True, anti_aliasing=True))
        infrared = resize(infrared, shape, anti_aliasing=True)
    return visible.astype(np.uint8), infrared


def _part(
    street: tuple[int, int], shape: tuple[int, int], rng: np.random.Generator
) -> tuple[slice, slice]:
    """Draw a part of the street, near the aspect of `shape`; a negative step mirrors it."""
    scale = rng.uniform(_MIN_PART, 1) * min(street[0] / shape[0], street[1] / shape[1])
    slices = []
    for n, wanted in zip(street, shape, strict=True):
        size = max(round(scale * wanted), round(_MIN_PART * n))
        start = int(rng.integers(n - size + 1))
        slices.append(slice(start, start + size))
    rows, cols = slices
    if rng.random() < 0.5:
        cols = slice(cols.stop - 1, cols.start - 1 if cols.start else None, -1)
    return rows, cols


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed: got {seed!r}, need a whole number of 0 or more")


def _warped(
    fixed: NDArray[np.uint8],
    aligned: NDArray[Any],
    warp_seed: int,
    noise: np.random.Generator | None,
    *,
    name: str,
    title: str,
) -> Sample:
    warp = draw_warp(aligned.shape, warp_seed)
    moving = ndi.map_coordinates(aligned, warp.g, order=1, cval=0.0)
    if noise is not None:
        moving = moving + (moving > 0) * _sensor_noise(moving.shape, noise)
    return Sample(fixed, _bytes(moving), _truth(warp), _bytes(aligned), name, title)


def _sensor_noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw thermal sensor noise: grain, and an offset for each column."""
    return 0.008 * rng.standard_normal(shape) + 0.004 * rng.standard_normal(shape[1])


def _truth(warp: SyntheticWarp) -> Transform:
    """Return the inverse of the warp: q = A(p + u(p)) with A the inverse of its affine."""
    # the warp's affine maps the source position to p + u
    source = warp.true_source()
    flat = warp.affine[:2, :2] @ source.reshape(2, -1) + warp.affine[:2, 2:]
    displacement = flat.reshape(source.shape) - np.mgrid[: warp.shape[0], : warp.shape[1]]
    inverse = np.linalg.inv(warp.affine).astype(np.float64)
    inverse[2] = (0.0, 0.0, 1.0)
    return Transform(
        inverse,
        displacement.astype(np.float32),
        fixed_shape=warp.shape,
        moving_shape=warp.shape,
    )


def _stretch(channel: NDArray[Any]) -> NDArray[np.float64]:
    low, high = np.percentile(channel, (0.5, 99.5))
    stretched: NDArray[np.float64] = np.clip((channel - low) / (high - low), 0, 1)
    return stretched


def _bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
