"""Shift a fused image towards one source, and scale its detail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["more_detail", "more_infrared"]

Grey = NDArray[np.float32]

NEUTRAL = 0.5
_DETAIL_SIGMA = 2.0  # px; finer structure is detail
_BASE_RADIUS = 0.02  # of the base layer's filter, as a fraction of the shorter side
_BASE_EPS = 0.01  # edges of more than 0.1 stay in the base


def more_infrared(fused: Grey, visible: Grey, infrared: Grey, amount: float) -> Grey:
    """Move the base layer of a fused image towards one of its sources.

    The base layer of an image is its guided filter with the fused image as guide. It is smooth
    except at the edges of the fused image, which therefore get no halo. From 0.5 to 0 the base
    moves linearly to that of the visible image, from 0.5 to 1 to that of the infrared image.
    Structure finer than the base does not change.

    Parameters
    ----------
    fused, visible, infrared : ndarray of float32, shape (H, W)
        In [0, 1].
    amount : float
        In [0, 1]; 0.5 changes nothing.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1].
    """
    if amount == NEUTRAL:
        return fused
    source = infrared if amount > NEUTRAL else visible
    step = abs(2 * amount - 1) * _base(source - fused, fused)
    return np.clip(fused + step, 0, 1).astype(np.float32)


def more_detail(fused: Grey, amount: float) -> Grey:
    """Scale the structure finer than a Gaussian of 2 px.

    Parameters
    ----------
    fused : ndarray of float32, shape (H, W)
        In [0, 1].
    amount : float
        In [0, 1]; the detail is multiplied by twice this: 0 removes it, 0.5 changes nothing, 1
        doubles it.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1].
    """
    if amount == NEUTRAL:
        return fused
    detail = fused - ndimage.gaussian_filter(fused, _DETAIL_SIGMA, mode="nearest")
    return np.clip(fused + (2 * amount - 1) * detail, 0, 1).astype(np.float32)


def _base(image: Grey, guide: Grey) -> Grey:
    """Guided filter (He, Sun and Tang, 2013), on a coarser grid for large windows."""
    import torch
    from kornia.filters import guided_blur

    def tensor(values: Grey) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))[None, None]

    radius = max(round(_BASE_RADIUS * min(image.shape)), 4)
    blurred = guided_blur(
        tensor(guide),
        tensor(image),
        2 * radius + 1,
        _BASE_EPS,
        "replicate",
        subsample=max(radius // 8, 1),
        separable=True,
    )
    base: Grey = blurred.numpy()[0, 0]
    return base
