"""Gradients and spread of the grey values: EI, SF, SD. All three rise with noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from napari_busref.metrics.fusion._images import images, sobel


def edge_intensity(fused: ArrayLike) -> float:
    """Edge intensity (EI): mean magnitude of the unnormalised Sobel gradient.

    At least 0; a ramp of one grey level per pixel gives 8. As in the benchmark VIFB (Zhang et
    al., CVPR workshop 2020), with replicated borders.
    """
    (image,) = images(fused=fused)
    return float(np.hypot(*sobel(image)).mean())


def spatial_frequency(fused: ArrayLike) -> float:
    """Spatial frequency (SF): root of the summed squares of row and column differences.

    Eskicioglu and Fisher, IEEE Transactions on Communications 1995, eq. 1 to 3, where both sums
    are divided by the number of pixels. At least 0.
    """
    (image,) = images(fused=fused)
    total = np.sum(np.diff(image, axis=0) ** 2) + np.sum(np.diff(image, axis=1) ** 2)
    return float(np.sqrt(total / image.size))


def standard_deviation(fused: ArrayLike) -> float:
    """Standard deviation (SD) of the pixels, in [0, 127.5]."""
    (image,) = images(fused=fused)
    return float(image.std())
