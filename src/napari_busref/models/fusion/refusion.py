"""ReFusion: one light fusion module for many tasks, with a learned loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from kornia.filters import spatial_gradient
from torch import Tensor, nn

from napari_busref.models.config import PlainConfig
from napari_busref.models.fusion.global_pooling import pool_image, products_of
from napari_busref.models.layers import pad_to_multiple, reflect_conv, upsample

_SLOPE = 0.1
_EDGE = 1e-3


@dataclass(frozen=True)
class ReFusionConfig(PlainConfig):
    """Architecture of :class:`ReFusion`; stored on the weights' card.

    Attributes
    ----------
    width : int
        Channels of each source; twice as many after their interaction.
    heads : int
        Heads of the channel-wise attention.
    stride : int
        Resolution of the transformer blocks: 1 is that of the images (the paper), 2 half of it.
        The stems and the output convolutions always use the full resolution.
    prior : str
        Initial preference of the fusion and the proposed loss: both sources are ``"equal"``, or
        the ``"brighter"`` one at a pixel or the ``"sharper"`` one around it.
    """

    width: int = 16
    heads: int = 8
    stride: int = 2
    prior: str = "equal"


class LossWeights(NamedTuple):
    """Weights of the proposed loss at every pixel, (B, 1, H, W) each.

    Attributes
    ----------
    first, second : Tensor
        Weights of the distances to both sources' intensities; their sum is 1.
    gradient : Tensor
        Weight of the distance to the stronger gradient, in (0, 2).
    """

    first: Tensor
    second: Tensor
    gradient: Tensor


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every pixel's channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Attention between channels ("transposed"), whose matrices do not grow with the image.

    Parameters
    ----------
    width, heads : int
        Channels, and groups of channels with separate attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.query = reflect_conv(width, width, 1)
        self.key_value = reflect_conv(width, 2 * width, 1)
        self.query_near = reflect_conv(width, width, groups=width)
        self.key_value_near = reflect_conv(2 * width, 2 * width, groups=2 * width)
        self.output = reflect_conv(width, width, 1)

    def forward(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """Attend in ``x`` (B, C, H, W) with queries from ``queries`` (by default ``x``)."""
        query = self.query_near(self.query(x if queries is None else queries))
        key, value = self.key_value_near(self.key_value(x)).chunk(2, 1)
        split = (self.heads, x.shape[1] // self.heads)
        both = torch.cat([part.flatten(2).unflatten(1, split) for part in (query, key)], 2)
        shape = (*both.shape[:3], x.shape[2], x.shape[3])
        # the products hold all lengths and angles of queries and keys
        (products,) = pool_image(products_of(both.view(shape), both.view(shape)))
        lengths = products.diagonal(dim1=2, dim2=3).clamp_min(1e-12).sqrt()
        cosines = products / lengths[..., None] / lengths[..., None, :]
        attention = (cosines[..., : split[1], split[1] :] * self.temperature).softmax(3)
        mixed = attention @ value.flatten(2).unflatten(1, split)
        y: Tensor = self.output(mixed.flatten(1, 2).unflatten(2, x.shape[2:]))
        return y


class FeedForward(nn.Module):
    """Gated depth-wise feed-forward with expansion 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = reflect_conv(width, 4 * width, 1)
        self.near = reflect_conv(4 * width, 4 * width, groups=4 * width)
        self.leave = reflect_conv(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        gate, value = self.near(self.enter(x)).chunk(2, 1)
        y: Tensor = self.leave(F.gelu(gate) * value)
        return y


class Block(nn.Module):
    """Transformer block: channel attention and feed-forward, each after a norm and with a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))
        self.attention, self.feed = ChannelAttention(width, heads), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = x + self.attention(self.norms[0](x))
        y: Tensor = x + self.feed(self.norms[1](x))
        return y


class Interaction(nn.Module):
    """Attention of each source with the other's queries, then a gate from both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))
        self.attentions = nn.ModuleList(ChannelAttention(width, heads) for _ in range(2))
        self.gate = reflect_conv(2 * width, 2 * width, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, C, H, W) of both -> (B, 2 C, H, W)."""
        a, b = self.norms[0](first), self.norms[1](second)
        both = torch.cat(
            [first + self.attentions[0](a, queries=b), second + self.attentions[1](b, queries=a)],
            1,
        )
        return both * F.gelu(self.gate(both))


def _three_convolutions(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        reflect_conv(inputs, width),
        nn.LeakyReLU(_SLOPE),
        reflect_conv(width, width),
        nn.LeakyReLU(_SLOPE),
        reflect_conv(width, outputs),
    )


def _sharpness(image: Tensor, side: int = 11, noise: float = 0.002) -> Tensor:
    """Four times the logarithm of the gradient energy in a square around each pixel."""
    energy = spatial_gradient(image)[:, 0].square().sum(1, keepdim=True)
    padded = F.pad(energy, [side // 2] * 4, mode="replicate")
    return 4 * (F.avg_pool2d(padded, side, stride=1) + noise**2).log()


#: Initial logit of a source's weight: maps (B, 1, H, W) to the same shape.
PRIORS: dict[str, Callable[[Tensor], Tensor]] = {
    "equal": torch.zeros_like,
    "brighter": lambda image: 20 * image,
    "sharper": _sharpness,
}


class FusionModule(nn.Module):
    """Two sources (B, 1, H, W) -> fused (B, 1, H, W) in (0, 1)."""

    def __init__(self, config: ReFusionConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.stride, self.prior = config.stride, PRIORS[config.prior]
        self.stems = nn.ModuleList(reflect_conv(1, width) for _ in range(2))
        self.branches = nn.ModuleList(
            nn.Sequential(Block(width, heads), Block(width, heads)) for _ in range(2)
        )
        self.interaction = Interaction(width, heads)
        self.blocks = nn.Sequential(Block(2 * width, heads), Block(2 * width, heads))
        self.output = nn.Sequential(
            reflect_conv(4 * width, width), nn.LeakyReLU(_SLOPE), reflect_conv(width, 2)
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Fuse images whose sides are multiples of the stride."""
        size = (first.shape[-2], first.shape[-1])
        fine = [stem(image) for stem, image in zip(self.stems, (first, second), strict=True)]
        coarse = [
            branch(F.avg_pool2d(x, self.stride) if self.stride > 1 else x)
            for branch, x in zip(self.branches, fine, strict=True)
        ]
        together = upsample(self.blocks(self.interaction(*coarse)), size)
        share, change = self.output(torch.cat([together, *fine], 1)).chunk(2, 1)
        # the sigmoid starts from a mixture of both sources, initially that of the prior. Copying
        # one source is then easy, and where both are black (or white) the fused image is too, to
        # less than half a grey level of 255
        prior = self.prior(first) - self.prior(second)
        share = torch.sigmoid(share + prior).to(first.dtype)
        mixture = torch.lerp(second, first, share).clamp(_EDGE, 1 - _EDGE)
        return torch.sigmoid(change + torch.logit(mixture))


class ReFusion(nn.Module):
    """Fusion module, reconstruction module and loss-proposal module.

    Only the first fuses; the others define its loss. The proposed weights of that loss tell which
    source counts at each pixel: :meth:`loss_weights`.
    """

    #: Receptive field of the loss weights, dominated by the squares of the prior.
    weights_receptive_field = 1 + 5

    def __init__(self, config: ReFusionConfig | None = None) -> None:
        super().__init__()
        self.config = config or ReFusionConfig()
        width, self.stride = self.config.width, self.config.stride
        # stem 1, nine depth-wise convolutions, upsampling 2 cells, output 2
        self.receptive_field = 1 + 9 * self.stride + 2 * self.stride + 2
        self.fusion = FusionModule(self.config)
        self.reconstruction = _three_convolutions(1, width, 2)
        self.proposal = _three_convolutions(2, width, 3)
        nn.init.zeros_(self.proposal[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.proposal[-1].bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return asdict(self.config)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse two sources (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        height, width = visible.shape[-2:]
        pair = (pad_to_multiple(image, self.stride) for image in (visible, infrared))
        fused: Tensor = self.fusion(*pair)
        return fused[..., :height, :width]

    def reconstruct(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct both sources (B, 1, H, W) from the fused image alone."""
        first, second = self.reconstruction(fused).chunk(2, 1)
        return first, second

    def loss_weights(self, visible: Tensor, infrared: Tensor) -> LossWeights:
        """Weights of the learned loss at every pixel, from the two sources (B, 1, H, W).

        ``first`` is the weight of ``visible``, ``second`` that of ``infrared``.
        """
        logits = self.proposal(torch.cat([visible, infrared], 1))
        prior = self.fusion.prior(visible) - self.fusion.prior(infrared)
        return weights_from_logits(logits + F.pad(prior, (0, 0, 0, 0, 0, 2)))


def weights_from_logits(logits: Tensor) -> LossWeights:
    """Loss weights from the output of the loss-proposal module, (B, 3, H, W)."""
    first, second = logits[:, :2].softmax(1).chunk(2, 1)
    return LossWeights(first, second, 2 * torch.sigmoid(logits[:, 2:]))
