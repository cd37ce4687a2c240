"""Scores with a model of human vision: VIF and Q_cv."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft
from scipy import ndimage as ndi

from napari_busref.metrics.fusion._images import FloatArray, images, sobel

#: Smallest side at which the fourth scale of `vif` has one complete window.
MIN_SIDE = 41

_BLOCK = 16  # Q_cv: side of a region, in pixels
_SALIENCY = 5  # Q_cv: power of the gradients


def _window(image: FloatArray, size: int) -> FloatArray:
    """Gaussian mean over complete windows of ``size`` pixels, with deviation size / 5."""
    half = size // 2
    offsets = np.arange(-half, half + 1)
    weights = np.exp(-(offsets**2) / (2 * (size / 5) ** 2))
    weights /= weights.sum()
    smooth = ndi.correlate1d(ndi.correlate1d(image, weights, axis=0), weights, axis=1)
    return smooth[half:-half, half:-half]


def _vif(reference: FloatArray, distorted: FloatArray, noise: float = 2.0) -> float:
    """Pixel-domain visual information fidelity over four scales."""
    tiny = 1e-10
    kept = offered = 0.0
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        if scale > 0:
            reference, distorted = (
                _window(image, size)[::2, ::2] for image in (reference, distorted)
            )
        mean_r, mean_d = _window(reference, size), _window(distorted, size)
        var_r = np.maximum(_window(reference**2, size) - mean_r**2, 0)
        var_d = np.maximum(_window(distorted**2, size) - mean_d**2, 0)
        covariance = _window(reference * distorted, size) - mean_r * mean_d

        gain = covariance / (var_r + tiny)
        rest = var_d - gain * covariance
        # where the model "distorted = gain x reference + noise" fails (flat patches, inverted
        # contrast) the channel carries no information and all variance is noise
        flat_r, flat_d = var_r < tiny, var_d < tiny
        gain[flat_r | flat_d] = 0
        rest[flat_r] = var_d[flat_r]
        var_r[flat_r] = 0
        rest[flat_d] = 0
        inverted = gain < 0
        rest[inverted] = var_d[inverted]
        gain[inverted] = 0
        rest = np.maximum(rest, tiny)

        kept += float(np.sum(np.log2(1 + gain**2 * var_r / (rest + noise))))
        offered += float(np.sum(np.log2(1 + var_r / noise)))
    # a constant reference offers no information, and nothing of it is lost
    return kept / offered if offered > 0 else 1.0


def vif(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Visual information fidelity (VIF) of the fused image for each source, summed.

    Multi-scale and pixel-domain: Sheikh and Bovik, IEEE TIP 2006, four scales, noise variance 2.
    An image has a fidelity of 1 to itself; a copy of one source therefore scores just above 1.

    Raises
    ------
    ValueError
        If a side is under `MIN_SIDE` = 41 pixels, where the coarsest scale has no complete window.
    """
    image, *sources = images(fused=fused, visible=visible, infrared=infrared)
    if min(image.shape) < MIN_SIDE:
        raise ValueError(
            f"fused must have sides of at least {MIN_SIDE} pixels for VIF, got {image.shape}"
        )
    return sum(_vif(source, image) for source in sources)


def q_cv(
    fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike, *, vifb: bool = False
) -> float:
    """Chen-Varshney metric (Q_cv): visible difference, weighted by the sources' saliency.

    Chen and Varshney, Information Fusion 2007, eq. 6 to 12. The contrast sensitivity of Mannos
    and Sakrison, ``2.6 (0.0192 + 0.144 r) exp(-(0.144 r)^1.1)`` with ``r`` in cycles per quarter
    of the side, filters each source minus the fused image. The mean squares of regions of 16 x 16
    pixels are averaged. Their weights are the sums of the source's Sobel magnitudes to the fifth
    power. At least 0; lower is better. The fifth power lets few regions dominate: take the median
    of several images.

    Parameters
    ----------
    fused, visible, infrared : array_like, shape (H, W)
        Grey images on the scale 0..255.
    vifb : bool
        Follow the script of the benchmark VIFB exactly. It stretches every image to 0..255 by its
        own extremes, rounds it and pads it with 0: the frame then counts as an edge, and cut
        regions as partly correct. Use it only to compare with figures of that script.
    """
    greys = images(fused=fused, visible=visible, infrared=infrared)
    if vifb:
        greys = [_stretched(grey) for grey in greys]
    image, *sources = greys
    height, width = image.shape
    rows, cols = fft.fftfreq(height) * height / 4, fft.rfftfreq(width) * width / 4
    radius = 0.144 * np.hypot(rows[:, None], cols)
    sensitivity = 2.6 * (0.0192 + radius) * np.exp(-(radius**1.1))
    weighed = total = 0.0
    for source in sources:
        difference = fft.irfft2(fft.rfft2(source - image) * sensitivity, image.shape)
        gradient = (
            [ndi.sobel(source, axis, mode="constant") for axis in (0, 1)]
            if vifb
            else sobel(source)
        )
        saliency = _regions(np.hypot(*gradient) ** _SALIENCY)
        pixels = _BLOCK**2 if vifb else _regions(np.ones_like(difference))
        weighed += float(np.sum(saliency * _regions(difference**2) / pixels))
        total += float(saliency.sum())
    return weighed / total if total > 0 else 0.0


def _stretched(image: FloatArray) -> FloatArray:
    low, high = image.min(), image.max()
    return np.rint(255 * (image - low) / (high - low)) if high > low else image


def _regions(values: FloatArray) -> FloatArray:
    """Sums over regions of 16 x 16 pixels, cropped at the right and the bottom."""
    starts = [np.arange(0, length, _BLOCK) for length in values.shape]
    rows = np.add.reduceat(values, starts[0], axis=0)
    sums: FloatArray = np.add.reduceat(rows, starts[1], axis=1)
    return sums
