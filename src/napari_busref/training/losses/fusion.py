"""Our loss terms for all fusion networks: target gradients and target brightness."""

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
    """Weight of the visible image in the detail, from the local energies of both gradients.

    Parameters
    ----------
    visible, infrared : Tensor
        Gradients (B, 2, H, W).
    window : int
        Side of the window that averages the energies, odd, in pixels.
    power : float
        0 gives the mean of both, a large number selects the stronger.
    noise : float
        Gradients well below this, in image range per pixel, count as none.

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
    # equals e_v^p / (e_v^p + e_r^p), without powers of small numbers
    return torch.sigmoid(power * (energies[0].log() - energies[1].log()))


def target_gradient(
    visible: Tensor,
    infrared: Tensor,
    window: int = 5,
    power: float = 2.0,
    noise: float = 1e-4,
) -> Tensor:
    """Target gradient (B, 2, H, W) of the fused image: signed, of the stronger source.

    Both components come from one source, which keeps the direction of edges. Neighbours mostly
    share a source, so sources do not alternate between pixels. Where both are equally weak, the
    target is their mean, which suppresses noise.
    """
    first, second = (spatial_gradient(image)[:, 0] for image in (visible, infrared))
    share = energy_weights(first, second, window, power, noise)
    return share * first + (1 - share) * second


def target_image(visible: Tensor, infrared: Tensor, settings: FusionLossConfig) -> Tensor:
    """Target fused image: detail of the stronger source, target brightness in large areas.

    A Laplacian pyramid by average pooling: :func:`energy_weights` mixes both sources in each band,
    and :func:`target_brightness` gives the coarsest level. Detail and brightness then agree.

    Parameters
    ----------
    visible, infrared : Tensor
        (B, 1, H, W) in [0, 1].
    settings : FusionLossConfig
        One band for each of its ``gains``, the finest first.

    Returns
    -------
    Tensor
        (B, 1, H, W), not clipped.
    """
    height, width = visible.shape[-2:]
    pair = [pad_to_multiple(image, 1 << len(settings.gains)) for image in (visible, infrared)]
    bands = []
    for gain in settings.gains:
        first, second = (spatial_gradient(image)[:, 0] for image in pair)
        share = energy_weights(first, second, settings.window, settings.power, settings.noise)
        coarser = [F.avg_pool2d(image, 2) for image in pair]
        band, other = (
            image - upsample(coarse, (image.shape[-2], image.shape[-1]))
            for image, coarse in zip(pair, coarser, strict=True)
        )
        bands.append(gain * torch.lerp(other, band, share))
        pair = coarser
    image = target_brightness(pair[0], pair[1], settings.decision, settings.contrast)
    for band in reversed(bands):
        image = upsample(image, (band.shape[-2], band.shape[-1])) + band
    return image[..., :height, :width]


def pyramid_gradient_loss(
    fused: Tensor, visible: Tensor, infrared: Tensor, settings: FusionLossConfig
) -> Tensor:
    """Mean absolute distance of the fused gradients to their targets, summed over scales.

    Parameters
    ----------
    fused, visible, infrared : Tensor
        (B, 1, H, W) in [0, 1].
    settings : FusionLossConfig
        One scale for each of its ``gains``, at full, half, quarter... resolution. With ``image``
        the targets are the gradients of :func:`target_image`. Otherwise each scale takes those of
        the stronger source. At the border of a bright sky that is cold in the infrared image, this
        makes the sky the darker side, against the target brightness.
    """
    target = target_image(visible, infrared, settings) if settings.image else None
    loss = torch.zeros((), device=fused.device)
    for level, gain in enumerate(settings.gains):
        if level:
            fused, visible, infrared = (F.avg_pool2d(x, 2) for x in (fused, visible, infrared))
            target = None if target is None else F.avg_pool2d(target, 2)
        if target is None:
            gradient = gain * target_gradient(
                visible, infrared, settings.window, settings.power, settings.noise
            )
        else:
            gradient = spatial_gradient(target)[:, 0]
        loss = loss + (spatial_gradient(fused)[:, 0] - gradient).abs().sum(1).mean()
    return loss


def target_brightness(
    visible: Tensor, infrared: Tensor, decision: float = 0.0, contrast: float = 0.0
) -> Tensor:
    """Target brightness of large areas of the fused image.

    The mean of both sources makes a bright sky grey where the infrared image is cold. Here the
    brighter source has the greater share, and more so the more they differ. A sky stays bright,
    and so do warm people at night. The target never leaves the range of the two sources: where
    both are x, it is x. Shadows then keep their brightness, and so do saturated areas.

    Parameters
    ----------
    visible, infrared : Tensor
        (B, 1, H, W) in [0, 1].
    decision : float
        The share of the visible image is ``sigmoid(decision * (visible - infrared))``: 0 gives
        the mean of both, a large number the maximum.
    contrast : float
        Factor on the departures of the sources' sum from its mean over the image. They are added
        within the range of the sources, which restores contrast that mixing loses.
    """
    mixed = torch.lerp(infrared, visible, torch.sigmoid(decision * (visible - infrared)))
    total = visible + infrared
    target = mixed + contrast * (total - total.mean((-2, -1), keepdim=True))
    return target.clamp(torch.minimum(visible, infrared), torch.maximum(visible, infrared))


def brightness_loss(
    fused: Tensor,
    visible: Tensor,
    infrared: Tensor,
    side: int,
    *,
    decision: float = 0.0,
    contrast: float = 0.0,
) -> Tensor:
    """Mean absolute distance of the fused image's means to `target_brightness`.

    All means are over squares of ``side`` pixels.
    """
    fused, visible, infrared = (
        F.avg_pool2d(image, side, ceil_mode=True) for image in (fused, visible, infrared)
    )
    return (fused - target_brightness(visible, infrared, decision, contrast)).abs().mean()
