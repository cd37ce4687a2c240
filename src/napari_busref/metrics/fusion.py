"""Scores of a fused image against the two images it was made of.

All functions take real grey images ``(H, W)`` on the scale 0..255. Nothing is stretched or
rounded here except where a histogram needs whole grey levels. No score is to be used alone:
edge intensity, spatial frequency, standard deviation and entropy rise with noise and
over-sharpening; copying one source wins VIF, mutual information and Q_AB/F; averaging wins
SSIM and correlation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi
from skimage.metrics import structural_similarity

__all__ = [
    "HIGHER_IS_BETTER",
    "correlation",
    "cross_entropy",
    "edge_intensity",
    "entropy",
    "fusion_scores",
    "mutual_information",
    "nabf",
    "qabf",
    "scd",
    "spatial_frequency",
    "ssim",
    "standard_deviation",
    "vif",
]

FloatArray = NDArray[np.float64]

#: Direction of every score in `fusion_scores`.
HIGHER_IS_BETTER: dict[str, bool] = {
    "edge_intensity": True,
    "spatial_frequency": True,
    "entropy": True,
    "standard_deviation": True,
    "cross_entropy": False,
    "mutual_information": True,
    "correlation": True,
    "scd": True,
    "ssim": True,
    "vif": True,
    "qabf": True,
    "nabf": False,
}

#: Smallest side at which the fourth scale of `vif` still has one complete window.
MIN_SIDE = 41


def _grey(image: ArrayLike, name: str) -> FloatArray:
    array = np.asarray(image)
    if array.ndim != 2 or array.dtype.kind not in "buif":
        raise ValueError(
            f"{name} must be a real grey (H, W) image, got shape {array.shape}, "
            f"dtype {array.dtype}"
        )
    grey = array.astype(np.float64)
    if not np.isfinite(grey).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite pixels")
    return grey


def _images(**images: ArrayLike) -> list[FloatArray]:
    """Check images of one size and return them as float64."""
    greys = [_grey(image, name) for name, image in images.items()]
    if len({grey.shape for grey in greys}) != 1:
        shapes = ", ".join(
            f"{name} {grey.shape}" for name, grey in zip(images, greys, strict=True)
        )
        raise ValueError(f"images must have one size, got {shapes}")
    return greys


def _sobel(image: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sobel derivatives along rows and columns with the kernel (1 2 1) x (-1 0 1)."""
    return (
        ndi.sobel(image, axis=0, mode="nearest"),
        ndi.sobel(image, axis=1, mode="nearest"),
    )


def _histogram(image: FloatArray) -> FloatArray:
    """Return the shares of the 256 grey levels."""
    levels = np.clip(np.rint(image), 0, 255).astype(np.intp)
    return np.bincount(levels.ravel(), minlength=256) / levels.size


def edge_intensity(fused: ArrayLike) -> float:
    """Edge intensity (EI): mean magnitude of the unnormalised Sobel gradient."""
    (image,) = _images(fused=fused)
    return float(np.hypot(*_sobel(image)).mean())


def spatial_frequency(fused: ArrayLike) -> float:
    """Spatial frequency (SF): root mean square of row and column differences.

    Eskicioglu and Fisher, IEEE Transactions on Communications 1995, eq. 1 to 3.
    """
    (image,) = _images(fused=fused)
    return float(
        np.sqrt(np.mean(np.diff(image, axis=0) ** 2) + np.mean(np.diff(image, axis=1) ** 2))
    )


def entropy(fused: ArrayLike) -> float:
    """Entropy (EN) of the 256 grey levels, in bits."""
    (image,) = _images(fused=fused)
    share = _histogram(image)
    share = share[share > 0]
    # 0 - x, not -x: a constant image has entropy 0.0, not -0.0
    return float(0.0 - np.sum(share * np.log2(share)))


def standard_deviation(fused: ArrayLike) -> float:
    """Standard deviation (SD) of the pixels."""
    (image,) = _images(fused=fused)
    return float(image.std())


def cross_entropy(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Cross entropy (CE): mean over both sources of ``sum p_s log2(p_s / p_f)``, in bits.

    As in fusion benchmarks (VIFB, Zhang et al., CVPR workshop 2020), grey levels that the
    source or the fused image does not use are left out. Lower is better.
    """
    image, *sources = _images(fused=fused, visible=visible, infrared=infrared)
    share = _histogram(image)
    total = 0.0
    for source in sources:
        other = _histogram(source)
        both = (share > 0) & (other > 0)
        total += float(np.sum(other[both] * np.log2(other[both] / share[both])))
    return total / 2


def _mutual_information(first: FloatArray, second: FloatArray) -> float:
    levels = [np.clip(np.rint(image), 0, 255).astype(np.intp) for image in (first, second)]
    joint = np.bincount((levels[0] * 256 + levels[1]).ravel(), minlength=256 * 256)
    share = joint.reshape(256, 256) / levels[0].size
    independent = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
    used = share > 0
    return float(np.sum(share[used] * np.log2(share[used] / independent[used])))


def mutual_information(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Mutual information (MI) of the fused image with both sources, summed, in bits.

    Qu, Zhang and Yan, Electronics Letters 2002; 256 grey levels.
    """
    image, *sources = _images(fused=fused, visible=visible, infrared=infrared)
    return sum(_mutual_information(image, source) for source in sources)


def _correlation(first: FloatArray, second: FloatArray) -> float:
    a, b = first - first.mean(), second - second.mean()
    norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.sum(a * b) / norm) if norm > 0 else 0.0


def correlation(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Correlation (CC) of the fused image with its sources, mean of both."""
    image, *sources = _images(fused=fused, visible=visible, infrared=infrared)
    return sum(_correlation(image, source) for source in sources) / 2


def scd(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Sum of the correlations of differences (SCD).

    ``corr(F - V, R) + corr(F - R, V)``: what each source added to the other must look like
    it. Aslantas and Bendes, AEÜ 2015, eq. 3 and 4. Range [-2, 2].
    """
    image, first, second = _images(fused=fused, visible=visible, infrared=infrared)
    return _correlation(image - first, second) + _correlation(image - second, first)


def ssim(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Structural similarity (SSIM) to the sources, mean of both.

    Wang et al., IEEE TIP 2004: Gaussian window of standard deviation 1.5, grey levels 0..255.
    """
    image, *sources = _images(fused=fused, visible=visible, infrared=infrared)
    options: dict[str, Any] = {
        "data_range": 255.0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    return float(sum(structural_similarity(image, source, **options) for source in sources) / 2)


def _window(image: FloatArray, size: int) -> FloatArray:
    """Gaussian mean over a ``size`` window of deviation size/5, only where it fits."""
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
        # Where a model "distorted = gain x reference + noise" does not hold (flat patches,
        # inverted contrast) the channel carries nothing and all variance is noise.
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
    # An image without any detail offers nothing; what was kept of it is complete.
    return kept / offered if offered > 0 else 1.0


def vif(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Visual information fidelity (VIF) of the fused image for each source, summed.

    Multi-scale and pixel-domain: Sheikh and Bovik, IEEE TIP 2006, four scales, noise variance
    2. An image is perfectly faithful to itself (1), so copying one source gives 1 and a bit.

    Raises
    ------
    ValueError
        If a side is under `MIN_SIDE` = 41 pixels, where the coarsest scale has no complete window.
    """
    image, *sources = _images(fused=fused, visible=visible, infrared=infrared)
    if min(image.shape) < MIN_SIDE:
        raise ValueError(
            f"fused must have sides of at least {MIN_SIDE} pixels for VIF, got {image.shape}"
        )
    return sum(_vif(source, image) for source in sources)


def _preservation(image: FloatArray, source: FloatArray) -> FloatArray:
    """Xydeas and Petrovic's edge preservation Q of every pixel, in [0, 1]."""
    (rows_f, cols_f), (rows_s, cols_s) = _sobel(image), _sobel(source)
    strength_f, strength_s = np.hypot(rows_f, cols_f), np.hypot(rows_s, cols_s)
    larger = np.maximum(strength_f, strength_s)
    ratio = np.divide(
        np.minimum(strength_f, strength_s), larger, out=np.ones_like(larger), where=larger > 0
    )
    # Orientations, not directions: equal modulo pi, so a right angle is the largest difference.
    angle = np.abs(np.arctan2(rows_f, cols_f) - np.arctan2(rows_s, cols_s)) % np.pi
    alignment = np.abs(angle - np.pi / 2) * 2 / np.pi
    strength_kept = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
    orientation_kept = 0.9879 / (1 + np.exp(-22 * (alignment - 0.8)))
    kept: FloatArray = strength_kept * orientation_kept
    return kept


def qabf(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Edge information kept from the sources (Q_AB/F), in [0, 1].

    Xydeas and Petrovic, Electronics Letters 2000, eq. 2 to 8: preservation of Sobel strength
    and orientation, averaged with the strengths of the sources as weights (L = 1), constants
    0.9994, -15, 0.5 and 0.9879, -22, 0.8. Orientations are compared modulo pi. Sources without
    any edge give 0.
    """
    image, *sources = _images(fused=fused, visible=visible, infrared=infrared)
    weights = [np.hypot(*_sobel(source)) for source in sources]
    total = sum(float(weight.sum()) for weight in weights)
    if total == 0:
        return 0.0
    kept = sum(
        float(np.sum(_preservation(image, source) * weight))
        for source, weight in zip(sources, weights, strict=True)
    )
    return kept / total


def nabf(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Fusion artefacts (modified N_AB/F): edges stronger than in either source. Lower is better.

    Kumar, Signal, Image and Video Processing 2013: over pixels whose fused gradient exceeds
    both sources' gradients, what is not preserved, ``(1 - Q_s) w_s``, summed over the sources
    and divided by the sum of all weights. ``w_s`` is the source's gradient strength to the
    power 1.5; Q is that of `qabf`. Implementations differ in Q's constants, and with them by a
    factor of up to four: compare only numbers of one implementation.
    """
    image, *sources = _images(fused=fused, visible=visible, infrared=infrared)
    strengths = [np.hypot(*_sobel(source)) for source in sources]
    strength = np.hypot(*_sobel(image))
    # rounding noise of equal gradients is no artefact
    above = (strength > strengths[0] + 1e-9) & (strength > strengths[1] + 1e-9)
    total = lost = 0.0
    for source, own in zip(sources, strengths, strict=True):
        weight = own**1.5
        total += float(weight.sum())
        lost += float(np.sum(((1 - _preservation(image, source)) * weight)[above]))
    return lost / total if total > 0 else 0.0


def fusion_scores(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> dict[str, float]:
    """Return all fusion scores of this module.

    Parameters
    ----------
    fused, visible, infrared : array_like
        Grey images ``(H, W)`` on the scale 0..255, sides of at least `MIN_SIDE` pixels.

    Returns
    -------
    dict
        The keys of `HIGHER_IS_BETTER`, which says how each is to be read.

    Raises
    ------
    ValueError
        If an image is not grey, not finite or too small, or the sizes differ.
    """
    image, first, second = _images(fused=fused, visible=visible, infrared=infrared)
    return {
        "edge_intensity": edge_intensity(image),
        "spatial_frequency": spatial_frequency(image),
        "entropy": entropy(image),
        "standard_deviation": standard_deviation(image),
        "cross_entropy": cross_entropy(image, first, second),
        "mutual_information": mutual_information(image, first, second),
        "correlation": correlation(image, first, second),
        "scd": scd(image, first, second),
        "ssim": ssim(image, first, second),
        "vif": vif(image, first, second),
        "qabf": qabf(image, first, second),
        "nabf": nabf(image, first, second),
    }
