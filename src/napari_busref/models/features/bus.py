"""The bus: one auto-encoder with features for both modalities (BusReF, reconstructor)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.layers import pad_to_multiple


class ResidualModule(nn.Module):
    """Feature-extraction module R: two 3x3 convolutions around a skip, (B, C, h, w) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the convolutions to ``x`` (B, C, h, w)."""
        return F.relu_(self.body(x) + x)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    # reflect padding: zero padding reveals the border, and features trained on aligned pairs then
    # match by position instead of content
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.ReLU(inplace=True),
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, 4 * outputs, 3, padding=1, padding_mode="reflect"),
        nn.PixelShuffle(2),
        nn.ReLU(),
    )


class Bus(nn.Module):
    """Auto-encoder: three down-sampling modules, R1..R4, three up-sampling modules.

    Parameters
    ----------
    channels : int
        Channels of F1..F4 at an eighth of the resolution; halved at each finer scale.

    Notes
    -----
    Takes images of any size: pads by reflection to multiples of 8 and crops again.
    """

    stride = 8
    levels = 4

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {channels}")
        self.channels = channels
        half, quarter = channels // 2, channels // 4
        self.down = nn.ModuleList([_down(1, quarter), _down(quarter, half), _down(half, channels)])
        self.extract = nn.ModuleList(ResidualModule(channels) for _ in range(self.levels))
        self.up = nn.ModuleList([_up(channels, half), _up(half, quarter), _up(quarter, quarter)])
        self.head = nn.Conv2d(quarter, 1, 3, padding=1, padding_mode="reflect")

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return {"channels": self.channels}

    def encode(self, image: Tensor) -> list[Tensor]:
        """F1..F4 of ``image`` (B, 1, H, W) in [0, 1]: four (B, C, ceil(H/8), ceil(W/8))."""
        return self._extract(self._scales(image)[-1])

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Activations of ``image`` (B, 1, H, W), fine to coarse.

        (B, C/4, h/2, w/2), (B, C/2, h/4, w/4) and F1..F4 as one (B, 4 C, h/8, w/8), where h and w
        are H and W rounded up to multiples of 8.
        """
        *finer, coarsest = self._scales(image)
        return [*finer, torch.cat(self._extract(coarsest), 1)]

    def decode_features(self, deepest: Tensor, size: tuple[int, int]) -> Tensor:
        """Full-resolution features (B, C/4, H, W) from F4, before the last convolution."""
        x = deepest
        for module in self.up:
            x = module(x)
        return x[..., : size[0], : size[1]]

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct ``image`` (B, 1, H, W) -> (B, 1, H, W), not clipped."""
        size = (image.shape[-2], image.shape[-1])
        return self.head(self.decode_features(self.encode(image)[-1], size))

    def _scales(self, image: Tensor) -> list[Tensor]:
        scales = [pad_to_multiple(image, self.stride)]
        for module in self.down:
            scales.append(module(scales[-1]))
        return scales[1:]

    def _extract(self, x: Tensor) -> list[Tensor]:
        features = []
        for module in self.extract:
            x = module(x)
            features.append(x)
        return features


def standardise(image: Tensor, valid: Tensor | None = None) -> Tensor:
    """Scale the valid pixels of (B, 1, H, W) to mean 0.5 and deviation 0.2; set the rest to 0.5.

    The bus then gets both modalities and every exposure on one scale. A constant image stays
    constant.
    """
    weight = torch.ones_like(image) if valid is None else (valid > 0.5).to(image.dtype)
    total = weight.sum((-2, -1), keepdim=True).clamp_min(1)
    mean = (image * weight).sum((-2, -1), keepdim=True) / total
    centred = (image - mean) * weight
    deviation = (centred.square().sum((-2, -1), keepdim=True) / total).sqrt()
    return 0.5 + 0.2 * centred / deviation.clamp_min(1e-3)
