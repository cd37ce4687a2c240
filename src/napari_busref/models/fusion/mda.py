"""MDA: multi-scale fusion with dual attention over five pairs of scales."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.config import PlainConfig
from napari_busref.models.fusion.global_pooling import mean_of, pool_image
from napari_busref.models.layers import pad_to_multiple, upsample

#: Scales of the infrared and of the visible features that are fused with each other.
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


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel, stride=stride, padding=kernel // 2, padding_mode="reflect"
    )


class ResidualDown(nn.Module):
    """Residual down-sampling: a branch of three convolutions and one that averages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, width, 1),
            nn.PReLU(width),
            _conv(width, width, stride=2),
            nn.PReLU(width),
            _conv(width, width, 1),
        )
        self.short = nn.Sequential(nn.AvgPool2d(2), _conv(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        y: Tensor = self.body(x) + self.short(x)
        return y


class ResidualUp(nn.Module):
    """Residual up-sampling that halves the channels: two branches, both enlarge by two."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        outputs = inputs // 2
        self.body = nn.Sequential(
            _conv(inputs, inputs, 1),
            nn.PReLU(inputs),
            nn.ConvTranspose2d(inputs, outputs, 2, stride=2),
            nn.PReLU(outputs),
            _conv(outputs, outputs, 1),
        )
        self.short = _conv(inputs, outputs, 1)

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
        Channels of either modality.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        squeezed = max(2 * width // 8, 4)
        self.squeeze = nn.Sequential(nn.Linear(2 * width, squeezed), nn.PReLU(squeezed))
        self.channel = nn.Linear(squeezed, 2 * width)
        self.spatial = nn.Sequential(
            _conv(2 * width, width // 2, 1),
            nn.PReLU(width // 2),
            _conv(width // 2, width // 2, stride=2),
            nn.PReLU(width // 2),
            nn.ConvTranspose2d(width // 2, 2, 2, stride=2),
        )

    def forward(self, infrared: Tensor, visible: Tensor, means: Tensor) -> Tensor:
        """Fused features (B, C, H, W) of two of them, H and W even.

        ``means`` (B, 2 C) are those of the infrared, then of the visible features.
        """
        both = torch.cat([infrared, visible], 1)
        channel = torch.sigmoid(self.channel(self.squeeze(means)))
        of_ir, of_vis = channel[:, :, None, None].chunk(2, 1)
        spatial = torch.sigmoid(self.spatial(both))
        return infrared * of_ir * spatial[:, :1] + visible * of_vis * spatial[:, 1:]


class Mda(nn.Module):
    """Fuse a registered pair by dual attention over scales.

    Features of either modality at full, half and quarter resolution meet in the five pairs of
    ``PAIRS``, the coarser infrared one enlarged first; what they give is brought back to full
    resolution, and two convolutions and tanh make of it what is added to the mean of both images
    (the paper maps tanh to [0, 1] as it is; ours begins as a fused image).
    """

    stride = 8
    #: Stem 1; to half and to quarter resolution 1 and 2; enlarging the infrared features 4; the
    #: strided attention there two cells of 8; up again 4 and 2; output 2.
    receptive_field = 1 + 1 + 2 + 4 + 16 + 4 + 2 + 2

    def __init__(self, config: MdaConfig | None = None) -> None:
        super().__init__()
        self.config = config or MdaConfig()
        width = self.config.width
        if width % 8:
            raise ValueError(f"width must be a multiple of 8, got {width}")
        self.stems = nn.ModuleList(
            nn.Sequential(_conv(1, width), nn.PReLU(width)) for _ in range(2)
        )
        self.downs = nn.ModuleList(ResidualDown(width) for _ in range(4))
        self.attentions = nn.ModuleList(DualAttention(width) for _ in PAIRS)
        self.ups = nn.ModuleList(
            nn.Sequential(*(ResidualUp(width >> step) for step in range(visible)))
            for _, visible in PAIRS
        )
        total = sum(width >> visible for _, visible in PAIRS)
        self.output = nn.Sequential(_conv(total, width), nn.PReLU(width), _conv(width, 1))
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
        height, width = visible.shape[-2:]
        visible, infrared = (pad_to_multiple(x, self.stride) for x in (visible, infrared))
        of_ir, of_vis = self._features(infrared, 0), self._features(visible, 1)
        # one call for all pairs: each call is a pass over the tiles of a large image
        means = pool_image(*(mean_of(x) for x in (*of_ir, *of_vis)))
        count = len(of_ir)
        fused = []
        for (i, j), attention, up in zip(PAIRS, self.attentions, self.ups, strict=True):
            size = (of_vis[j].shape[-2], of_vis[j].shape[-1])
            pooled = torch.cat([means[i], means[count + j]], 1)
            fused.append(up(attention(upsample(of_ir[i], size), of_vis[j], pooled)))
        change = torch.tanh(self.output(torch.cat(fused, 1)))
        return ((visible + infrared) / 2 + change)[..., :height, :width].clamp(0, 1)
