"""Block likelihoods: log-likelihoods over the displacements of each block of two close images.

Our addition to BusReF. Pixels, edges and learned features are correlated, over one block and over
the blocks around it. A small network, shared by all blocks and displacements, combines these
correlations into one log-likelihood. Its training maximises the likelihood of the true
displacement under known warps. `napari_busref.registration.em_fit` can therefore combine it with
a prior for smooth displacement fields.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.layers import DilatedBlock, unit_length
from napari_busref.runtime.device import narrow

CELL = 2
"""Side of a cell of the learned features, in pixels."""
_AGGREGATION_SIDES = (1, 3, 5)  # of the squares of blocks over which correlations are averaged
_PIXEL_CHANNELS = (1, 1, 2)  # of each map in `DenseFeatures.pixels`
_CELLS = (1, 1, 1, CELL, CELL)  # side of a cell of each correlated map, in pixels
_KINDS = len(_CELLS)
_MARGIN = max(_AGGREGATION_SIDES) // 2  # blocks
_BAND_BLOCKS = 2048  # processed together, to limit the memory
_STRIP_BLOCKS = 128  # whose intermediate results stay in the processor's cache
_GAIN = 4.0  # scales correlations to about 1
_LEAST_KNOWN = 0.25  # of a block, over which its correlation is a mean


@dataclass(frozen=True)
class DenseFeatures:
    """Dense features of images (B, 1, H, W), H and W multiples of 8.

    Attributes
    ----------
    pixels : Tensor
        (B, 4, H, W): grey values and gradient magnitude, both normalised to their local mean and
        deviation, and two channels of edge direction.
    learned : Tensor
        Descriptors of `Matcher`, (B, D, H / 2, W / 2), unit length.
    finest : Tensor
        First scale of the bus, (B, C, H / 2, W / 2).
    valid : Tensor
        (B, 1, H, W), 1 for valid pixels.
    """

    pixels: Tensor
    learned: Tensor
    finest: Tensor
    valid: Tensor


class Likelihood(nn.Module):
    """Correlations of two images -> log-likelihoods of the displacements of each block.

    Parameters
    ----------
    channels : int
        Channels of the bus's first scale.
    size : int
        Length of the fine features of this network.
    width : int
        Channels of the network that combines the correlations.
    radius : int
        Largest displacement along rows and columns, in pixels; even.
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
        count = _KINDS * len(_AGGREGATION_SIDES)
        self.context = nn.Sequential(
            nn.Conv2d(3 * count, 32, 1), nn.ReLU(), nn.Conv2d(32, 2 * width, 1)
        )
        self.enter = nn.Conv2d(count + len(_AGGREGATION_SIDES), width, 1)
        self.inner = nn.Conv2d(width, width, 1)
        self.leave = nn.Conv2d(width, 1, 1)

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return dict(self._settings)

    def forward(self, fixed: DenseFeatures, moving: DenseFeatures, every: int = 1) -> Tensor:
        """Log-likelihoods, up to a constant for each block.

        Parameters
        ----------
        fixed, moving : DenseFeatures
            Of one size.
        every : int
            Stride of the blocks along rows and columns, from the first: neighbouring blocks share
            most of their evidence.

        Returns
        -------
        Tensor
            (B, (2 radius + 1)**2, rows, cols), float32, of the chosen blocks; row offsets
            outermost. The offset is the position of the block's content in ``moving``, relative
            to the block.
        """
        targets = [_GAIN * x for x in self._maps(fixed, None)]
        sources = [  # zero-padded by the largest displacement
            F.pad(x, (self.radius // cell,) * 4)
            for x, cell in zip(self._maps(moving, moving.valid), _CELLS, strict=True)
        ]
        known = {cell: self._known(moving.valid, cell) for cell in set(_CELLS)}
        rows, cols = (n // self.block for n in fixed.valid.shape[-2:])
        # at once, a large image would need gigabytes
        height = max(_BAND_BLOCKS // cols // every, 1) * every
        bands = []
        for start in range(0, rows, height):
            band = (start, min(start + height, rows))
            bands.append(self._combine(self._correlations(targets, sources, known, band, every)))
        return torch.cat(bands, 2)

    def _combine(self, correlations: Tensor) -> Tensor:
        """(B, sides * kinds, rows, cols, offsets) -> (B, offsets, rows, cols)."""
        parts = []
        for flat in correlations.flatten(2, 3).split(_strip_blocks(correlations.device), 2):
            gain, shift = self.context(_summary(flat)[..., None]).chunk(2, 1)
            # the modalities may have opposite contrast
            x = torch.cat([flat, flat[:, ::_KINDS].abs()], 1)
            x = torch.addcmul(shift, self.enter(x), 1 + gain).relu_()
            parts.append(self.leave(self.inner(x).relu_())[:, 0])
        whole = torch.cat(parts, 1).unflatten(1, correlations.shape[2:4])
        return whole.permute(0, 3, 1, 2).float()

    def _maps(self, features: DenseFeatures, valid: Tensor | None) -> list[Tensor]:
        """Maps to correlate, one for each kind; with ``valid``, other cells are 0."""
        cells: Tensor | float = 1.0
        if valid is not None:
            cells = (F.avg_pool2d(valid, CELL) > 0.99).to(valid.dtype)
        learned = [
            (x * cells).contiguous(memory_format=torch.channels_last)
            for x in (features.learned, self.fine(features))
        ]
        return [*features.pixels.split(_PIXEL_CHANNELS, 1), *learned]

    def _correlations(
        self,
        fixed: list[Tensor],
        moving: list[Tensor],
        known: dict[int, Tensor],
        band: tuple[int, int],
        every: int,
    ) -> Tensor:
        """(B, sides * kinds, rows, cols, offsets) of a band of rows, the sides outermost."""
        total = fixed[0].shape[-2] // self.block
        # margin of rows for the averages, a multiple of `every`
        margin = -(-_MARGIN // every) * every
        first, last = max(band[0] - margin, 0), min(band[1] + margin, total)
        strip = max(_strip_blocks(fixed[0].device) // (fixed[0].shape[-1] // self.block), 1)
        windows = [
            self._windows(fixed, moving, known, row, min(row + strip, last))
            for row in range(first, last, strip)
        ]
        # with the offsets last in memory, pooling is ten times faster
        x = torch.cat(windows, 1).unflatten(1, (last - first, -1)).flatten(3)
        rows = slice((band[0] - first) // every, -(-(band[1] - first) // every))
        pooled = [
            F.avg_pool2d(x.permute(0, 3, 1, 2), side, every, side // 2, count_include_pad=False)[
                :, :, rows
            ]
            for side in _AGGREGATION_SIDES
        ]
        return torch.cat([y.unflatten(1, (_KINDS, -1)).permute(0, 1, 3, 4, 2) for y in pooled], 1)

    def _known(self, valid: Tensor, cell: int) -> Tensor:
        """Share of valid cells in a block at each place of the padded image, with a floor."""
        cells = (F.avg_pool2d(valid, cell) > 0.99).to(valid.dtype)
        share = F.avg_pool2d(F.pad(cells, (self.radius // cell,) * 4), self.block // cell, 1)
        return share.clamp_min(_LEAST_KNOWN)

    def _windows(
        self,
        fixed: list[Tensor],
        moving: list[Tensor],
        known: dict[int, Tensor],
        first: int,
        last: int,
    ) -> Tensor:
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
            span = 2 * radius + 1
            places = known[cell][..., first * block : (last - 1) * block + span, :]
            window = window / _patches(places, span, block)[:, :, 0]
            if cell > 1:
                side = 2 * self.radius + 1
                window = F.interpolate(window, (side, side), mode="bilinear", align_corners=True)
            windows.append(window)
        return torch.stack(windows, 2)


def _strip_blocks(device: torch.device) -> int:
    """Blocks of one strip: few for a processor's cache, many for a GPU, where calls are costly."""
    return _STRIP_BLOCKS if device.type == "cpu" else _BAND_BLOCKS


def _summary(correlations: Tensor) -> Tensor:
    """(B, K, N, M) -> mean, standard deviation and largest over M, (B, 3 K, N)."""
    count = correlations.shape[-1]
    mean = correlations.mean(-1)
    # torch.std is thirty times slower
    squares = torch.linalg.vector_norm(correlations, dim=-1).square()
    variance = (squares - count * mean.square()) / (count - 1)
    return torch.cat([mean, variance.clamp_min(1e-12).sqrt(), correlations.amax(-1)], 1)


class _Fine(nn.Module):
    """Unit-length features of a small neighbourhood, for alignment to the pixel."""

    def __init__(self, inputs: int, size: int, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, width, 1)
        self.blocks = nn.ModuleList(DilatedBlock(width, dilation) for dilation in (1, 1, 2))
        self.leave = nn.Conv2d(width, size, 1)

    def forward(self, features: DenseFeatures) -> Tensor:
        edges = F.avg_pool2d(features.pixels[:, -2:], CELL)
        x = torch.cat([F.instance_norm(features.finest), edges], 1)
        x = x.contiguous(memory_format=torch.channels_last)
        with narrow(x.device):
            x = self.enter(x)
            for block in self.blocks:
                x = block(x)
            x = self.leave(x).float()
        return unit_length(x - x.mean((-2, -1), keepdim=True))


def block_correlation(fixed: Tensor, moving: Tensor, block: int, radius: int) -> Tensor:
    """Mean products of the blocks of ``fixed`` with shifted blocks of ``moving``.

    Parameters
    ----------
    fixed : Tensor
        (B, C, H, W), H and W multiples of ``block``.
    moving : Tensor
        (B, C, H + 2 radius, W + 2 radius), padded by ``radius`` pixels on each side.
    block, radius : int
        In pixels.

    Returns
    -------
    Tensor
        (B, blocks, 2 radius + 1, 2 radius + 1), summed over the channels.
    """
    own = _patches(fixed, block, block)
    around = _patches(moving, block + 2 * radius, block)
    # a grouped convolution: each block and channel is one kernel
    kernels = own.flatten(0, 2)[:, None]
    windows = F.conv2d(around.flatten(0, 2)[None], kernels, groups=len(kernels))[0]
    return windows.unflatten(0, own.shape[:3]).sum(2) / block**2


def cell_windows(fixed: Tensor, moving: Tensor, block: int, radius: int) -> Tensor:
    """`block_correlation` by matrix products, faster for many channels.

    Fastest with the channels last in memory.
    """
    side, window = block + 2 * radius, 2 * radius + 1
    own, around = (
        _patches(image, size, block).movedim(2, -1).flatten(2, 3)
        for image, size in ((fixed, block), (moving, side))
    )
    product = own @ around.transpose(2, 3)
    product = product.unflatten(3, (side, side)).unflatten(2, (block, block))
    # cell (i, j) at offset (y, x) is at row i + y, column j + x of the padded block
    rows = [product[:, :, i, :, i : i + window] for i in range(block)]
    summed = torch.stack(rows).sum(0)
    columns = [summed[:, :, j, :, j : j + window] for j in range(block)]
    return torch.stack(columns).mean(0) / block


def _patches(image: Tensor, side: int, step: int) -> Tensor:
    """Squares of (B, C, H, W), every ``step`` pixels: (B, N, C, side, side)."""
    patches = image.unfold(2, side, step).unfold(3, side, step)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
