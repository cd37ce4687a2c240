"""The spatial recurrence ``h_t = relu(a h_(t-1) + x_t)`` in few large steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def recurrent_scan(x: Tensor, weight: Tensor, chunk: int = 32) -> Tensor:
    """Run ``h_t = relu(a h_(t-1) + x_t)``, ``h_(-1) = 0``, along the last axis.

    Lines are cut into chunks, which run in parallel from zero. The result for a start ``h`` is
    ``h_t(h) = max(h_t(0), a^(t+1) h + b_t)``, where ``b_t`` is the recurrence without ReLU, for
    ``a >= 0`` and ``h >= 0``. A line of W takes ``chunk + W / chunk`` steps instead of W.

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
    # with the steps as first axis, each step reads one block of memory
    pieces = F.pad(x, (0, count * chunk - width)).unflatten(-1, (count, chunk))
    pieces = pieces.permute(4, 3, 0, 1, 2).contiguous()
    a = weight[:, None]
    linear, clipped = [pieces[0]], [pieces[0].relu()]  # the recurrence without and with ReLU
    for piece in pieces[1:].unbind():
        linear.append(torch.addcmul(piece, a, linear[-1]))
        clipped.append(torch.addcmul(piece, a, clipped[-1]).relu_())
    if count == 1:
        result = torch.stack(clipped)
    else:
        decay = weight.pow(chunk)[:, None]
        start = [torch.zeros_like(clipped[-1][0])]
        for end_linear, end_clipped in zip(
            linear[-1][:-1].unbind(), clipped[-1][:-1].unbind(), strict=True
        ):
            start.append(torch.maximum(end_clipped, torch.addcmul(end_linear, decay, start[-1])))
        starts = torch.stack(start)
        powers = torch.cumprod(a.expand(chunk, *a.shape), 0)
        result = torch.stack(
            [
                torch.maximum(c, torch.addcmul(b, power, starts))
                for b, c, power in zip(linear, clipped, powers, strict=True)
            ]
        )
    return result.permute(2, 3, 4, 1, 0).flatten(-2)[..., :width]


def four_directions(x: Tensor, weights: Tensor, chunk: int = 32) -> Tensor:
    """Run the recurrence from the left, the right, the top and the bottom.

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
        forward, backward = recurrent_scan(both, pair.flatten(), chunk).chunk(2, 1)
        found.append(torch.stack([forward, backward.flip(3)], 1))
    return torch.cat([found[0], found[1].transpose(3, 4)], 1)
