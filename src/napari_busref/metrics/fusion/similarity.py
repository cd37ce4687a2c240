"""Similarity to the sources, by pixels or windows: CC, SCD, SSIM."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike
from skimage.metrics import structural_similarity

from napari_busref.metrics.fusion._images import correlate, images


def correlation(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Correlation (CC) of the fused image with its sources, mean of both, in [-1, 1]."""
    image, *sources = images(fused=fused, visible=visible, infrared=infrared)
    return sum(correlate(image, source) for source in sources) / 2


def scd(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Sum of the correlations of differences (SCD).

    ``corr(F - V, R) + corr(F - R, V)``: the difference to one source should correlate with the
    other. Aslantas and Bendes, AEÜ 2015, eq. 3 and 4. In [-2, 2].
    """
    image, first, second = images(fused=fused, visible=visible, infrared=infrared)
    return correlate(image - first, second) + correlate(image - second, first)


def ssim(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Structural similarity (SSIM) to the sources, mean of both, in [-1, 1].

    Wang et al., IEEE TIP 2004: Gaussian window of standard deviation 1.5, grey levels 0..255.
    """
    image, *sources = images(fused=fused, visible=visible, infrared=infrared)
    options: dict[str, Any] = {
        "data_range": 255.0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    return float(sum(structural_similarity(image, source, **options) for source in sources) / 2)
