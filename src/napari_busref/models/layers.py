"""Small steps that networks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Continue ``image`` (B, C, H, W) at the bottom and at the right to multiples of a number.

    Mirrored where there is enough to mirror, else by repeating the border.
    """
    bottom, right = -image.shape[-2] % multiple, -image.shape[-1] % multiple
    if not (bottom or right):
        return image
    mirrored = bottom < image.shape[-2] and right < image.shape[-1]
    return F.pad(image, (0, right, 0, bottom), mode="reflect" if mirrored else "replicate")


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear enlargement of (B, C, h, w) to ``size``, or the tensor itself."""
    if tuple(x.shape[-2:]) == size:
        return x
    if x.dtype == torch.bfloat16 and x.shape[1] >= 8:  # on a CPU half the time, there and back
        x = x.contiguous(memory_format=torch.channels_last)
    return F.interpolate(x, size, mode="bilinear", align_corners=False).contiguous()


def unit_length(x: Tensor, dim: int = 1, least: float = 1e-4) -> Tensor:
    """Vectors along ``dim`` divided by their length, those shorter than ``least`` by that."""
    # torch.nn.functional.normalize is ten times as slow along anything but the last axis
    return x * x.square().sum(dim, keepdim=True).clamp_min(least**2).rsqrt()


def conv_of_parts(conv: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """What ``conv`` makes of ``torch.cat(parts, 1)``, without that copy, which is the slower part.

    Parameters
    ----------
    conv : Conv2d
        Of stride 1, with the bias.
    parts : sequence of Tensor
        (B, C_i, H, W), the C_i adding up to the channels that it reads.
    """
    weights = conv.weight.split([part.shape[1] for part in parts], 1)
    found = conv._conv_forward(parts[0], weights[0], conv.bias)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        found = found + conv._conv_forward(part, weight, None)
    return found


def largest_of_3x3(x: Tensor) -> Tensor:
    """Maximum of each 3 x 3 px of (B, C, H, W): (B, C, H-2, W-2)."""
    return _rows_then_columns(x, torch.maximum)


def mean_of_3x3(x: Tensor) -> Tensor:
    """Mean of each 3 x 3 px of (B, C, H, W): (B, C, H-2, W-2)."""
    return _rows_then_columns(x, torch.add) / 9


def _rows_then_columns(x: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Three in each row, then three in each column: on a CPU a fifth of torch's pooling."""
    x = join(join(x[..., :-2], x[..., 1:-1]), x[..., 2:])
    return join(join(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])
