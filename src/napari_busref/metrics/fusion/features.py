"""Mutual information of wavelet features in small windows: FMI_w."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from scipy import ndimage as ndi

from napari_busref.metrics.fusion._images import FloatArray, images

_TAPS = 61  # of the discrete Meyer filter, as many as PyWavelets keeps
_SIDE = 3  # of a window
_CHUNK = 1 << 11  # windows at a time: joint distributions of 81 numbers each stay in the cache


def fmi_w(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Feature mutual information of wavelet coefficients (FMI_w), mean of both sources.

    Haghighat and Razian, "Fast-FMI", AICT 2014: the four bands of one level of the discrete
    Meyer wavelet side by side are the features. In every window of 3 x 3 coefficients each image's
    features, stretched to [0, 1] and divided by their sum, are a distribution over the nine
    places; the joint distribution of two images is the mixture of the independent one and of
    Fréchet's bound that has their correlation (Nelsen). The score of a window is
    ``2 I / (H_s + H_f)``, 1 where features are equal; the windows are averaged.

    Between 0 and 1, but for single windows where the mixture leaves the probabilities. Real
    fusions of infrared and visible images reach 0.2 to 0.5, a copy of one source more.

    Parameters
    ----------
    fused, visible, infrared : array_like, shape (H, W)
        Grey images. The scale does not matter.
    """
    features, *others = map(_features, images(fused=fused, visible=visible, infrared=infrared))
    scores = [_mean_score(features, other) for other in others]
    return sum(scores) / 2


@cache
def _meyer() -> FloatArray:
    """Low-pass filter of the Meyer wavelet (Daubechies, Ten Lectures, 4.2), cut to its taps."""
    count = 1 << 12
    frequency = 3 * np.abs(np.fft.fftfreq(count)) * 2 - 1  # 0 and 1 at pi/3 and 2 pi/3
    x = np.clip(frequency, 0, 1)
    response = np.cos(np.pi / 2 * x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3))
    half = _TAPS // 2
    impulse = np.roll(np.fft.ifft(response).real, half)[:_TAPS]
    low: FloatArray = impulse / impulse.sum() * np.sqrt(2)
    return low


def _split(image: FloatArray, axis: int) -> tuple[FloatArray, FloatArray]:
    """Low and high band along an axis, every second place, edges mirrored and mirrors kept."""
    low = _meyer()
    high = -low * (-1.0) ** np.arange(_TAPS)  # the taps are symmetric about an even place
    count = (image.shape[axis] + _TAPS) // 2
    margins = [(0, 0), (0, 0)]
    margins[axis] = (_TAPS, _TAPS)
    wide = np.moveaxis(np.pad(image, margins, mode="symmetric"), axis, 0)
    # the two filters of an orthogonal pair are centred one place apart
    first = _TAPS // 2 + 1
    bands = [
        ndi.convolve1d(wide, taps, axis=0)[start::2][:count]
        for taps, start in ((low, first), (high, first + 1))
    ]
    return np.moveaxis(bands[0], 0, axis), np.moveaxis(bands[1], 0, axis)


def _features(image: FloatArray) -> FloatArray:
    """Four bands of one level side by side: smooth and edges that lie, edges that stand, both."""
    smooth, edges = _split(image, 0)
    (both_smooth, standing), (lying, corners) = _split(smooth, 1), _split(edges, 1)
    return np.block([[both_smooth, lying], [standing, corners]])


def _mean_score(first: FloatArray, second: FloatArray) -> float:
    """Mean score of all windows of two images of features."""
    # column by column within a window, as the authors' script does; windows last, for speed
    windows = [
        sliding_window_view(features, (_SIDE, _SIDE)).transpose(3, 2, 0, 1).reshape(_SIDE**2, -1)
        for features in (first, second)
    ]
    count = windows[0].shape[1]
    total = sum(
        float(_scores(*(w[:, start : start + _CHUNK] for w in windows)).sum())
        for start in range(0, count, _CHUNK)
    )
    return total / count


def _scores(first: FloatArray, second: FloatArray) -> FloatArray:
    """Score of each of (9, N) windows."""
    p, q = _distribution(first), _distribution(second)
    above, below = np.cumsum(p, 0)[:, None], np.cumsum(q, 0)
    correlation = _ratio(_covariance(p, q), np.sqrt(_covariance(p, p) * _covariance(q, q)))
    # Fréchet: no joint distribution of these marginals lies outside of these two
    upper = np.minimum(above, below)
    bound = np.where(correlation >= 0, upper, np.maximum(above + below - 1, 0))
    covariance = (bound - above * below).sum((0, 1))  # Hoeffding
    spread = np.sqrt(_variance_of_place(p) * _variance_of_place(q))
    share = _ratio(correlation * spread, covariance)
    joint = bound
    joint[1:] -= bound[:-1].copy()
    joint[:, 1:] -= bound[:, :-1].copy()
    joint = share * joint + (1 - share) * p[:, None] * q
    separate = _entropy(p) + _entropy(q)
    scores = _ratio(2 * (separate - _entropy(joint)), separate)
    scores[(first == second).all(0)] = 1
    return scores


def _distribution(windows: FloatArray) -> FloatArray:
    low, high = windows.min(0), windows.max(0)
    flat = high == low
    stretched = np.where(flat, 1.0, (windows - low) / np.where(flat, 1.0, high - low))
    shares: FloatArray = stretched / stretched.sum(0)
    return shares


def _covariance(p: FloatArray, q: FloatArray) -> FloatArray:
    covariance: FloatArray = np.mean((p - p.mean(0)) * (q - q.mean(0)), 0)
    return covariance


def _variance_of_place(p: FloatArray) -> FloatArray:
    place = np.arange(1.0, len(p) + 1)
    return np.maximum(place**2 @ p - (place @ p) ** 2, 0)


def _entropy(shares: FloatArray) -> FloatArray:
    """Entropy in bits; of a share below zero, as the mixture may give, the real part."""
    size = np.maximum(np.abs(shares), np.finfo(float).tiny)  # 0 log 0 = 0
    shares = shares.reshape(-1, shares.shape[-1])
    total: FloatArray = -(shares * np.log2(size).reshape(shares.shape)).sum(0)
    return total


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Quotient, 0 where rounding alone keeps the divisor from being 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=np.abs(below) > 1e-12)
