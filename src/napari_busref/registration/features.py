"""What is compared: learned descriptors for range, directions of edges for precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d, spatial_gradient
from torch import Tensor

from napari_busref.models.features.likelihood import DenseFeatures, Likelihood
from napari_busref.models.features.matcher import Matcher
from napari_busref.models.layers import largest_of_3x3, upsample
from napari_busref.registration.pyramid import MaskedImage

CELL = Matcher.stride
"""Pixels of a cell."""
_SURROUNDINGS = 5.0  # sigma of what is local, in pixels
_MARGIN = 3


def dense_features(
    matcher: Matcher, view: MaskedImage, *, learned: bool = True, pixels: bool = True
) -> DenseFeatures:
    """What `Likelihood` compares of a view whose sides are multiples of 8.

    What is switched off is 0, and correlates with nothing.
    """
    # what lies next to the border of the content shows the border
    known = _inner(view.valid, _MARGIN)
    gx, gy = (spatial_gradient(_blurred(view.image, 0.7))[:, 0] * known).split(1, 1)
    sharp = (gx.square() + gy.square() + 1e-8).sqrt()
    gx, gy = (spatial_gradient(_blurred(view.image, 1.5))[:, 0] * known).split(1, 1)
    power = gx.square() + gy.square()
    around, usual = _surroundings(torch.cat([known, power], 1)).split(1, 1)
    around = around.clamp_min(1e-3)
    usual = usual / around
    doubled = torch.cat([gx.square() - gy.square(), 2 * gx * gy], 1)
    # 1e-6: a thousandth of the grey range for one pixel is no edge
    directions = 2 * doubled / (power + usual + 1e-6)
    maps = _standardised(torch.cat([view.image, sharp], 1), known, around)
    compared = torch.cat([maps, directions], 1)
    if learned:
        described, finest = matcher.describe(view.image, view.valid)
    else:
        size = (view.shape[0] // CELL, view.shape[1] // CELL)
        described, finest = (
            view.image.new_zeros(len(view.image), count, *size)
            for count in (matcher.size, matcher.bus.channels // 4)
        )
    return DenseFeatures(compared * pixels, described, finest, known)


def _standardised(image: Tensor, known: Tensor, around: Tensor) -> Tensor:
    """Less its local mean and divided by its local deviation; 0 where not known."""
    mean = _surroundings(image * known) / around
    departure = (image - mean) * known
    variance = _surroundings(departure.square()) / around
    return departure / (variance + 4e-5).sqrt()


def _inner(valid: Tensor, margin: int) -> Tensor:
    """The valid pixels that lie further than ``margin`` from all others."""
    if bool(valid.all()):
        return valid
    empty = F.pad(1 - valid, (margin,) * 4)
    for _ in range(margin):
        empty = largest_of_3x3(empty)
    return 1 - empty


def _surroundings(image: Tensor) -> Tensor:
    """Blurred at half the resolution, which is a tenth of the work and the same to the eye."""
    small = _blurred(F.avg_pool2d(image, 2), _SURROUNDINGS / 2)
    return upsample(small, (image.shape[-2], image.shape[-1]))


def _blurred(image: Tensor, sigma: float) -> Tensor:
    size = 2 * round(3 * sigma) + 1
    return gaussian_blur2d(image, (size, size), (sigma, sigma), "reflect")


@dataclass(frozen=True)
class MatchingNetworks:
    """By what search and refinement compare.

    Attributes
    ----------
    matcher : Matcher
        Describes places.
    likelihood : Likelihood
        Weighs what fits nearly.
    """

    matcher: Matcher
    likelihood: Likelihood

    @classmethod
    def load(cls, device: str | torch.device = "cpu") -> MatchingNetworks:
        """The shipped ones."""
        from napari_busref.models import load_model

        matcher, likelihood = (
            load_model(name, device=device) for name in ("matcher", "likelihood")
        )
        assert isinstance(matcher, Matcher)
        assert isinstance(likelihood, Likelihood)
        return cls(matcher, likelihood)


class FixedFeatures:
    """The fixed image, described once at each working size.

    Parameters
    ----------
    networks : Networks, optional
        Describe it; without, there are only edges.
    view : View
        (1, 1, H, W).
    """

    def __init__(self, networks: MatchingNetworks | None, view: MaskedImage) -> None:
        self.networks, self.view = networks, view
        self._views: dict[tuple[int, int], MaskedImage] = {}
        self._local: dict[tuple[tuple[int, int], bool, bool], DenseFeatures] = {}
        self._edges: dict[tuple[tuple[int, int], float], Tensor] = {}

    def resized(self, size: tuple[int, int]) -> MaskedImage:
        """The image at a working size."""
        if size not in self._views:
            self._views[size] = self.view.resized(size)
        return self._views[size]

    def edges(self, size: tuple[int, int], sigma: float = 1.0) -> Tensor:
        """`edge_directions` at a working size."""
        if (size, sigma) not in self._edges:
            self._edges[size, sigma] = edge_directions(self.resized(size), sigma)
        return self._edges[size, sigma]

    def local(
        self, size: tuple[int, int], *, learned: bool = True, pixels: bool = True
    ) -> DenseFeatures:
        """What `dense_features` gives at a working size."""
        key = (size, learned, pixels)
        if key not in self._local:
            assert self.networks is not None
            self._local[key] = dense_features(
                self.networks.matcher, self.resized(size), learned=learned, pixels=pixels
            )
        return self._local[key]


def valid_cells(view: MaskedImage) -> Tensor:
    """1 for cells that hold a picture, (B, 1, h, w)."""
    return (F.avg_pool2d(view.valid, CELL) > 0.99).to(view.valid.dtype)


def edge_directions(view: MaskedImage, sigma: float = 1.0) -> Tensor:
    """Gradients doubled in angle and flattened, (B, 2, h, w) at half the resolution.

    ``(gx² - gy², 2 gx gy) / (|g|² + mean |g|²)``: a bright and a dark side count the same, and
    strong edges do not outweigh the rest. 0 where the view is not valid or next to that.
    """
    smooth = _blurred(view.image, sigma)
    padded = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    gx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    gy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    inner = _inner(view.valid, round(2 * sigma) + 1)
    power = (gx.square() + gy.square()) * inner
    total = inner.sum((-2, -1), keepdim=True).clamp_min(1)
    mean = power.sum((-2, -1), keepdim=True) / total
    doubled = torch.cat([gx.square() - gy.square(), 2 * gx * gy], 1) * inner
    # 1e-6: a thousandth of the grey range for one pixel is no edge
    return F.avg_pool2d(doubled / (power + mean.clamp_min(1e-6)), CELL)
