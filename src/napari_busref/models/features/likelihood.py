"""How likely each displacement of a block is, given two pictures that nearly fit.

Our addition to BusReF. Several correlations are looked at, of pixels, of edges and of learned
features, over one block and over the blocks around it; a small network, the same for every block
and every displacement, says what they are worth together. It is trained by the likelihood of the
true displacement of known warps, so that what it says can be weighed against what is known of
displacement fields: that they are smooth (`napari_busref.registration.em_fit`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.layers import unit_length
from napari_busref.runtime.device import narrow

CELL = 2
"""Pixels of a cell of the learned features."""
_REACHES = (1, 3, 5)  # sides of the squares of blocks whose correlations are averaged
_MAPS = (1, 1, 2)  # channels of the maps of pixels, see `DenseFeatures`
_CELLS = (1, 1, 1, CELL, CELL)  # pixels of a cell of what is correlated
_KINDS = len(_CELLS)
_BESIDE = max(_REACHES) // 2
_BAND = 2048  # blocks that are looked at together
_TOGETHER = 128  # blocks whose intermediate results stay in the processor's cache
_GAIN = 4.0  # brings correlations to about 1


@dataclass(frozen=True)
class DenseFeatures:
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

    def forward(self, fixed: DenseFeatures, moving: DenseFeatures, every: int = 1) -> Tensor:
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
        targets = [_GAIN * x for x in self._maps(fixed, None)]
        sources = [  # with as much emptiness around as blocks may be displaced
            F.pad(x, (self.radius // cell,) * 4)
            for x, cell in zip(self._maps(moving, moving.known), _CELLS, strict=True)
        ]
        rows, cols = (n // self.block for n in fixed.known.shape[-2:])
        # all at once, a large image would need gigabytes
        height = max(_BAND // cols // every, 1) * every
        bands = []
        for start in range(0, rows, height):
            band = (start, min(start + height, rows))
            bands.append(self._weigh(self._correlations(targets, sources, band, every)))
        return torch.cat(bands, 2)

    def _weigh(self, correlations: Tensor) -> Tensor:
        """(B, reaches * kinds, rows, cols, offsets) -> (B, offsets, rows, cols)."""
        parts = []
        for flat in correlations.flatten(2, 3).split(_together(correlations.device), 2):
            gain, shift = self.context(_summary(flat)[..., None]).chunk(2, 1)
            # the modalities' contrasts may be opposite
            x = torch.cat([flat, flat[:, ::_KINDS].abs()], 1)
            x = torch.addcmul(shift, self.enter(x), 1 + gain).relu_()
            parts.append(self.leave(self.inner(x).relu_())[:, 0])
        whole = torch.cat(parts, 1).unflatten(1, correlations.shape[2:4])
        return whole.permute(0, 3, 1, 2).float()

    def _maps(self, local: DenseFeatures, known: Tensor | None) -> list[Tensor]:
        """What is correlated with what; with ``known``, cells that hold no picture are 0."""
        cells: Tensor | float = 1.0
        if known is not None:
            cells = (F.avg_pool2d(known, CELL) > 0.99).to(known.dtype)
        features = [
            (x * cells).contiguous(memory_format=torch.channels_last)
            for x in (local.learned, self.fine(local))
        ]
        return [*local.pixels.split(_MAPS, 1), *features]

    def _correlations(
        self, fixed: list[Tensor], moving: list[Tensor], band: tuple[int, int], every: int
    ) -> Tensor:
        """(B, reaches * kinds, rows, cols, offsets) of a band of rows, the reaches outermost."""
        total = fixed[0].shape[-2] // self.block
        # rows whose blocks are averaged with those of the band; it begins with one of `every`
        beside = -(-_BESIDE // every) * every
        first, last = max(band[0] - beside, 0), min(band[1] + beside, total)
        strip = max(_together(fixed[0].device) // (fixed[0].shape[-1] // self.block), 1)
        windows = [
            self._windows(fixed, moving, row, min(row + strip, last))
            for row in range(first, last, strip)
        ]
        # the offsets last in memory: pooling is ten times as fast so
        x = torch.cat(windows, 1).unflatten(1, (last - first, -1)).flatten(3)
        rows = slice((band[0] - first) // every, -(-(band[1] - first) // every))
        pooled = [
            F.avg_pool2d(x.permute(0, 3, 1, 2), reach, every, reach // 2, count_include_pad=False)[
                :, :, rows
            ]
            for reach in _REACHES
        ]
        return torch.cat([y.unflatten(1, (_KINDS, -1)).permute(0, 1, 3, 4, 2) for y in pooled], 1)

    def _windows(self, fixed: list[Tensor], moving: list[Tensor], first: int, last: int) -> Tensor:
        """Correlations of the blocks of some rows, (B, blocks, kinds, side, side)."""
        windows = []
        for one, other, cell in zip(fixed, moving, _CELLS, strict=True):
            block, radius = self.block // cell, self.radius // cell
            window = (block_correlation if cell == 1 else cell_windows)(
                one[..., first * block : last * block, :],
                other[..., first * block : last * block + 2 * radius, :],
                block,
                radius,
            )
            if cell > 1:
                side = 2 * self.radius + 1
                window = F.interpolate(window, (side, side), mode="bilinear", align_corners=True)
            windows.append(window)
        return torch.stack(windows, 2)


def _together(device: torch.device) -> int:
    """Blocks of one strip: few for a processor's cache, many for a GPU, where each call costs."""
    return _TOGETHER if device.type == "cpu" else _BAND


def _summary(correlations: Tensor) -> Tensor:
    """(B, K, N, M) -> mean, standard deviation and largest over M, (B, 3 K, N)."""
    count = correlations.shape[-1]
    mean = correlations.mean(-1)
    # torch.std is thirty times as slow
    squares = torch.linalg.vector_norm(correlations, dim=-1).square()
    variance = (squares - count * mean.square()) / (count - 1)
    return torch.cat([mean, variance.clamp_min(1e-12).sqrt(), correlations.amax(-1)], 1)


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

    def forward(self, local: DenseFeatures) -> Tensor:
        edges = F.avg_pool2d(local.pixels[:, -2:], CELL)
        x = torch.cat([F.instance_norm(local.finest), edges], 1)
        with narrow(x.device):
            x = self.enter(x)
            for block in self.blocks:
                x = x + block(x)
            x = self.leave(x).float()
        return unit_length(x - x.mean((-2, -1), keepdim=True))


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
    """What `block_correlation` gives; faster for many channels, by products of matrices.

    Fastest where the channels are last in memory.
    """
    side, reach = block + 2 * radius, 2 * radius + 1
    own, around = (
        _patches(image, size, block).movedim(2, -1).flatten(2, 3)
        for image, size in ((fixed, block), (moving, side))
    )
    product = own @ around.transpose(2, 3)
    product = product.unflatten(3, (side, side)).unflatten(2, (block, block))
    # cell (i, j) with offset (y, x) stands at row i + y, column j + x of the surroundings
    rows = [product[:, :, i, :, i : i + reach] for i in range(block)]
    summed = torch.stack(rows).sum(0)
    columns = [summed[:, :, j, :, j : j + reach] for j in range(block)]
    return torch.stack(columns).mean(0) / block


def _patches(image: Tensor, side: int, step: int) -> Tensor:
    """Squares of (B, C, H, W), every ``step`` pixels: (B, N, C, side, side)."""
    patches = image.unfold(2, side, step).unfold(3, side, step)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
