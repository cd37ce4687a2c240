"""Mutual information of wavelet features in small windows: FMI_w."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from scipy import ndimage as ndi

from napari_busref.metrics.fusion._images import FloatArray, images

_TAPS = 61  # of the discrete Meyer filter, as in PyWavelets
_SIDE = 3  # of a window
_CHUNK = 1 << 11  # windows at a time: their joint distributions, 81 numbers each, fit the cache


def fmi_w(fused: ArrayLike, visible: ArrayLike, infrared: ArrayLike) -> float:
    """Feature mutual information of wavelet coefficients (FMI_w), mean of both sources.

    Haghighat and Razian, "Fast-FMI", AICT 2014. The features are the four bands of one level of
    the discrete Meyer wavelet, side by side. In every window of 3 x 3 coefficients each image's
    features, stretched to [0, 1] and divided by their sum, are a distribution over nine cells.
    The joint distribution of two images mixes the independent one with Fréchet's bound to match
    their correlation (Nelsen). The score of a window is ``2 I / (H_s + H_f)``, 1 for equal
    features; the result is the mean over the windows.

    It lies between 0 and 1, except for single windows whose mixture has negative probabilities.
    Real fusions of infrared and visible images reach 0.2 to 0.5, a copy of one source more.

    Parameters
    ----------
    fused, visible, infrared : array_like, shape (H, W)
        Grey images on any scale.
    """
    features, *others = map(_features, images(fused=fused, visible=visible, infrared=infrared))
    scores = [_mean_score(features, other) for other in others]
    return sum(scores) / 2


@cache
def _meyer() -> FloatArray:
    """Low-pass filter of the Meyer wavelet (Daubechies, Ten Lectures, 4.2), truncated."""
    count = 1 << 12
    frequency = 3 * np.abs(np.fft.fftfreq(count)) * 2 - 1  # 0 and 1 at pi/3 and 2 pi/3
    x = np.clip(frequency, 0, 1)
    response = np.cos(np.pi / 2 * x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3))
    half = _TAPS // 2
    impulse = np.roll(np.fft.ifft(response).real, half)[:_TAPS]
    low: FloatArray = impulse / impulse.sum() * np.sqrt(2)
    return low


def _split(image: FloatArray, axis: int) -> tuple[FloatArray, FloatArray]:
    """Low and high band along an axis, every second sample, with mirrored borders."""
    low = _meyer()
    high = -low * (-1.0) ** np.arange(_TAPS)  # the taps are symmetric about an even index
    count = (image.shape[axis] + _TAPS) // 2
    margins = [(0, 0), (0, 0)]
    margins[axis] = (_TAPS, _TAPS)
    wide = np.moveaxis(np.pad(image, margins, mode="symmetric"), axis, 0)
    # the two filters of an orthogonal pair are centred one sample apart
    first = _TAPS // 2 + 1
    bands = [
        ndi.convolve1d(wide, taps, axis=0)[start::2][:count]
        for taps, start in ((low, first), (high, first + 1))
    ]
    return np.moveaxis(bands[0], 0, axis), np.moveaxis(bands[1], 0, axis)


def _features(image: FloatArray) -> FloatArray:
    """Four bands of one level as blocks: approximation, horizontal, vertical, diagonal."""
    smooth, detail = _split(image, 0)
    (approximation, vertical), (horizontal, diagonal) = _split(smooth, 1), _split(detail, 1)
    return np.block([[approximation, horizontal], [vertical, diagonal]])


def _mean_score(first: FloatArray, second: FloatArray) -> float:
    """Mean score of all windows of two feature images."""
    # column by column within a window, as in the authors' script; windows last, for speed
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
    # Fréchet's bounds enclose every joint distribution of these marginals
    upper = np.minimum(above, below)
    bound = np.where(correlation >= 0, upper, np.maximum(above + below - 1, 0))
    covariance = (bound - above * below).sum((0, 1))  # Hoeffding
    spread = np.sqrt(_variance_of_index(p) * _variance_of_index(q))
    weight = _ratio(correlation * spread, covariance)
    joint = bound
    joint[1:] -= bound[:-1].copy()
    joint[:, 1:] -= bound[:, :-1].copy()
    joint = weight * joint + (1 - weight) * p[:, None] * q
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


def _variance_of_index(p: FloatArray) -> FloatArray:
    index = np.arange(1.0, len(p) + 1)
    return np.maximum(index**2 @ p - (index @ p) ** 2, 0)


def _entropy(shares: FloatArray) -> FloatArray:
    """Entropy in bits; the real part for negative probabilities, which the mixture may have."""
    size = np.maximum(np.abs(shares), np.finfo(float).tiny)  # 0 log 0 = 0
    shares = shares.reshape(-1, shares.shape[-1])
    total: FloatArray = -(shares * np.log2(size).reshape(shares.shape)).sum(0)
    return total


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Quotient, 0 where the divisor is 0 but for rounding."""
    return np.divide(above, below, out=np.zeros_like(above), where=np.abs(below) > 1e-12)
