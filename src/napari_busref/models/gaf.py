"""GAF, the gradient-aware fusion network mounted on the bus (BusReF, section "fusion")."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from kornia.filters import laplacian
from torch import Tensor, nn

from napari_busref.models.bus import Bus
from napari_busref.models.whole import largest_of, mean_of, over_image


@dataclass(frozen=True)
class GafConfig:
    """Architecture of :class:`Gaf`; stored on the weights' card.

    Attributes
    ----------
    bus_channels : int
        Channels of the bus it is mounted on.
    width : int
        Channels of the fusion features.
    """

    bus_channels: int = 64
    width: int = 24


class GradientAttention(nn.Module):
    """Spatial attention on the Laplacian of the features: (B, C, H, W) -> map (B, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, padding_mode="reflect")

    def forward(self, features: Tensor) -> Tensor:
        """Map in (0, 1) of where the features change."""
        gradient = laplacian(features, 3).abs()
        pooled = torch.cat([gradient.amax(1, keepdim=True), gradient.mean(1, keepdim=True)], 1)
        return torch.sigmoid(self.conv(pooled))


class ModalityWeights(nn.Module):
    """MLP from pooled features of both modalities to channel weights that sum to one over them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2 * width)
        )

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, C, 1, 1) of both modalities from pooled features (B, C)."""
        weights = (
            self.mlp(torch.cat([visible, infrared], 1)).unflatten(1, (2, self.width)).softmax(1)
        )
        return weights[:, 0, :, None, None], weights[:, 1, :, None, None]


class Gaf(nn.Module):
    """Fuse a registered pair on features of the frozen bus.

    Full-resolution features of the bus and the image enter one shared extractor. Its features are
    sharpened by a spatial attention on their Laplacian, split into a high part (max pooling) and a
    low part (average pooling), and each part is mixed over the modalities by the channel weights
    of its own MLP; output convolutions and tanh give the fused image.
    """

    stride = Bus.stride
    #: Bus: 7 px down, 64 in R1..R4, 14 up, 7 as its cells of 8 px are not centred on every pixel;
    #: then extractor 2, attention 4, pooling 1, output 3.
    reach = 7 + 64 + 14 + 7 + 2 + 4 + 1 + 3

    def __init__(self, config: GafConfig | None = None) -> None:
        super().__init__()
        self.config = config or GafConfig()
        width = self.config.width
        self.bus = Bus(self.config.bus_channels)
        self.extract = nn.Sequential(
            nn.Conv2d(
                1 + self.config.bus_channels // 4, width, 3, padding=1, padding_mode="reflect"
            ),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect"),
            nn.LeakyReLU(0.1),
        )
        self.attention = GradientAttention()
        self.high, self.low = ModalityWeights(width), ModalityWeights(width)
        self.output = nn.Sequential(
            nn.Conv2d(4 * width, width, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect"),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width // 2, 3, padding=1, padding_mode="reflect"),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width // 2, 1, 3, padding=1, padding_mode="reflect"),
        )

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return asdict(self.config)

    def features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attended features of ``image`` (B, 1, H, W), their high and their low part."""
        size = (image.shape[-2], image.shape[-1])
        shared = self.bus.decode_features(self.bus.encode(image)[-1], size)
        x = self.extract(torch.cat([image, shared], 1))
        x = x * (1 + self.attention(x))
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        low = F.avg_pool2d(padded, 3, stride=1)
        return x, F.max_pool2d(padded, 3, stride=1) - low, low

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse ``visible`` and ``infrared`` (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        v, v_high, v_low = self.features(visible)
        r, r_high, r_low = self.features(infrared)
        highest = largest_of(v_high), largest_of(r_high)
        pooled = over_image(*highest, mean_of(v_low), mean_of(r_low))
        high_v, high_r = self.high(*pooled[:2])
        low_v, low_r = self.low(*pooled[2:])
        mixed = torch.cat(
            [v, r, high_v * v_high + high_r * r_high, low_v * v_low + low_r * r_low], 1
        )
        # the mean of both is where tanh starts from: the network learns what to add to it
        return (torch.tanh(self.output(mixed) + (visible + infrared - 1)) + 1) / 2
