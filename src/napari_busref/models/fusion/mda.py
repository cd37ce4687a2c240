"""MDA: multi-scale fusion with dual attention over five pairs of scales."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.config import PlainConfig
from napari_busref.models.fusion.global_pooling import mean_of, pool_image
from napari_busref.models.layers import pad_to_multiple, reflect_conv, upsample

#: Pairs of scales of the infrared and the visible features to fuse.
PAIRS = ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2))


@dataclass(frozen=True)
class MdaConfig(PlainConfig):
    """Architecture of :class:`Mda`; stored on the weights' card.

    Attributes
    ----------
    width : int
        Channels of the features, a multiple of 8 (32 in the paper).
    """

    width: int = 16


class Joined(NamedTuple):
    """Features of one of the ``PAIRS``, (B, C, h, w) each: both sources, and fused."""

    infrared: Tensor
    visible: Tensor
    fused: Tensor


class ResidualDown(nn.Module):
    """Residual down-sampling: a branch of three convolutions and an averaging one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            reflect_conv(width, width, 1),
            nn.PReLU(width),
            reflect_conv(width, width, stride=2),
            nn.PReLU(width),
            reflect_conv(width, width, 1),
        )
        self.short = nn.Sequential(nn.AvgPool2d(2), reflect_conv(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        y: Tensor = self.body(x) + self.short(x)
        return y


class ResidualUp(nn.Module):
    """Residual up-sampling by two that halves the channels, in two branches."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        outputs = inputs // 2
        self.body = nn.Sequential(
            reflect_conv(inputs, inputs, 1),
            nn.PReLU(inputs),
            nn.ConvTranspose2d(inputs, outputs, 2, stride=2),
            nn.PReLU(outputs),
            reflect_conv(outputs, outputs, 1),
        )
        self.short = reflect_conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C/2, 2 H, 2 W)."""
        short = F.interpolate(self.short(x), scale_factor=2, mode="bilinear", align_corners=False)
        y: Tensor = self.body(x) + short
        return y


class DualAttention(nn.Module):
    """Channel attention and spatial attention, one sigmoid head for each modality.

    Parameters
    ----------
    width : int
        Channels of each modality.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        squeezed = max(2 * width // 8, 4)
        self.squeeze = nn.Sequential(nn.Linear(2 * width, squeezed), nn.PReLU(squeezed))
        self.channel = nn.Linear(squeezed, 2 * width)
        self.spatial = nn.Sequential(
            reflect_conv(2 * width, width // 2, 1),
            nn.PReLU(width // 2),
            reflect_conv(width // 2, width // 2, stride=2),
            nn.PReLU(width // 2),
            nn.ConvTranspose2d(width // 2, 2, 2, stride=2),
        )

    def forward(self, infrared: Tensor, visible: Tensor, means: Tensor) -> Tensor:
        """Fuse two feature maps (B, C, H, W), H and W even.

        ``means`` (B, 2 C) holds the means of the infrared, then of the visible features.
        """
        both = torch.cat([infrared, visible], 1)
        channel = torch.sigmoid(self.channel(self.squeeze(means)))
        of_ir, of_vis = channel[:, :, None, None].chunk(2, 1)
        spatial = torch.sigmoid(self.spatial(both))
        return infrared * of_ir * spatial[:, :1] + visible * of_vis * spatial[:, 1:]


class Mda(nn.Module):
    """Fuse a registered pair by dual attention over scales.

    The features of both modalities at full, half and quarter resolution are fused in the five
    pairs of ``PAIRS``, after upsampling the coarser infrared ones. The results are upsampled to
    full resolution. Two convolutions and tanh give a change, which is added to the mean of both
    images. The paper instead maps tanh directly to [0, 1]; ours starts as a fused image.
    """

    stride = 8
    #: Stem 1; to half and to quarter resolution 1 and 2; upsampling of the infrared features 4;
    #: strided attention two cells of 8; upsampling 4 and 2; output 2.
    receptive_field = 1 + 1 + 2 + 4 + 16 + 4 + 2 + 2

    def __init__(self, config: MdaConfig | None = None) -> None:
        super().__init__()
        self.config = config or MdaConfig()
        width = self.config.width
        if width % 8:
            raise ValueError(f"width must be a multiple of 8, got {width}")
        self.stems = nn.ModuleList(
            nn.Sequential(reflect_conv(1, width), nn.PReLU(width)) for _ in range(2)
        )
        self.downs = nn.ModuleList(ResidualDown(width) for _ in range(4))
        self.attentions = nn.ModuleList(DualAttention(width) for _ in PAIRS)
        self.ups = nn.ModuleList(
            nn.Sequential(*(ResidualUp(width >> step) for step in range(visible)))
            for _, visible in PAIRS
        )
        total = sum(width >> visible for _, visible in PAIRS)
        self.output = nn.Sequential(
            reflect_conv(total, width), nn.PReLU(width), reflect_conv(width, 1)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return asdict(self.config)

    def _features(self, image: Tensor, modality: int) -> list[Tensor]:
        scales = [self.stems[modality](image)]
        for level in range(2):
            scales.append(self.downs[2 * modality + level](scales[-1]))
        return scales

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse ``visible`` and ``infrared`` (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        return self.fuse_features(visible, infrared)[0]

    def fuse_features(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, list[Joined]]:
        """Like ``forward``, with the features of every pair, which the feature loss compares."""
        height, width = visible.shape[-2:]
        visible, infrared = (pad_to_multiple(x, self.stride) for x in (visible, infrared))
        of_ir, of_vis = self._features(infrared, 0), self._features(visible, 1)
        # one call for all pairs: each call costs a pass over the tiles of a large image
        means = pool_image(*(mean_of(x) for x in (*of_ir, *of_vis)))
        count = len(of_ir)
        pairs, fused = [], []
        for (i, j), attention, up in zip(PAIRS, self.attentions, self.ups, strict=True):
            first = upsample(of_ir[i], (of_vis[j].shape[-2], of_vis[j].shape[-1]))
            pooled = torch.cat([means[i], means[count + j]], 1)
            pairs.append(Joined(first, of_vis[j], attention(first, of_vis[j], pooled)))
            fused.append(up(pairs[-1].fused))
        change = torch.tanh(self.output(torch.cat(fused, 1)))
        image = ((visible + infrared) / 2 + change)[..., :height, :width].clamp(0, 1)
        return image, pairs
