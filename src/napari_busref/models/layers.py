"""Operations and blocks that several networks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad ``image`` (B, C, H, W) at the bottom and the right to multiples of a number.

    Mirrors the image, or repeats the border of one too small to mirror.
    """
    bottom, right = -image.shape[-2] % multiple, -image.shape[-1] % multiple
    if not (bottom or right):
        return image
    mirrored = bottom < image.shape[-2] and right < image.shape[-1]
    return F.pad(image, (0, right, 0, bottom), mode="reflect" if mirrored else "replicate")


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Anti-aliased bilinear resampling of (B, C, h, w) to ``size``, or the tensor itself."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def working_size(height: int, width: int, side: int, min_cells: int) -> tuple[int, int]:
    """Size with the area of a square of ``side`` px and the image's aspect ratio.

    Both sides are multiples of 8, at least ``min_cells`` of them; the aspect ratio is limited to
    1:3.
    """
    aspect = min(max(width / height, 1 / 3), 3.0)
    rows = max(round(side / aspect**0.5 / 8), min_cells) * 8
    cols = max(round(side * aspect**0.5 / 8), min_cells) * 8
    return rows, cols


def reflect_conv(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Convolution that keeps the size (at stride 1) by reflect padding."""
    return nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=kernel // 2,
        padding_mode="reflect",
        groups=groups,
    )


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear enlargement of (B, C, h, w) to ``size``, or the tensor itself."""
    if tuple(x.shape[-2:]) == size:
        return x
    if x.dtype == torch.bfloat16 and x.shape[1] >= 8:  # takes half the time on a CPU
        x = x.contiguous(memory_format=torch.channels_last)
    return F.interpolate(x, size, mode="bilinear", align_corners=False).contiguous()


def unit_length(x: Tensor, dim: int = 1, least: float = 1e-4) -> Tensor:
    """Divide vectors along ``dim`` by their length, or by ``least`` if that is larger."""
    # torch.nn.functional.normalize is ten times slower along any axis but the last
    return x * x.square().sum(dim, keepdim=True).clamp_min(least**2).rsqrt()


def conv_of_parts(conv: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """``conv(torch.cat(parts, 1))`` without the concatenation, which takes more time.

    Parameters
    ----------
    conv : Conv2d
        With stride 1 and a bias.
    parts : sequence of Tensor
        (B, C_i, H, W); the C_i add up to the input channels of ``conv``.
    """
    weights = conv.weight.split([part.shape[1] for part in parts], 1)
    found = conv._conv_forward(parts[0], weights[0], conv.bias)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        found = found + conv._conv_forward(part, weight, None)
    return found


def largest_of_3x3(x: Tensor) -> Tensor:
    """Maximum of each 3 x 3 px of (B, C, H, W): (B, C, H-2, W-2)."""
    return _rows_then_columns(x, torch.maximum)


def sum_of_3x3(x: Tensor) -> Tensor:
    """Sum of each 3 x 3 px of (B, C, H, W): (B, C, H-2, W-2)."""
    return _rows_then_columns(x, torch.add)


def sum_of_taps(taps: Tensor) -> Tensor:
    """Sum the nine products of a 3x3 convolution to one output, each at its place.

    Parameters
    ----------
    taps : Tensor
        (B, 9, H, W): every pixel times each weight, row by row. The border is reflected.

    Returns
    -------
    Tensor
        (B, 1, H, W).
    """
    height, width = taps.shape[-2:]
    padded = F.pad(taps, (1, 1, 1, 1), mode="reflect")
    found = taps.new_zeros(len(taps), 1, height, width)
    for tap in range(9):
        row, col = divmod(tap, 3)
        found += padded[:, tap : tap + 1, row : row + height, col : col + width]
    return found


def in_blocks(
    compute: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    coarser: Tensor,
    block: tuple[int, int] = (128, 512),
    halo: int = 8,
) -> Tensor:
    """Apply `compute` to blocks of an image, which stay in the processor's cache.

    Large tensors are new memory at every operation, which costs more than the arithmetic.

    Parameters
    ----------
    compute : callable
        Maps (B, C, h, w) and (B, C', h / 2, w / 2) to (B, C'', h, w).
    image : Tensor
        (B, C, H, W).
    coarser : Tensor
        (B, C', H / 2, W / 2).
    block : tuple of int
        Rows and columns, even.
    halo : int
        How far a pixel may lie and still change another one; even.
    """
    height, width = image.shape[-2:]
    if height <= block[0] and width <= block[1]:
        return compute(image, coarser)
    found = None
    for top in range(0, height, block[0]):
        for left in range(0, width, block[1]):
            rows = slice(max(top - halo, 0), min(top + block[0] + halo, height))
            cols = slice(max(left - halo, 0), min(left + block[1] + halo, width))
            down, right = (slice(side.start // 2, side.stop // 2) for side in (rows, cols))
            part = compute(image[..., rows, cols], coarser[..., down, right])
            if found is None:
                found = part.new_empty(*part.shape[:2], height, width)
            target = found[..., top : top + block[0], left : left + block[1]]
            at = top - rows.start, left - cols.start
            size = target.shape[-2:]
            target.copy_(part[..., at[0] : at[0] + size[0], at[1] : at[1] + size[1]])
    assert found is not None
    return found


def _rows_then_columns(x: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Join three in each row, then in each column: a fifth of the time of torch's CPU pooling."""
    x = join(join(x[..., :-2], x[..., 1:-1]), x[..., 2:])
    return join(join(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])


class DilatedBlock(nn.Sequential):
    """3x3 convolution with reflect padding, instance norm and ReLU, added to the input.

    Parameters
    ----------
    channels, dilation, groups : int
        Of the convolution.
    """

    def __init__(self, channels: int, dilation: int, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(
                channels,
                channels,
                3,
                padding=dilation,
                dilation=dilation,
                groups=groups,
                padding_mode="reflect",
            ),
            nn.InstanceNorm2d(channels, affine=True),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        plain = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if torch.is_grad_enabled() or not plain:
            return x + super().forward(x)
        # In place and with the norm by two sums: three quarters of the time on a CPU.
        conv: Any = self[0]
        norm: Any = self[1]
        found = conv._conv_forward(x, conv.weight, None)  # the norm would remove a bias
        mean = found.mean((-2, -1), keepdim=True)
        variance = found.square().mean((-2, -1), keepdim=True) - mean.square()
        scale = (variance.clamp_min(0) + norm.eps).rsqrt() * norm.weight[:, None, None]
        found = found.mul_(scale).add_(norm.bias[:, None, None] - mean * scale)
        return found.relu_().add_(x)
