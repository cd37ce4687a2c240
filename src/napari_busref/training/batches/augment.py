"""Photometric augmentation of both images, by kornia."""

from __future__ import annotations

import torch
from kornia.augmentation import (
    AugmentationSequential,
    RandomGamma,
    RandomGaussianBlur,
    RandomGaussianNoise,
    RandomInvert,
)
from torch import Tensor, nn

from napari_busref.training.recipe import AugmentConfig

_DARK_GAMMA, _DARK_GAIN = (1.5, 3.0), (0.3, 1.0)
_BOTH_DARK = 0.5  # of the dark samples; in the others the infrared image stays


class Photometric(nn.Module):
    """Gamma, gain, noise and blur of both images; polarity of the infrared one.

    ``dark`` darkens whole samples first, and ``flat`` replaces some by one grey level.

    It draws from torch's global generator.
    """

    def __init__(self, config: AugmentConfig) -> None:
        super().__init__()

        def chain(polarity: float) -> AugmentationSequential:
            return AugmentationSequential(
                RandomGamma(config.gamma, config.gain, p=0.8),
                RandomInvert(p=polarity),
                RandomGaussianBlur((7, 7), (0.2, max(config.blur, 0.2)), p=0.3),
                RandomGaussianNoise(std=config.noise, p=0.5),
                data_keys=["input"],
            )

        self.config = config
        self.visible = chain(0.0)
        self.infrared = chain(config.polarity)

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Augment (B, 1, H, W) images in [0, 1] independently; results stay in [0, 1]."""
        if self.config.dark:
            visible, infrared = _darken(visible, infrared, self.config.dark)
        visible, infrared = self.visible(visible).clamp(0, 1), self.infrared(infrared).clamp(0, 1)
        if self.config.flat:
            chosen, level = torch.rand(2, len(visible), 1, 1, 1).to(visible)
            flat = chosen < self.config.flat
            visible, infrared = (torch.where(flat, level, x) for x in (visible, infrared))
        return visible, infrared


def _darken(visible: Tensor, infrared: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Darken a random part of the samples, each by its own gamma and gain."""
    draws = torch.rand(4, len(visible), 1, 1, 1).to(visible)
    gamma, gain = (
        low + (high - low) * draw
        for (low, high), draw in zip((_DARK_GAMMA, _DARK_GAIN), draws[:2], strict=True)
    )
    dark = draws[2] < probability
    both = dark & (draws[3] < _BOTH_DARK)
    return (
        torch.where(dark, gain * visible.pow(gamma), visible),
        torch.where(both, gain * infrared.pow(gamma), infrared),
    )


def random_curve(image: Tensor, knots: int = 6) -> Tensor:
    """Map each image (B, 1, H, W) in [0, 1] by its own random curve, often not monotone."""
    values = torch.rand(len(image), knots).to(image.device)
    position = image.clamp(0, 1) * (knots - 1)
    lower = position.floor().clamp(max=knots - 2)
    index = lower.long().flatten(1)
    below = values.gather(1, index).view_as(image)
    above = values.gather(1, index + 1).view_as(image)
    return below + (above - below) * (position - lower)
