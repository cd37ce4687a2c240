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

from napari_busref.device import narrow

CELL = 2
"""Pixels of a cell of the learned features."""
_REACHES = (1, 3, 5)  # sides of the squares of blocks whose correlations are averaged
_MAPS = (1, 1, 2)  # channels of the maps of pixels, see `Local`
_KINDS = len(_MAPS) + 2
_BESIDE = max(_REACHES) // 2
_BAND = 2048  # blocks that are looked at together
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
        sources = self._maps(moving, moving.known)
        targets = self._maps(fixed, None)
        rows, cols = (n // self.block for n in fixed.known.shape[-2:])
        # all at once, a large image would need gigabytes
        height = max(_BAND // cols // every, 1) * every
        bands = []
        for start in range(0, rows, height):
            band = (start, min(start + height, rows))
            bands.append(self._weigh(self._correlations(targets, sources, band, every)))
        return torch.cat(bands, 2)

    def _weigh(self, correlations: Tensor) -> Tensor:
        """(B, kinds * reaches, offsets, rows, cols) -> (B, offsets, rows, cols)."""
        rows, cols = correlations.shape[-2:]
        flat = correlations.flatten(3)
        seen = torch.cat([flat.mean(2), flat.std(2), flat.amax(2)], 1)[..., None]
        gain, shift = self.context(seen)[..., 0][:, :, None].chunk(2, 1)
        # the modalities' contrasts may be opposite
        x = torch.cat([flat, flat[:, ::_KINDS].abs()], 1)
        x = F.relu(self.enter(x) * (1 + gain) + shift)
        x = F.relu(self.inner(x))
        return self.leave(x)[:, 0].unflatten(2, (rows, cols)).float()

    def _maps(self, local: Local, known: Tensor | None) -> list[Tensor]:
        """What is correlated with what; with ``known``, cells that hold no picture are 0."""
        cells: Tensor | float = 1.0
        if known is not None:
            cells = (F.avg_pool2d(known, CELL) > 0.99).to(known.dtype)
        return [*local.pixels.split(_MAPS, 1), local.learned * cells, self.fine(local) * cells]

    def _correlations(
        self, fixed: list[Tensor], moving: list[Tensor], band: tuple[int, int], every: int
    ) -> Tensor:
        """(B, kinds * reaches, offsets, rows, cols) of a band of rows, the reaches outermost."""
        total = fixed[0].shape[-2] // self.block
        # rows whose blocks are averaged with those of the band; it begins with one of `every`
        beside = -(-_BESIDE // every) * every
        first, last = max(band[0] - beside, 0), min(band[1] + beside, total)
        windows = []
        for index, (one, other) in enumerate(zip(fixed, moving, strict=True)):
            cell = 1 if index < len(_MAPS) else CELL
            block, radius = self.block // cell, self.radius // cell
            window = (block_correlation if cell == 1 else cell_windows)(
                one[..., first * block : last * block, :],
                _beside(other, first * block, last * block, radius),
                block,
                radius,
            )
            if cell > 1:
                side = 2 * self.radius + 1
                window = F.interpolate(window, (side, side), mode="bilinear", align_corners=True)
            windows.append(window)
        # (B, kinds, blocks, side, side) -> (B, kinds * offsets, rows, cols)
        x = torch.stack(windows, 1).flatten(3).transpose(2, 3)
        x = _GAIN * x.flatten(1, 2).unflatten(2, (last - first, -1))
        rows = slice((band[0] - first) // every, -(-(band[1] - first) // every))
        pooled = [
            F.avg_pool2d(x, reach, every, reach // 2, count_include_pad=False)[:, :, rows]
            for reach in _REACHES
        ]
        return torch.stack(pooled, 1).unflatten(2, (_KINDS, -1)).flatten(1, 2)


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
        x = torch.cat([F.instance_norm(local.finest), edges], 1)
        with narrow(x.device):
            x = self.enter(x)
            for block in self.blocks:
                x = x + block(x)
            x = self.leave(x).float()
        return F.normalize(x - x.mean((-2, -1), keepdim=True), dim=1, eps=1e-4)


def block_correlation(fixed: Tensor, moving: Tensor, block: int, radius: int) -> Tensor:
    """Mean products of the blocks of ``fixed`` with ``moving``, shifted.

    Parameters
    ----------
    fixed : Tensor
        (B, C, H, W), H and W multiples of ``block``.
    moving : Tensor
        (B, C, H + 2 radius, W + 2 radius), ``radius`` pixels more on each side.
    block, radius : int
        In pixels.

    Returns
    -------
    Tensor
        (B, blocks, 2 radius + 1, 2 radius + 1), summed over the channels.
    """
    own = _patches(fixed, block, block)
    around = _patches(moving, block + 2 * radius, block)
    # one convolution a block and channel, each with a kernel of its own
    kernels = own.flatten(0, 2)[:, None]
    windows = F.conv2d(around.flatten(0, 2)[None], kernels, groups=len(kernels))[0]
    return windows.unflatten(0, own.shape[:3]).sum(2) / block**2


def cell_windows(fixed: Tensor, moving: Tensor, block: int, radius: int) -> Tensor:
    """What `block_correlation` gives; faster for many channels, by products of matrices."""
    side, reach = block + 2 * radius, 2 * radius + 1
    own = _patches(fixed, block, block).flatten(3)
    around = _patches(moving, side, block).flatten(3)
    product = (
        (own.transpose(2, 3) @ around).unflatten(3, (side, side)).unflatten(2, (block, block))
    )
    # cell (i, j) with offset (y, x) stands at row i + y, column j + x of the surroundings
    *outer, of_i, of_j, of_y, of_x = product.stride()
    window = product.as_strided(
        (*product.shape[:2], block, block, reach, reach),
        (*outer, of_i + of_y, of_j + of_x, of_y, of_x),
    )
    return window.mean((2, 3))


def _beside(image: Tensor, first: int, last: int, by: int) -> Tensor:
    """Rows ``first`` to ``last`` with ``by`` more on each side, 0 beyond the border."""
    rows = slice(max(first - by, 0), min(last + by, image.shape[-2]))
    above, below = by - (first - rows.start), by - (rows.stop - last)
    return F.pad(image[..., rows, :], (by, by, above, below))


def _patches(image: Tensor, side: int, step: int) -> Tensor:
    """Squares of (B, C, H, W), every ``step`` pixels: (B, N, C, side, side)."""
    patches = image.unfold(2, side, step).unfold(3, side, step)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
