"""Preserved and spurious edges: Q_AB/F and N_AB/F."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from napari_busref.metrics.fusion._images import FloatArray, images, sobel


def _preservation(image: FloatArray, source: FloatArray) -> FloatArray:
    """Xydeas and Petrovic's edge preservation Q of every pixel, in [0, 1]."""
    (rows_f, cols_f), (rows_s, cols_s) = sobel(image), sobel(source)
    strength_f, strength_s = np.hypot(rows_f, cols_f), np.hypot(rows_s, cols_s)
    larger = np.maximum(strength_f, strength_s)
    ratio = np.divide(
        np.minimum(strength_f, strength_s), larger, out=np.ones_like(larger), where=larger > 0
    )
    # orientations are equal modulo pi: a right angle is the largest difference
    angle = np.abs(np.arctan2(rows_f, cols_f) - np.arctan2(rows_s, cols_s)) % np.pi
    alignment = np.abs(angle - np.pi / 2) * 2 / np.pi
    strength_kept = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
    orientation_kept = 0.9879 / (1 + np.exp(-22 * (alignment - 0.8)))
    kept: FloatArray = strength_kept * orientation_kept
    return kept


def qabf(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Edge information preserved from the sources (Q_AB/F), in [0, 1].

    Xydeas and Petrovic, Electronics Letters 2000, eq. 2 to 8: preservation of Sobel strength and
    orientation, averaged with the strengths of the sources as weights (L = 1). The constants are
    0.9994, -15, 0.5 and 0.9879, -22, 0.8. Orientations are compared modulo pi. Sources without
    edges give 0.
    """
    image, *sources = images(fused=fused, visible=visible, infrared=infrared)
    weights = [np.hypot(*sobel(source)) for source in sources]
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

    Kumar, Signal, Image and Video Processing 2013. The loss ``(1 - Q_s) w_s`` is summed over both
    sources, at the pixels whose fused gradient exceeds both sources' gradients. The sum is divided
    by that of all weights: in [0, 1]. ``w_s`` is the source's gradient strength to the power 1.5;
    Q is that of `qabf`. Implementations use other constants in Q and differ by a factor of up to
    four: compare only numbers of one implementation.
    """
    image, *sources = images(fused=fused, visible=visible, infrared=infrared)
    strengths = [np.hypot(*sobel(source)) for source in sources]
    strength = np.hypot(*sobel(image))
    # 1e-9: rounding of equal gradients is not an artefact
    above = (strength > strengths[0] + 1e-9) & (strength > strengths[1] + 1e-9)
    total = lost = 0.0
    for source, own in zip(sources, strengths, strict=True):
        weight = own**1.5
        total += float(weight.sum())
        lost += float(np.sum(((1 - _preservation(image, source)) * weight)[above]))
    return lost / total if total > 0 else 0.0
