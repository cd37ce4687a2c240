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


class Photometric(nn.Module):
    """Gamma, gain, noise and blur of both images; polarity of the infrared one.

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

        self.visible = chain(0.0)
        self.infrared = chain(config.polarity)

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Augment (B, 1, H, W) images in [0, 1] independently; results stay in [0, 1]."""
        return self.visible(visible).clamp(0, 1), self.infrared(infrared).clamp(0, 1)


def random_curve(image: Tensor, knots: int = 6) -> Tensor:
    """Map each image (B, 1, H, W) in [0, 1] by its own random curve, often not monotone."""
    values = torch.rand(len(image), knots).to(image.device)
    position = image.clamp(0, 1) * (knots - 1)
    lower = position.floor().clamp(max=knots - 2)
    index = lower.long().flatten(1)
    below = values.gather(1, index).view_as(image)
    above = values.gather(1, index + 1).view_as(image)
    return below + (above - below) * (position - lower)
