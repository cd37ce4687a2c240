"""Losses of the fusion networks that are not BusReF's own (those are in ``losses``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.filters import spatial_gradient
from torch import Tensor

from napari_busref.models.layers import pad_to_multiple, upsample
from napari_busref.training.recipe import FusionLossConfig


def energy_weights(
    visible: Tensor, infrared: Tensor, window: int, power: float, noise: float
) -> Tensor:
    """Share of the visible image in the detail, from the local energies of both gradients.

    Parameters
    ----------
    visible, infrared : Tensor
        Gradients (B, 2, H, W).
    window : int
        Side of the window of the energies, odd, in pixels.
    power : float
        0 is the mean of both, a large number chooses the stronger.
    noise : float
        Gradients well below this, in the images' range a pixel, are as good as none.

    Returns
    -------
    Tensor
        (B, 1, H, W) in [0, 1].
    """
    energies = []
    for gradient in (visible, infrared):
        energy = gradient.square().sum(1, keepdim=True)
        padded = F.pad(energy, [window // 2] * 4, mode="replicate")
        energies.append(F.avg_pool2d(padded, window, stride=1) + noise**2)
    # the same as e_v^p / (e_v^p + e_r^p), without powers of small numbers
    return torch.sigmoid(power * (energies[0].log() - energies[1].log()))


def target_gradient(
    visible: Tensor,
    infrared: Tensor,
    window: int = 5,
    power: float = 2.0,
    noise: float = 1e-4,
) -> Tensor:
    """Gradient (B, 2, H, W) that the fused image should have: signed, of the stronger source.

    Both components come from one source, and neighbours from the same one, so that edges keep
    their direction and sources do not alternate from pixel to pixel. Where both are equally weak
    it is their mean, which noise does not survive.
    """
    first, second = (spatial_gradient(image)[:, 0] for image in (visible, infrared))
    share = energy_weights(first, second, window, power, noise)
    return share * first + (1 - share) * second


def target_image(visible: Tensor, infrared: Tensor, wanted: FusionLossConfig) -> Tensor:
    """Fused image whose detail is the stronger source's and whose large areas are wanted ones.

    A Laplacian pyramid of means of squares: in each band both sources are mixed as
    :func:`energy_weights` says, what is left over is :func:`wanted_brightness`. So detail and
    brightness are asked for at once and do not contradict each other.

    Parameters
    ----------
    visible, infrared : Tensor
        (B, 1, H, W) in [0, 1].
    wanted : FusionLossConfig
        There is a band for each of its ``gains``, the finest first.

    Returns
    -------
    Tensor
        (B, 1, H, W), not clipped.
    """
    height, width = visible.shape[-2:]
    pair = [pad_to_multiple(image, 1 << len(wanted.gains)) for image in (visible, infrared)]
    bands = []
    for gain in wanted.gains:
        first, second = (spatial_gradient(image)[:, 0] for image in pair)
        share = energy_weights(first, second, wanted.window, wanted.power, wanted.noise)
        coarser = [F.avg_pool2d(image, 2) for image in pair]
        band, other = (
            image - upsample(coarse, (image.shape[-2], image.shape[-1]))
            for image, coarse in zip(pair, coarser, strict=True)
        )
        bands.append(gain * torch.lerp(other, band, share))
        pair = coarser
    image = wanted_brightness(pair[0], pair[1], wanted.decision, wanted.contrast)
    for band in reversed(bands):
        image = upsample(image, (band.shape[-2], band.shape[-1])) + band
    return image[..., :height, :width]


def pyramid_gradient_loss(
    fused: Tensor, visible: Tensor, infrared: Tensor, wanted: FusionLossConfig
) -> Tensor:
    """Mean absolute distance of the fused gradients to the wanted ones, summed over scales.

    Parameters
    ----------
    fused, visible, infrared : Tensor
        (B, 1, H, W) in [0, 1].
    wanted : FusionLossConfig
        There is a scale for each of its ``gains``, at full, half, quarter... resolution. With
        ``image`` the gradients are those of :func:`target_image`. Otherwise each scale asks for
        the stronger source's: at the border of a bright sky that is cold in the infrared image
        this makes the sky the darker side, whatever is wanted of large areas.
    """
    target = target_image(visible, infrared, wanted) if wanted.image else None
    loss = torch.zeros((), device=fused.device)
    for level, gain in enumerate(wanted.gains):
        if level:
            fused, visible, infrared = (F.avg_pool2d(x, 2) for x in (fused, visible, infrared))
            target = None if target is None else F.avg_pool2d(target, 2)
        if target is None:
            gradient = gain * target_gradient(
                visible, infrared, wanted.window, wanted.power, wanted.noise
            )
        else:
            gradient = spatial_gradient(target)[:, 0]
        loss = loss + (spatial_gradient(fused)[:, 0] - gradient).abs().sum(1).mean()
    return loss


def wanted_brightness(
    visible: Tensor, infrared: Tensor, decision: float = 0.0, contrast: float = 0.0
) -> Tensor:
    """Brightness that large areas of the fused image should have.

    The mean of both sources makes a bright sky grey where the infrared one is cold. Here the
    brighter source has the greater share, the more so the more they differ, so that a sky stays
    bright and so do warm people at night.

    Parameters
    ----------
    visible, infrared : Tensor
        (B, 1, H, W) in [0, 1].
    decision : float
        The share of the visible image is ``sigmoid(decision * (visible - infrared))``: 0 is the
        mean of both, a large number the maximum.
    contrast : float
        How much of the departures of both from mid grey is added: a mixture has less contrast
        than its sources.
    """
    mixed = torch.lerp(infrared, visible, torch.sigmoid(decision * (visible - infrared)))
    return (mixed + contrast * (visible + infrared - 1)).clamp(0, 1)


def brightness_loss(
    fused: Tensor,
    visible: Tensor,
    infrared: Tensor,
    side: int,
    *,
    decision: float = 0.0,
    contrast: float = 0.0,
) -> Tensor:
    """Mean absolute distance of the means of squares of ``side`` to the wanted ones.

    What is wanted, `wanted_brightness` says, from the means of the sources.
    """
    fused, visible, infrared = (
        F.avg_pool2d(image, side, ceil_mode=True) for image in (fused, visible, infrared)
    )
    return (fused - wanted_brightness(visible, infrared, decision, contrast)).abs().mean()
