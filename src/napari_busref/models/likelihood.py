"""How likely each displacement of a block is, given two pictures that nearly fit.

Our addition to BusReF. Several correlations are looked at, of pixels, of edges and of learned
features, over one block and over the blocks around it; a small network, the same for every block
and every displacement, says what they are worth together. It is trained by the likelihood of the
true displacement of known warps, so that what it says can be weighed against what is known of
displacement fields: that they are smooth (`napari_busref.matching.posterior`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 2
"""Pixels of a cell of the learned features."""
_REACHES = (1, 3, 5)  # sides of the squares of blocks whose correlations are averaged
_MAPS = (1, 1, 2)  # channels of the maps of pixels, see `Local`
_KINDS = len(_MAPS) + 2
_GAIN = 4.0  # brings correlations to about 1


@dataclass(frozen=True)
class Local:
    """What is compared of images (B, 1, H, W), H and W multiples of 8.

    Attributes
    ----------
    pixels : Tensor
        (B, 4, H, W): grey values and gradient magnitude, both less their local mean and divided
        by their local deviation, and the two channels of the edges' directions.
    learned : Tensor
        Descriptors of `Matcher`, (B, D, H / 2, W / 2), unit length.
    finest : Tensor
        First scale of the bus, (B, C, H / 2, W / 2).
    known : Tensor
        (B, 1, H, W), 1 for pixels that hold a picture.
    """

    pixels: Tensor
    learned: Tensor
    finest: Tensor
    known: Tensor


class Likelihood(nn.Module):
    """Correlations of two images -> log-likelihood of the displacements of each block.

    Parameters
    ----------
    channels : int
        Of the bus's first scale.
    size : int
        Length of the local features that are learned here.
    width : int
        Channels of the network that weighs the correlations.
    radius : int
        Of the window of displacements, in pixels; even.
    """

    block = 8
    """Side of a block, in pixels."""

    def __init__(
        self, channels: int = 16, size: int = 24, width: int = 24, radius: int = 10
    ) -> None:
        super().__init__()
        self._settings: dict[str, object] = {
            "channels": channels,
            "size": size,
            "width": width,
            "radius": radius,
        }
        self.radius = radius
        self.fine = _Fine(channels + 2, size)
        count = _KINDS * len(_REACHES)
        self.context = nn.Sequential(
            nn.Conv2d(3 * count, 32, 1), nn.ReLU(), nn.Conv2d(32, 2 * width, 1)
        )
        self.enter = nn.Conv2d(count + len(_REACHES), width, 1)
        self.inner = nn.Conv2d(width, width, 1)
        self.leave = nn.Conv2d(width, 1, 1)

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return dict(self._settings)

    def forward(self, fixed: Local, moving: Local, every: int = 1) -> Tensor:
        """Log-likelihoods, up to a constant for each block.

        Parameters
        ----------
        fixed, moving : Local
            Of one size.
        every : int
            Answer only for every so many blocks along rows and columns, beginning with the first:
            neighbours look at much the same pixels.

        Returns
        -------
        Tensor
            (B, (2 radius + 1)**2, rows, cols), float32, of the blocks asked for; row offsets
            outermost. The offset is where the block's content lies in ``moving``, relative to the
            block.
        """
        correlations = self.correlations(fixed, moving, every)
        rows, cols = correlations.shape[-2:]
        flat = correlations.flatten(3)  # (B, K, offsets, blocks)
        seen = torch.cat([flat.mean(2), flat.std(2), flat.amax(2)], 1)[..., None]
        gain, shift = self.context(seen)[..., 0][:, :, None].chunk(2, 1)
        # the modalities' contrasts may be opposite
        x = torch.cat([flat, flat[:, ::_KINDS].abs()], 1)
        x = F.relu(self.enter(x) * (1 + gain) + shift)
        x = F.relu(self.inner(x))
        return self.leave(x)[:, 0].unflatten(2, (rows, cols)).float()

    def correlations(self, fixed: Local, moving: Local, every: int = 1) -> Tensor:
        """(B, kinds * reaches, offsets, rows, cols), the reaches outermost."""
        rows, cols = (n // self.block for n in fixed.known.shape[-2:])
        windows = [
            block_correlation(first, second, self.block, self.radius)
            for first, second in zip(
                fixed.pixels.split(_MAPS, 1), moving.pixels.split(_MAPS, 1), strict=True
            )
        ]
        known = (F.avg_pool2d(moving.known, CELL) > 0.99).to(moving.known.dtype)
        for first, second in (
            (fixed.learned, moving.learned),
            (self.fine(fixed), self.fine(moving)),
        ):
            windows.append(self._of_cells(first, second * known))
        # (B, blocks, kinds, side, side) -> (B, kinds * offsets, rows, cols)
        x = torch.stack(windows, 1).flatten(3).transpose(2, 3)
        x = _GAIN * x.flatten(1, 2).unflatten(2, (rows, cols))
        pooled = [
            F.avg_pool2d(x, reach, every, reach // 2, count_include_pad=False)
            for reach in _REACHES
        ]
        return torch.cat([p.unflatten(1, (_KINDS, -1)) for p in pooled], 1)

    def _of_cells(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Correlation of feature maps, interpolated to offsets of a pixel."""
        window = cell_windows(fixed, moving, self.block // CELL, self.radius // CELL)
        side = 2 * self.radius + 1
        return F.interpolate(window, (side, side), mode="bilinear", align_corners=True)


class _Fine(nn.Module):
    """Features of a small neighbourhood, unit length: what tells the pixel, not the place."""

    def __init__(self, inputs: int, size: int, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=d, dilation=d, padding_mode="reflect"),
                nn.InstanceNorm2d(width, affine=True),
                nn.ReLU(),
            )
            for d in (1, 1, 2)
        )
        self.leave = nn.Conv2d(width, size, 1)

    def forward(self, local: Local) -> Tensor:
        edges = F.avg_pool2d(local.pixels[:, -2:], CELL)
        x = self.enter(torch.cat([F.instance_norm(local.finest), edges], 1))
        for block in self.blocks:
            x = x + block(x)
        x = self.leave(x).float()
        return F.normalize(x - x.mean((-2, -1), keepdim=True), dim=1, eps=1e-4)


def block_correlation(fixed: Tensor, moving: Tensor, block: int, radius: int) -> Tensor:
    """Mean products of the blocks of ``fixed`` with ``moving``, shifted; by FFT.

    Parameters
    ----------
    fixed, moving : Tensor
        (B, C, H, W), H and W multiples of ``block``.
    block, radius : int
        In pixels.

    Returns
    -------
    Tensor
        (B, blocks, 2 radius + 1, 2 radius + 1), summed over the channels; ``moving`` counts as 0
        beyond its border.
    """
    side, reach = block + 2 * radius, 2 * radius + 1
    spectrum = torch.fft.rfft2(_patches(fixed, block, block), (side, side)).conj()
    product = (torch.fft.rfft2(_patches(_padded(moving, radius), side, block)) * spectrum).sum(2)
    return torch.fft.irfft2(product, (side, side))[..., :reach, :reach] / block**2


def cell_windows(fixed: Tensor, moving: Tensor, block: int, radius: int) -> Tensor:
    """What `block_correlation` gives, for many channels: by products of matrices."""
    side, reach = block + 2 * radius, 2 * radius + 1
    own = _patches(fixed, block, block).flatten(3)
    around = _patches(_padded(moving, radius), side, block).flatten(3)
    product = (own.transpose(2, 3) @ around).unflatten(3, (side, side)).unflatten(2, (block, block))
    # cell (i, j) with offset (y, x) stands at row i + y, column j + x of the surroundings
    *outer, of_i, of_j, of_y, of_x = product.stride()
    window = product.as_strided(
        (*product.shape[:2], block, block, reach, reach),
        (*outer, of_i + of_y, of_j + of_x, of_y, of_x),
    )
    return window.mean((2, 3))


def _padded(image: Tensor, by: int) -> Tensor:
    return F.pad(image, (by, by, by, by))


def _patches(image: Tensor, side: int, step: int) -> Tensor:
    """Squares of (B, C, H, W), every ``step`` pixels: (B, N, C, side, side)."""
    patches = image.unfold(2, side, step).unfold(3, side, step)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
