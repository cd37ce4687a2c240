"""Small steps that the fusion networks share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
