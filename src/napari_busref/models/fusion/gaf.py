"""GAF, the gradient-aware fusion network on the bus (BusReF, section "fusion")."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.config import PlainConfig
from napari_busref.models.features.bus import Bus
from napari_busref.models.fusion.global_pooling import mean_of, pool_image
from napari_busref.models.layers import (
    conv_of_parts,
    largest_of_3x3,
    mean_of_3x3,
    pad_to_multiple,
    upsample,
)

_SLOPE = 0.1


@dataclass(frozen=True)
class GafConfig(PlainConfig):
    """Architecture of :class:`Gaf`; stored on the weights' card.

    Attributes
    ----------
    bus_channels : int
        Channels of the bus.
    width : int
        Channels of the fusion features at each scale.
    """

    bus_channels: int = 64
    width: int = 12


class GradientAttention(nn.Module):
    """Gradient map of each modality, (B, 1, H, W), from the Laplacians of its features.

    Where one modality has the larger Laplacian, its map is near 1 and the other's near 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, padding_mode="replicate")
        # initially the local mean of the magnitudes
        nn.init.constant_(self.conv.weight, 1 / 49)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Maps in (0, 1) that sum to 1, from Laplacians (B, C, H, W)."""
        logits = []
        for laplacian in (visible, infrared):
            gradient = laplacian.abs()
            pooled = [gradient.amax(1, keepdim=True), gradient.mean(1, keepdim=True)]
            logits.append(self.conv(torch.cat(pooled, 1)))
        scale = logits[0].detach().abs().add(logits[1].detach().abs()).add(1e-3)
        first = torch.sigmoid(self.sharpness * (logits[0] - logits[1]) / scale)
        return first, 1 - first


class ModalityWeights(nn.Module):
    """MLP from pooled features of both modalities to channel weights; the two sum to 1."""

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


@dataclass(frozen=True)
class Parts:
    """Features of one modality at one scale.

    Attributes
    ----------
    features, high, low, laplacian : Tensor
        (B, width, h, w): the features, their high and low part and their Laplacian.
    """

    features: Tensor
    high: Tensor
    low: Tensor
    laplacian: Tensor


class GafScale(nn.Module):
    """One scale of :class:`Gaf`.

    Parameters
    ----------
    inputs : int
        Input channels of each modality.
    width : int
        Channels of the features.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        kernel = 3 if inputs <= 64 else 1
        self.extract = nn.Conv2d(
            inputs, width, kernel, padding=kernel // 2, padding_mode="reflect"
        )
        self.attention = GradientAttention()
        self.high, self.low = ModalityWeights(width), ModalityWeights(width)
        self.mix = nn.Conv2d(5 * width, width, 1)
        self.refine = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect")
        self.output = nn.Conv2d(3 * width, 1, 3, padding=1, padding_mode="reflect")

    def split(self, image: Tensor) -> Parts:
        """Features of the input (B, inputs, h, w), and their parts."""
        x = self.extract(image)
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        low = mean_of_3x3(padded)
        # the 8-neighbour Laplacian is nine times the difference of local mean and value
        return Parts(x, largest_of_3x3(padded) - low, low, 9 * (low - x))

    def forward(
        self, visible: Parts, infrared: Parts, pooled: list[Tensor], coarser: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fuse one scale.

        Parameters
        ----------
        visible, infrared : Parts
            From :meth:`split`.
        pooled : list of Tensor
            (B, width), means over the image of both high parts and of both low parts.
        coarser : Tensor
            (B, width, h, w), from the coarser scale.

        Returns
        -------
        features, change : Tensor
            (B, width, h, w) for the next scale, and the change of the image, (B, 1, h, w).
        """
        v_map, r_map = self.attention(visible.laplacian, infrared.laplacian)
        v, r = visible.features * v_map, infrared.features * r_map
        high_v, high_r = self.high(*pooled[:2])
        low_v, low_r = self.low(*pooled[2:])
        high = high_v * v_map * visible.high + high_r * r_map * infrared.high
        low = low_v * visible.low + low_r * infrared.low
        x = F.leaky_relu(conv_of_parts(self.mix, [v, r, high, low, coarser]), _SLOPE)
        x = F.leaky_relu(self.refine(x), _SLOPE)
        return x, conv_of_parts(self.output, [x, v, r])


class Gaf(nn.Module):
    """Fuse a registered pair on features of the frozen bus.

    At full, half, quarter and eighth resolution, one extractor for both modalities takes the image
    and the bus activations. The Laplacians of its features give a spatial attention: the gradient
    map of each modality. Max pooling separates the high part of the features, average pooling the
    low part. Two MLPs weigh the modalities in each part, channel by channel. Output convolutions,
    coarse to fine, and tanh give a change, which is added to the mean of both images.
    """

    stride = Bus.stride
    #: Coarse to fine: bus 7 px down, 64 in R1..R4, 7 for off-centre cells, then 6 cells of 8 px.
    #: Upsampling takes a cell, and each finer scale two of its own.
    receptive_field = 7 + 64 + 7 + 6 * 8 + (8 + 2 * 4) + (4 + 2 * 2) + (2 + 2)

    def __init__(self, config: GafConfig | None = None) -> None:
        super().__init__()
        self.config = config or GafConfig()
        width, channels = self.config.width, self.config.bus_channels
        self.bus = Bus(channels)
        inputs = (1, 1 + channels // 4, 1 + channels // 2, 1 + 4 * channels)
        self.scales = nn.ModuleList(GafScale(number, width) for number in inputs)

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return asdict(self.config)

    def inputs(self, image: Tensor) -> list[Tensor]:
        """Inputs of the scales, fine to coarse; the sides of ``image`` are multiples of 8."""
        scales = [image]
        for level, features in enumerate(self.bus.pyramid(image), 1):
            small = F.avg_pool2d(image, 2**level)
            scales.append(torch.cat([small, features], 1))
        return scales

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse ``visible`` and ``infrared`` (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        height, width = visible.shape[-2:]
        visible, infrared = (pad_to_multiple(x, self.stride) for x in (visible, infrared))
        visible_parts, infrared_parts = (
            [scale.split(x) for scale, x in zip(self.scales, self.inputs(image), strict=True)]  # type: ignore[operator]
            for image in (visible, infrared)
        )
        pairs = list(zip(visible_parts, infrared_parts, strict=True))
        # one call for all scales: each call costs a pass over the tiles of a large image
        means = pool_image(
            *(mean_of(part) for v, r in pairs for part in (v.high, r.high, v.low, r.low))
        )
        coarsest = pairs[-1][0].features
        features, change = torch.zeros_like(coarsest), torch.zeros_like(coarsest[:, :1])
        for level in reversed(range(len(pairs))):
            v, r = pairs[level]
            size = (v.features.shape[-2], v.features.shape[-1])
            features, step = self.scales[level](
                v, r, means[4 * level : 4 * level + 4], upsample(features, size)
            )
            change = upsample(change, size) + step
        fused = (visible + infrared) / 2 + torch.tanh(change)
        return fused[..., :height, :width].clamp(0, 1)
