"""Image checks, Sobel derivatives and histograms of the fusion metrics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi

from napari_busref.images.arrays import to_numbers

FloatArray = NDArray[np.float64]


def grey(image: ArrayLike, name: str) -> FloatArray:
    """Check one grey image and return it as float64."""
    values = to_numbers(image, name)
    if values.ndim != 2:
        raise ValueError(f"{name} must be a grey (H, W) image, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite pixels")
    return values


def images(**given: ArrayLike) -> list[FloatArray]:
    """Check images of one size and return them as float64."""
    greys = [grey(image, name) for name, image in given.items()]
    if len({image.shape for image in greys}) != 1:
        shapes = ", ".join(
            f"{name} {image.shape}" for name, image in zip(given, greys, strict=True)
        )
        raise ValueError(f"images must have one size, got {shapes}")
    return greys


def sobel(image: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sobel derivatives along rows and columns, kernel (1 2 1) x (-1 0 1), edges replicated."""
    return (
        ndi.sobel(image, axis=0, mode="nearest"),
        ndi.sobel(image, axis=1, mode="nearest"),
    )


def levels(image: FloatArray) -> NDArray[np.intp]:
    """Whole grey levels 0..255."""
    return np.clip(np.rint(image), 0, 255).astype(np.intp)


def histogram(image: FloatArray) -> FloatArray:
    """Return the relative frequencies of the 256 grey levels."""
    return np.bincount(levels(image).ravel(), minlength=256) / image.size


def correlate(first: FloatArray, second: FloatArray) -> float:
    """Pearson's correlation; 0 when one of the two is constant."""
    a, b = first - first.mean(), second - second.mean()
    norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.sum(a * b) / norm) if norm > 0 else 0.0
