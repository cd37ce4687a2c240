"""Features that search and refinement compare: learned ones for range, edges for precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d, spatial_gradient
from torch import Tensor

from napari_busref.models.features.likelihood import DenseFeatures, Likelihood
from napari_busref.models.features.matcher import Matcher
from napari_busref.models.layers import largest_of_3x3, upsample
from napari_busref.registration.pyramid import MaskedImage

Size = tuple[int, int]

CELL = Matcher.stride
"""Side of a cell in pixels."""
_LOCAL_SIGMA = 5.0  # px, of local means and deviations
_BORDER_MARGIN = 3  # px, gradients next to invalid pixels show the border
_MIN_POWER = 1e-6  # squared gradient; a thousandth of the grey range in one pixel is no edge


def dense_features(
    matcher: Matcher, image: MaskedImage, *, learned: bool = True, edges: bool = True
) -> DenseFeatures:
    """Compute what `Likelihood` compares, for an image whose sides are multiples of 8.

    Features that are switched off are 0 and correlate with nothing.
    """
    valid = _erode(image.valid, _BORDER_MARGIN)
    gx, gy = (spatial_gradient(_blur(image.image, 0.7))[:, 0] * valid).split(1, 1)
    magnitude = (gx.square() + gy.square() + 1e-8).sqrt()
    gx, gy = (spatial_gradient(_blur(image.image, 1.5))[:, 0] * valid).split(1, 1)
    power = gx.square() + gy.square()
    local_valid, local_power = _local_mean(torch.cat([valid, power], 1)).split(1, 1)
    local_valid = local_valid.clamp_min(1e-3)
    local_power = local_power / local_valid
    doubled = torch.cat([gx.square() - gy.square(), 2 * gx * gy], 1)
    directions = 2 * doubled / (power + local_power + _MIN_POWER)
    maps = _standardise_locally(torch.cat([image.image, magnitude], 1), valid, local_valid)
    pixels = torch.cat([maps, directions], 1)
    if learned:
        described, finest = matcher.describe(image.image, image.valid)
    else:
        size = (image.shape[0] // CELL, image.shape[1] // CELL)
        described, finest = (
            image.image.new_zeros(len(image.image), count, *size)
            for count in (matcher.size, matcher.bus.channels // 4)
        )
    return DenseFeatures(pixels * edges, described, finest, valid)


def _standardise_locally(image: Tensor, valid: Tensor, local_valid: Tensor) -> Tensor:
    """Subtract the local mean and divide by the local deviation; 0 where not valid."""
    mean = _local_mean(image * valid) / local_valid
    departure = (image - mean) * valid
    variance = _local_mean(departure.square()) / local_valid
    return departure / (variance + 4e-5).sqrt()


def _erode(valid: Tensor, margin: int) -> Tensor:
    """The valid pixels that lie more than ``margin`` px from an invalid one."""
    if bool(valid.all()):
        return valid
    empty = F.pad(1 - valid, (margin,) * 4)
    for _ in range(margin):
        empty = largest_of_3x3(empty)
    return 1 - empty


def _local_mean(image: Tensor) -> Tensor:
    """Gaussian mean, computed at half the resolution: a tenth of the work, same features."""
    small = _blur(F.avg_pool2d(image, 2), _LOCAL_SIGMA / 2)
    return upsample(small, (image.shape[-2], image.shape[-1]))


def _blur(image: Tensor, sigma: float) -> Tensor:
    size = 2 * round(3 * sigma) + 1
    return gaussian_blur2d(image, (size, size), (sigma, sigma), "reflect")


@dataclass(frozen=True)
class MatchingNetworks:
    """The two networks of search and refinement.

    Attributes
    ----------
    matcher : Matcher
        Computes learned features.
    likelihood : Likelihood
        Combines correlations into block likelihoods.
    """

    matcher: Matcher
    likelihood: Likelihood

    @classmethod
    def load(cls, device: str | torch.device = "cpu") -> MatchingNetworks:
        """Load the shipped networks."""
        from napari_busref.models.registry import shared_model

        matcher, likelihood = (
            shared_model(name, kind="features", device=device)
            for name in ("matcher", "likelihood")
        )
        assert isinstance(matcher, Matcher)
        assert isinstance(likelihood, Likelihood)
        return cls(matcher, likelihood)


class FixedFeatures:
    """The fixed image and its features, computed once per working size.

    Parameters
    ----------
    networks : MatchingNetworks
    image : MaskedImage
        (1, 1, H, W).

    Attributes
    ----------
    resize : callable
        Size (h, w) -> `MaskedImage`.
    edges : callable
        Size and sigma -> `edge_directions`.
    dense : callable
        Size, and the switches ``learned`` and ``edges`` -> `dense_features`.
    """

    def __init__(self, networks: MatchingNetworks, image: MaskedImage) -> None:
        self.networks, self.image = networks, image
        # The caches do not refer to self: a cycle would hold the tensors until a collection.
        self.resize = cache(image.resize)
        self.edges = cache(partial(_edges_at, self.resize))
        self.dense = cache(partial(_dense_at, self.resize, networks.matcher))


def _edges_at(resize: Callable[[Size], MaskedImage], size: Size, sigma: float = 1.0) -> Tensor:
    return edge_directions(resize(size), sigma)


def _dense_at(
    resize: Callable[[Size], MaskedImage],
    matcher: Matcher,
    size: Size,
    *,
    learned: bool = True,
    edges: bool = True,
) -> DenseFeatures:
    return dense_features(matcher, resize(size), learned=learned, edges=edges)


def valid_cells(image: MaskedImage) -> Tensor:
    """1 for cells without an invalid pixel, (B, 1, h, w)."""
    return (F.avg_pool2d(image.valid, CELL) > 0.99).to(image.valid.dtype)


def edge_directions(image: MaskedImage, sigma: float = 1.0) -> Tensor:
    """Gradients with doubled angle and flattened magnitude, (B, 2, h, w), one per cell.

    ``(gx² - gy², 2 gx gy) / (|g|² + mean |g|²)``. Doubling the angle makes the sign of the
    contrast irrelevant. The division keeps strong edges from outweighing the rest. 0 at invalid
    pixels and next to them.
    """
    smooth = _blur(image.image, sigma)
    padded = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    gx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    gy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    inner = _erode(image.valid, round(2 * sigma) + 1)
    power = (gx.square() + gy.square()) * inner
    total = inner.sum((-2, -1), keepdim=True).clamp_min(1)
    mean = power.sum((-2, -1), keepdim=True) / total
    doubled = torch.cat([gx.square() - gy.square(), 2 * gx * gy], 1) * inner
    return F.avg_pool2d(doubled / (power + mean.clamp_min(_MIN_POWER)), CELL)
