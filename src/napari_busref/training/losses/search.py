"""The loss of a search over translations: the true one against all others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_busref.models.layers import unit_length

_AVERAGE = 2  # cells, of the squares over which the quick wide search averages
_WINDOW = (14, 30)  # averaged cells along a side of the part of the fixed image
_MIN_OVERLAP = 0.3  # of the smaller part, as in the wide search
_TEMPERATURE = 0.7  # of the scores; learned, it stayed at 0.68 over 500 steps
_EXCLUDED = -1e4  # a logit


def search_loss(fixed: Tensor, moving: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the true translation among all translations over all images of a batch.

    The score is that of the wide search: the sum of the correlations of averaged descriptors over
    the root of the overlap. Its highest chance peaks weigh most.

    Parameters
    ----------
    fixed : Tensor
        Descriptors (B, D, h, w), unit length in D.
    moving : Tensor
        Of the moving images at the true positions of the fixed cells, in the same shape.
    valid : Tensor
        (B, 1, h, w), 1 where those lie inside the moving image.

    Returns
    -------
    loss : Tensor
        In nats, mean of the samples whose true overlap is large enough.
    found : Tensor
        Share of these samples in which the true translation, to a cell, scores highest.
    """
    target, everywhere = _averaged(fixed, torch.ones_like(valid))
    source, known = _averaged(moving, valid)
    window = _random_window(target)
    target, inner = target * window, everywhere * window
    size = [n + int(window.sum((-2, -1)).max() ** 0.5) // 2 for n in window.shape[-2:]]
    overlap = _cross_correlated(inner, known, size)
    smaller = torch.minimum(inner.sum((1, 2, 3))[:, None], known.sum((1, 2, 3)))
    allowed = overlap > _MIN_OVERLAP * smaller[..., None, None]
    score = _cross_correlated(target, source, size) / overlap.clamp_min(1).sqrt()
    logits = (score / _TEMPERATURE).masked_fill(~allowed, _EXCLUDED)
    true = torch.zeros_like(allowed)
    own = torch.arange(len(fixed), device=fixed.device)
    for row in (-1, 0, 1):
        for col in (-1, 0, 1):
            true[own, own, row, col] = True
    reached = logits.masked_fill(~true, _EXCLUDED).flatten(1)
    loss = logits.flatten(1).logsumexp(1) - reached.logsumexp(1)
    counts = allowed[own, own, 0, 0].float()
    right = (reached.amax(1) >= logits.flatten(1).amax(1)).float()
    return tuple((x * counts).sum() / counts.sum().clamp_min(1) for x in (loss, right))  # type: ignore[return-value]


def _averaged(features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    known = (F.avg_pool2d(valid, _AVERAGE) > 0.5).float()
    return unit_length(F.avg_pool2d(features * valid, _AVERAGE)) * known, known


def _random_window(like: Tensor) -> Tensor:
    """A square of random size and place, 1 inside: (1, 1, h, w)."""
    height, width = like.shape[-2:]
    side = min(int(torch.randint(*_WINDOW, ())), height, width)
    top, left = (int(torch.randint(n - side + 1, ())) for n in (height, width))
    window = like.new_zeros(1, 1, height, width)
    window[..., top : top + side, left : left + side] = 1
    return window


def _cross_correlated(fixed: Tensor, moving: Tensor, size: list[int]) -> Tensor:
    """Sums over D for all translations of all pairs of a batch, (B, B, rows, cols)."""
    first, second = (torch.fft.rfft2(x, size) for x in (fixed, moving))
    product = torch.einsum("idyx,jdyx->ijyx", first.conj(), second)
    return torch.fft.irfft2(product, size)
