"""The spatial recurrent pass ``h_t = relu(a h_(t-1) + x_t)`` in few large steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def recurrent_scan(x: Tensor, weight: Tensor, chunk: int = 32) -> Tensor:
    """Run ``h_t = relu(a h_(t-1) + x_t)``, ``h_(-1) = 0``, along the last axis.

    Lines are cut into chunks that run side by side; each starts from zero, and what a start from
    ``h`` would have given follows from ``h_t(h) = max(h_t(0), a^(t+1) h + b_t)``, where ``b_t`` is
    the same recurrence without ReLU. That holds for ``a >= 0`` and ``h >= 0``. A line of W takes
    ``chunk + W / chunk`` steps instead of W.

    Parameters
    ----------
    x : Tensor
        (B, C, H, W).
    weight : Tensor
        (C,), the recurrent weights ``a``, at least 0.
    chunk : int
        Length of a chunk.

    Returns
    -------
    Tensor
        (B, C, H, W), at least 0.
    """
    width = x.shape[-1]
    chunk = min(chunk, width)
    count = -(-width // chunk)
    # the axis of the steps first: each step then works on one block of memory
    pieces = F.pad(x, (0, count * chunk - width)).unflatten(-1, (count, chunk))
    pieces = pieces.permute(4, 3, 0, 1, 2).contiguous()
    a = weight[:, None]
    free, bent = [pieces[0]], [pieces[0].relu()]
    for piece in pieces[1:].unbind():
        free.append(torch.addcmul(piece, a, free[-1]))
        bent.append(torch.addcmul(piece, a, bent[-1]).relu_())
    if count == 1:
        result = torch.stack(bent)
    else:
        whole = weight.pow(chunk)[:, None]
        start = [torch.zeros_like(bent[-1][0])]
        for last_free, last_bent in zip(
            free[-1][:-1].unbind(), bent[-1][:-1].unbind(), strict=True
        ):
            start.append(torch.maximum(last_bent, torch.addcmul(last_free, whole, start[-1])))
        starts = torch.stack(start)
        powers = torch.cumprod(a.expand(chunk, *a.shape), 0)
        result = torch.stack(
            [
                torch.maximum(b, torch.addcmul(f, power, starts))
                for f, b, power in zip(free, bent, powers, strict=True)
            ]
        )
    return result.permute(2, 3, 4, 1, 0).flatten(-2)[..., :width]


def four_directions(x: Tensor, weights: Tensor, chunk: int = 32) -> Tensor:
    """The recurrence from the left, the right, the top and the bottom.

    Parameters
    ----------
    x : Tensor
        (B, C, H, W).
    weights : Tensor
        (4, C), at least 0.
    chunk : int
        As for :func:`recurrent_scan`.

    Returns
    -------
    Tensor
        (B, 4, C, H, W).
    """
    x = x.contiguous()
    found = []
    for pair, lines in ((weights[:2], x), (weights[2:], x.transpose(2, 3))):
        both = torch.cat([lines, lines.flip(3)], 1)
        there, back = recurrent_scan(both, pair.flatten(), chunk).chunk(2, 1)
        found.append(torch.stack([there, back.flip(3)], 1))
    return torch.cat([found[0], found[1].transpose(3, 4)], 1)
