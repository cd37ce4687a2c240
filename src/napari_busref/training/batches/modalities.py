"""Second modalities made from one image: any single image then makes an aligned pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d, guided_blur, sobel
from torch import Tensor

from napari_busref.geometry import base_grid
from napari_busref.training.batches.augment import random_curve


def generated(image: Tensor, kinds: Sequence[str]) -> Tensor:
    """Turn each image (B, 1, H, W) in [0, 1] into another modality, one drawn of ``kinds``.

    It draws from torch's global generator. ``("curve",)`` equals `random_curve`.

    Parameters
    ----------
    image : Tensor
        (B, 1, H, W) in [0, 1].
    kinds : sequence of str
        Keys of ``MODALITIES``.

    Returns
    -------
    Tensor
        (B, 1, H, W) in [0, 1].

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    if unknown := set(kinds) - set(MODALITIES):
        raise ValueError(f"modalities: got {min(unknown)!r}, accepted are {', '.join(MODALITIES)}")
    if len(kinds) == 1:
        return MODALITIES[kinds[0]](image)
    drawn = torch.randint(len(kinds), (len(image),)).tolist()
    return torch.cat(
        [MODALITIES[kinds[number]](one) for number, one in zip(drawn, image.split(1), strict=True)]
    )


def _uniform(image: Tensor, low: float, high: float) -> Tensor:
    """One random number for each image, (B, 1, 1, 1)."""
    return low + (high - low) * torch.rand(len(image), 1, 1, 1).to(image)


def _stretched(image: Tensor) -> Tensor:
    """Each image over the full range [0, 1]."""
    low, high = image.amin((-2, -1), keepdim=True), image.amax((-2, -1), keepdim=True)
    return (image - low) / (high - low).clamp_min(1e-6)


def _blurred(image: Tensor, low: float, high: float) -> Tensor:
    """Gaussian blur of a random sigma in pixels, the same for all images."""
    sigma = low + (high - low) * float(torch.rand(()))
    size = 2 * round(3 * sigma) + 1
    return gaussian_blur2d(image, (size, size), (sigma, sigma), "reflect")


def _inverted(image: Tensor) -> Tensor:
    return 1 - image


def _network(image: Tensor, width: int = 8) -> Tensor:
    """A small convolutional network with random weights, its own for each image."""
    count = len(image)
    x = 4 * (image - 0.5).view(1, count, *image.shape[-2:])
    for inputs, outputs in ((1, width), (width, width), (width, 1)):
        weight = torch.randn(count * outputs, inputs, 3, 3).to(image) / (3 * inputs**0.5)
        bias = torch.randn(count * outputs).to(image)
        x = F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), weight, bias, groups=count).tanh()
    return _stretched(x.view_as(image))


def _edges(image: Tensor) -> Tensor:
    """Nothing but the strength of edges, bright on dark or dark on bright."""
    strength = sobel(_blurred(image, 0.5, 1.5))
    drawn = (strength / strength.mean((-2, -1), keepdim=True).clamp_min(1e-6) / 4).clamp(0, 1)
    return torch.where(_uniform(image, 0, 1) < 0.5, drawn, 1 - drawn)


def _regions(image: Tensor, fine: int = 5, coarse: int = 3) -> Tensor:
    """Flat regions of random grey, as maps have: level sets of a fine and a coarse blur."""
    levels = [
        (_stretched(_blurred(image, *sigmas)) * count).long().clamp(max=count - 1)
        for sigmas, count in (((0.7, 2.0), fine), ((6.0, 12.0), coarse))
    ]
    greys = torch.rand(len(image), fine * coarse).to(image)
    return greys.gather(1, (levels[0] * coarse + levels[1]).flatten(1)).view_as(image)


def _speckle(image: Tensor) -> Tensor:
    """A random curve under multiplicative noise of 2 to 8 looks, as radar has."""
    looks = _uniform(image, 2, 8).expand_as(image)
    noise = torch._standard_gamma(looks.cpu()).to(image) / looks
    return (0.6 * (random_curve(image) + 0.1) * noise).clamp(0, 1)


def _depth(image: Tensor) -> Tensor:
    """Smooth surfaces with sharp rims on a slope, as depth maps have."""
    surfaces = random_curve(guided_blur(image, image, 9, 0.02).clamp(0, 1), knots=4)
    x, y = base_grid(image.shape[-2], image.shape[-1], image)[0].unbind(-1)
    slope = _uniform(image, -0.5, 0.5) * x + _uniform(image, -0.5, 0.5) * y
    return _stretched(surfaces + slope)


def _dark(image: Tensor) -> Tensor:
    """Little light: steep gamma, a low level, and noise that grows with the light."""
    light = _uniform(image, 0.1, 0.5) * image.clamp_min(1e-4) ** _uniform(image, 1.2, 2.5)
    noise = torch.randn(image.shape).to(image)
    return (light + noise * (0.004 * light + 1e-4).sqrt()).clamp(0, 1)


def _glare(image: Tensor) -> Tensor:
    """A bright veil around a random place, saturated at its centre."""
    points = base_grid(image.shape[-2], image.shape[-1], image)
    centre = torch.cat([_uniform(image, -1, 1), _uniform(image, -1, 1)], -1)
    apart = (points - centre).square().sum(-1)[:, None]
    veil = (-apart / (2 * _uniform(image, 0.15, 0.6).square())).exp()
    return (image + _uniform(image, 0.5, 1.5) * veil).clamp(0, 1)


MODALITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "curve": random_curve,
    "inverted": _inverted,
    "network": _network,
    "edges": _edges,
    "regions": _regions,
    "speckle": _speckle,
    "depth": _depth,
    "dark": _dark,
    "glare": _glare,
}
"""What ``augment.modalities`` may name: images (B, 1, H, W) in [0, 1] to such images."""
