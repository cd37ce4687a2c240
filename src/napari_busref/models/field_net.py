"""A network that reads local correlations and tells the displacement field that they stand for.

Our addition to BusReF. One cell's correlations have many peaks, and which of them is right only
its surroundings can tell: how far they agree, how sure they are, how smooth fields are. All that
is learned from known warps with the end-point error as the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4
"""Side of the blocks of cells that are told one displacement."""


@dataclass(frozen=True)
class Local:
    """What is compared of one image, a cell for every second pixel.

    Attributes
    ----------
    learned : Tensor
        Descriptors of `Matcher`, (B, D, h, w), unit length.
    finest : Tensor
        First scale of the bus, (B, C, h, w).
    edges : Tensor
        Directions of edges, (B, 2, h, w).
    known : Tensor
        (B, 1, h, w), 1 for cells that hold a picture.
    """

    learned: Tensor
    finest: Tensor
    edges: Tensor
    known: Tensor


@dataclass(frozen=True)
class Votes:
    """Averages over the cells of each block, offset by offset: (B, N, h / 4, w / 4).

    Attributes
    ----------
    learned, local : Tensor
        Correlations of the descriptors, and of the local features, these divided by the
        temperature of the softmax over offsets.
    chosen : Tensor
        What each cell would choose by itself: that softmax.
    share : Tensor
        (B, 1, h / 4, w / 4), share of the block's cells that hold a picture.
    """

    learned: Tensor
    local: Tensor
    chosen: Tensor
    share: Tensor


class FieldNet(nn.Module):
    """Correlations in a window of each cell -> displacement field.

    Parameters
    ----------
    channels : int
        Of the bus's first scale.
    size : int
        Length of the local features that are learned here, beside the descriptors.
    width : int
        Channels of the U-Net.
    radius : int
        Of the window, in cells.
    """

    def __init__(
        self, channels: int = 16, size: int = 24, width: int = 64, radius: int = 6
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
        count = (2 * radius + 1) ** 2
        self.log_temperature = nn.Parameter(torch.tensor(0.1).log())
        self.enter = nn.Sequential(nn.Conv2d(3 * count + 1, width, 1), nn.LeakyReLU(0.1))
        self.body = _UNet(width)
        self.head = nn.Conv2d(width, 3, 3, padding=1, padding_mode="replicate")
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return dict(self._settings)

    def forward(self, fixed: Local, moving: Local) -> tuple[Tensor, Tensor]:
        """Displacement of blocks of cells.

        Parameters
        ----------
        fixed, moving : Local
            Of one size, h and w multiples of ``BLOCK``.

        Returns
        -------
        shift : Tensor
            (B, 2, h / 4, w / 4), (x, y) in cells: where the content of a block lies in ``moving``,
            relative to the block.
        log_spread : Tensor
            (B, 1, h / 4, w / 4), logarithm of the error that is expected, in cells.
        """
        return self.read(self.votes(fixed, moving))

    def votes(self, fixed: Local, moving: Local) -> Votes:
        """Correlate both images, and average over the cells of each block."""
        weight = blocks(fixed.known)[..., 0]
        share = weight.mean(-1)
        weight = weight / weight.sum(-1, keepdim=True).clamp_min(0.1)
        sharpness = (-self.log_temperature).exp().clamp(max=200.0)
        first, second = self.fine(fixed) * sharpness, self.fine(moving) * moving.known
        local = block_windows(first, second, self.radius)
        learned = block_windows(fixed.learned, moving.learned * moving.known, self.radius)
        return Votes(
            *(_averaged(window, weight) for window in (learned, local, local.softmax(-1))),
            share[:, None],
        )

    def read(self, votes: Votes) -> tuple[Tensor, Tensor]:
        """Tell displacement and logarithm of its spread, as ``forward`` returns them."""
        chosen = votes.chosen * (votes.chosen.shape[1] / 8)  # of the size of the others
        x = torch.cat([votes.learned, votes.local, chosen, votes.share], 1)
        found = self.head(self.body(self.enter(x))).float()
        return found[:, :2], found[:, 2:].clamp(-5, 3)


def _averaged(window: Tensor, weight: Tensor) -> Tensor:
    """(B, rows, cols, 16, N) over the cells of a block with (B, rows, cols, 16) as weights."""
    return (weight[..., None, :] @ window)[..., 0, :].permute(0, 3, 1, 2)


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
            for d in (1, 1, 2, 2)
        )
        self.leave = nn.Conv2d(width, size, 1)

    def forward(self, local: Local) -> Tensor:
        x = self.enter(torch.cat([F.instance_norm(local.finest), 2 * local.edges], 1))
        for block in self.blocks:
            x = x + block(x)
        x = self.leave(x).float()
        return F.normalize(x - x.mean((-2, -1), keepdim=True), dim=1, eps=1e-4)


class _UNet(nn.Module):
    """Three scales; no normalisation, which would take away a shift that all blocks share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(_Residual(width), _Residual(width)) for _ in range(3)
        )
        self.down = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1, padding_mode="replicate")
            for _ in range(2)
        )
        self.up = nn.ModuleList(_Residual(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        passed = [self.levels[0](x)]
        for down, level in zip(self.down, list(self.levels)[1:], strict=True):
            passed.append(level(down(passed[-1])))
        x = passed.pop()
        for up in self.up:
            finer = passed.pop()
            x = F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False)
            x = up(finer + x)
        return x


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.body(x), 0.1)


def blocks(x: Tensor) -> Tensor:
    """Cells (B, C, h, w) by block: (B, h / 4, w / 4, 16, C)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)


def block_windows(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """Correlate each fixed cell with the moving cells around the same place, block by block.

    As matrix products of blocks with what surrounds them, many times faster than a loop over the
    offsets of `napari_busref.matching.votes.window_correlation`, which gives the same values.

    Parameters
    ----------
    fixed, moving : Tensor
        (B, D, h, w), h and w multiples of ``BLOCK``.
    radius : int
        In cells.

    Returns
    -------
    Tensor
        (B, h / 4, w / 4, 16, (2 radius + 1)**2), row offsets outermost; 0 outside ``moving``.
    """
    batch, size, height, width = fixed.shape
    side, reach = BLOCK + 2 * radius, 2 * radius + 1
    rows, cols = height // BLOCK, width // BLOCK
    around = F.unfold(moving, side, stride=BLOCK, padding=radius)
    around = around.view(batch, size, side * side, rows * cols).permute(0, 3, 1, 2)
    product = blocks(fixed).view(batch, rows * cols, BLOCK * BLOCK, size) @ around
    product = product.view(batch, rows, cols, BLOCK, BLOCK, side, side)
    # cell (i, j) with offset (y, x) stands at row i + y, column j + x of the surroundings
    *outer, of_i, of_j, of_y, of_x = product.stride()
    window = product.as_strided(
        (batch, rows, cols, BLOCK, BLOCK, reach, reach),
        (*outer, of_i + of_y, of_j + of_x, of_y, of_x),
    )
    return window.reshape(batch, rows, cols, BLOCK * BLOCK, reach * reach)
