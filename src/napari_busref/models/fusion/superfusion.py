"""SuperFusion's fusion network with global spatial attention."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.config import PlainConfig
from napari_busref.models.fusion.global_pooling import run_on_image
from napari_busref.models.fusion.scan import four_directions
from napari_busref.models.layers import pad_to_multiple, reflect_conv, upsample

_SLOPE = 0.1
_WIDTHS = (8, 16, 16, 32)
_DECODER = (16, 16, 8)


@dataclass(frozen=True)
class SuperFusionNetConfig(PlainConfig):
    """Architecture of :class:`SuperFusionNet`; stored on the weights' card.

    Attributes
    ----------
    attention_width : int
        Channels of the recurrent passes.
    attention_stride : int
        Resolution of the recurrent passes: 1 is that of the images, 4 a quarter of it.
    """

    attention_width: int = 16
    attention_stride: int = 4


def _chain(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [reflect_conv(inputs, width), nn.LeakyReLU(_SLOPE)]
        inputs = width
    return nn.Sequential(*layers)


class RecurrentAttention(nn.Module):
    """Spatial recurrent pass: information from a pixel's whole row and whole column.

    Parameters
    ----------
    width : int
        Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # a = sigmoid(.): 0 passes nothing on, 1 passes everything on
        self.decay = nn.Parameter(torch.full((4, width), 1.5))
        self.direction = reflect_conv(width, 4)
        self.mix = nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scan (B, C, h, w) in four directions, and weigh them at every pixel."""
        weight = torch.sigmoid(self.direction(x))
        decay = torch.sigmoid(self.decay)
        # (1 - a) keeps the sum over a line independent of its length
        source = x * (1 - decay).mean(0)[:, None, None]
        passed = four_directions(source, decay) * weight[:, :, None]
        return F.leaky_relu(self.mix(passed.flatten(1, 2)), _SLOPE)


class GlobalSpatialAttention(nn.Module):
    """GSAM: weight of each infrared feature in the fused one, in (0, 1).

    Parameters
    ----------
    channels : int
        Channels of the features of one modality.
    config : SuperFusionNetConfig
        Width and resolution.
    """

    def __init__(self, channels: int, config: SuperFusionNetConfig) -> None:
        super().__init__()
        self.stride = config.attention_stride
        width = config.attention_width
        self.enter = reflect_conv(2 * channels, width)
        self.first, self.second = RecurrentAttention(width), RecurrentAttention(width)
        self.near = nn.Conv2d(2 * channels, channels, 1)
        self.far = nn.Conv2d(width, channels, 1)

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        """Attention (B, C, H, W) from features (B, C, H, W), sides multiples of the stride."""
        both = torch.cat([infrared, visible], 1)
        small = F.avg_pool2d(both, self.stride) if self.stride > 1 else both
        x = F.leaky_relu(self.enter(small), _SLOPE)
        # whole rows and columns, also on a tile
        x = self.far(run_on_image(x, lambda whole: self.second(self.first(whole))))
        # the term of the pixel itself keeps the full resolution
        return torch.sigmoid(self.near(both) + upsample(x, (both.shape[-2], both.shape[-1])))


class SuperFusionNet(nn.Module):
    """Fusion network of SuperFusion: two encoders, GSAM, decoder.

    ``F = A F_ir + (1 - A) F_vi``. The decoder's tanh is added to the mean of both images. The
    paper instead maps it directly to [0, 1]; ours starts as a fused image.
    """

    def __init__(self, config: SuperFusionNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or SuperFusionNetConfig()
        self.stride = self.config.attention_stride
        # encoder 4, input and upsampling of the attention 2 cells each, decoder 4
        self.receptive_field = 4 + 2 * self.stride + 2 * self.stride + 4
        self.visible, self.infrared = _chain(1, _WIDTHS), _chain(1, _WIDTHS)
        self.attention = GlobalSpatialAttention(_WIDTHS[-1], self.config)
        self.decoder = nn.Sequential(_chain(_WIDTHS[-1], _DECODER), reflect_conv(_DECODER[-1], 1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return asdict(self.config)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse ``visible`` and ``infrared`` (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        height, width = visible.shape[-2:]
        visible, infrared = (pad_to_multiple(x, self.stride) for x in (visible, infrared))
        v, r = self.visible(visible), self.infrared(infrared)
        attention = self.attention(r, v)
        change = self.decoder(torch.lerp(v, r, attention))
        fused = (visible + infrared) / 2 + torch.tanh(change)
        return fused[..., :height, :width].clamp(0, 1)
