"""Information of the grey levels: EN, CE, MI."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from napari_busref.metrics.fusion._images import FloatArray, histogram, images, levels


def entropy(fused: ArrayLike) -> float:
    """Entropy (EN) of the 256 grey levels, in bits: in [0, 8]."""
    (image,) = images(fused=fused)
    p = histogram(image)
    p = p[p > 0]
    # 0 - x, not -x: a constant image has entropy 0.0, not -0.0
    return float(0.0 - np.sum(p * np.log2(p)))


def cross_entropy(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Cross entropy (CE): mean over both sources of ``sum p_s log2(p_s / p_f)``, in bits.

    As in the benchmark VIFB (Zhang et al., CVPR workshop 2020), only grey levels of both the
    source and the fused image count; the result may be negative. Lower is better.
    """
    image, *sources = images(fused=fused, visible=visible, infrared=infrared)
    p = histogram(image)
    total = 0.0
    for source in sources:
        other = histogram(source)
        both = (p > 0) & (other > 0)
        total += float(np.sum(other[both] * np.log2(other[both] / p[both])))
    return total / 2


def _mutual_information(first: FloatArray, second: FloatArray) -> float:
    joint = np.bincount((levels(first) * 256 + levels(second)).ravel(), minlength=256 * 256)
    p = joint.reshape(256, 256) / first.size
    independent = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    used = p > 0
    return float(np.sum(p[used] * np.log2(p[used] / independent[used])))


def mutual_information(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Mutual information (MI) of the fused image with both sources, summed, in bits: [0, 16].

    Qu, Zhang and Yan, Electronics Letters 2002; 256 grey levels.
    """
    image, *sources = images(fused=fused, visible=visible, infrared=infrared)
    return sum(_mutual_information(image, source) for source in sources)
