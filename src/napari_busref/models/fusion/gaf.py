"""GAF, the gradient-aware fusion network on the bus (BusReF, section "fusion")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_busref.models.config import PlainConfig
from napari_busref.models.features.bus import Bus
from napari_busref.models.fusion.global_pooling import (
    Core,
    Pooled,
    mean_of,
    one_pass,
    pool_image,
    run_on_image,
)
from napari_busref.models.layers import (
    in_blocks,
    largest_of_3x3,
    pad_to_multiple,
    sum_of_3x3,
    sum_of_taps,
    upsample,
)

_SLOPE = 0.1
_SAMPLED = 512  # px: of images and tiles this high, bands of rows give the means
_PERIOD = 64  # px from band to band
_STRIPPED = 512 * 512  # cells at an eighth of the resolution; more are computed in strips
_STRIP, _STRIP_HALO = 128, 16  # rows of cells


@dataclass(frozen=True)
class GafConfig(PlainConfig):
    """Architecture of :class:`Gaf`; stored on the weights' card.

    Attributes
    ----------
    bus_channels : int
        Channels of the bus.
    width : int
        Channels of the fusion features at each scale.
    """

    bus_channels: int = 64
    width: int = 12


class GradientAttention(nn.Module):
    """Gradient map of each modality, (B, 1, H, W), from the Laplacians of its features.

    Where one modality has the larger Laplacian, its map is near 1 and the other's near 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, padding_mode="replicate")
        # initially the local mean of the magnitudes
        nn.init.constant_(self.conv.weight, 1 / 49)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(self, laplacians: Tensor) -> Tensor:
        """Map (B, 1, H, W) of the visible modality, in (0, 1); the infrared one has the rest.

        Parameters
        ----------
        laplacians : Tensor
            (2 B, C, H, W), visible and infrared in turn.
        """
        size = laplacians.abs()
        logits = self.conv(torch.stack([size.amax(1), size.mean(1)], 1))
        visible, infrared = logits[::2], logits[1::2]
        scale = visible.detach().abs() + infrared.detach().abs() + 1e-3
        return torch.sigmoid(self.sharpness * (visible - infrared) / scale)


class ModalityWeights(nn.Module):
    """MLP from pooled features of both modalities to channel weights; the two sum to 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2 * width)
        )

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, C) of both modalities from pooled features (B, C)."""
        weights = (
            self.mlp(torch.cat([visible, infrared], 1)).unflatten(1, (2, self.width)).softmax(1)
        )
        return weights[:, 0], weights[:, 1]


@dataclass(frozen=True)
class Parts:
    """Features of both modalities at one scale, (2 B, width, h, w), visible and infrared in turn.

    Attributes
    ----------
    features, largest, total : Tensor
        The features, and their maximum and sum over 3 x 3 px. The low part of the features is
        ``total / 9``, the high part ``largest - low``, the Laplacian ``total - 9 features``.
    """

    features: Tensor
    largest: Tensor
    total: Tensor


class GafScale(nn.Module):
    """One scale of :class:`Gaf`.

    Parameters
    ----------
    inputs : int
        Input channels of each modality.
    width : int
        Channels of the features.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        kernel = 3 if inputs <= 64 else 1
        self.extract = nn.Conv2d(
            inputs, width, kernel, padding=kernel // 2, padding_mode="reflect"
        )
        self.attention = GradientAttention()
        self.high, self.low = ModalityWeights(width), ModalityWeights(width)
        self.mix = nn.Conv2d(5 * width, width, 1)
        self.refine = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect")
        self.output = nn.Conv2d(3 * width, 1, 3, padding=1, padding_mode="reflect")

    @staticmethod
    def split(features: Tensor) -> Parts:
        """Parts of the extracted features (2 B, width, h, w)."""
        padded = F.pad(features, (1, 1, 1, 1), mode="replicate")
        return Parts(features, largest_of_3x3(padded), sum_of_3x3(padded))

    def forward(self, features: Tensor, pooled: Tensor, coarser: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse one scale.

        With the gradient map m of the visible modality, all that the 1x1 convolution `mix` reads
        is ``m V + (1 - m) R + S``, linear in the `Parts`. So are the nine taps of `output`. One
        matrix product gives ``R + S`` and ``V - R`` of both, in a third of the time.

        Parameters
        ----------
        features : Tensor
            (2 B, width, h, w) from `extract`, visible and infrared in turn.
        pooled : Tensor
            (B, 4, width), means over the image of `largest` of both and of `total` of both.
        coarser : Tensor
            (B, width, h / 2, w / 2), from the coarser scale.

        Returns
        -------
        features, change : Tensor
            (B, width, h, w) for the next scale, and the change of the image, (B, 1, h, w).
        """
        size = (features.shape[-2], features.shape[-1])
        parts = self.split(features)
        width = features.shape[1]
        m = self.attention(torch.sub(parts.total, features, alpha=9))
        stacks = [x.reshape(-1, 2 * width, size[0] * size[1]) for x in vars(parts).values()]
        first, *others = zip(self._matrices(pooled), stacks, strict=True)
        products = torch.bmm(*first).unflatten(-1, size)
        mixed, taps = products.split([2 * width, 18], 1)
        for matrix, x in others:
            mixed = mixed + torch.bmm(matrix, x).unflatten(-1, size)
        wide = F.conv2d(coarser, self.mix.weight[:, 4 * width :], self.mix.bias)
        x = torch.addcmul(mixed[:, :width], mixed[:, width:], m) + upsample(wide, size)
        x = F.leaky_relu_(self.refine(F.leaky_relu_(x, _SLOPE)), _SLOPE)
        taps = torch.addcmul(taps[:, :9], taps[:, 9:], m)
        own = self.output.weight[0, :width].flatten(1).T  # (9, width)
        taps = taps + (own @ x.flatten(2)).unflatten(-1, size)
        return x, sum_of_taps(taps) + self.output.bias  # type: ignore[operator]

    def _matrices(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Matrices (B, rows, 2 width) on `features`, `largest` and `total` of both modalities.

        The first 2 width rows are ``R + S`` and ``V - R`` of `mix`. On `features`, 18 more are
        those of the taps of `output`.
        """
        width = pooled.shape[-1]
        low = pooled[:, 2:] / 9
        high_v, high_r = self.high(*(pooled[:, :2] - low).unbind(1))
        low_v, low_r = self.low(*low.unbind(1))
        # (width, width) by columns: features of v and r, high and low parts
        v, r, high, rest = self.mix.weight[:, : 4 * width, 0, 0].split(width, 1)
        high_v, high_r = high * high_v[:, None], high * high_r[:, None]
        taps_v, taps_r = (
            self.output.weight[0, at : at + width].flatten(1).T for at in (width, 2 * width)
        )
        on_features = torch.cat([_rows(v, r), _rows(taps_v, taps_r)])
        return (
            on_features.expand(len(pooled), -1, -1),
            _rows(high_v, high_r),
            _rows(-high_v / 9, -high_r / 9, rest * low_v[:, None] / 9, rest * low_r[:, None] / 9),
        )


def _rows(v: Tensor, r: Tensor, s_v: Tensor | float = 0, s_r: Tensor | float = 0) -> Tensor:
    """Rows of ``R + S`` and of ``V - R``, from columns for v (V and S) and r (R and S)."""
    both = torch.cat([s_v + torch.zeros_like(v), s_r + r], -1), torch.cat([v, -r], -1)
    return torch.cat(both, -2)


class Gaf(nn.Module):
    """Fuse a registered pair on features of the frozen bus.

    At full, half, quarter and eighth resolution, one extractor for both modalities takes the image
    and the bus activations. The Laplacians of its features give a spatial attention: the gradient
    map of each modality. Max pooling separates the high part of the features, average pooling the
    low part. Two MLPs weigh the modalities in each part, channel by channel. Output convolutions,
    coarse to fine, and tanh give a change, which is added to the mean of both images.
    """

    stride = Bus.stride
    #: `napari_busref.fuse` applies `napari_busref.fusion.skies.settle_skies` before.
    settles_skies = True
    #: It runs large images through `napari_busref.fusion.halving.fuse_halved`.
    halves_large = True
    #: At a quarter of the resolution seven cells of 4 px, and the 3 px of the bus down to it.
    #: The coarser scale and the finer ones read or make whole scales, see `run_on_image`.
    receptive_field = 7 * 4 + 3
    #: Without `run_on_image` for the finer scales: seven cells of each, and one to enlarge it.
    whole_receptive_field = receptive_field + (7 * 2 + 4) + (7 + 2)

    def __init__(self, config: GafConfig | None = None) -> None:
        super().__init__()
        self.config = config or GafConfig()
        width, channels = self.config.width, self.config.bus_channels
        self.bus = Bus(channels)
        inputs = (1, 1 + channels // 4, 1 + channels // 2, 1 + 4 * channels)
        self.scales = nn.ModuleList(GafScale(number, width) for number in inputs)

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return asdict(self.config)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse ``visible`` and ``infrared`` (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        height, width = visible.shape[-2:]
        pair = torch.stack([visible, infrared], 1).flatten(0, 1)  # in turn, (2 B, 1, H, W)
        inputs = _Inputs(self.bus, pad_to_multiple(pair, self.stride))
        with one_pass():
            means = pool_image(partial(self._pool, inputs))
            state = run_on_image(lambda: _paired(inputs[3]), self._coarsest, step=8)
        for level in (2, 1):
            finer = partial(self._finer, level, inputs, means, state)
            state = run_on_image(finer, step=2**level)
        change = self._finer(0, inputs, means, state)
        fused = (visible + infrared) / 2 + torch.tanh(change)[..., :height, :width]
        return fused.clamp(0, 1)

    def _pool(self, inputs: _Inputs, core: Core | None) -> list[Pooled]:
        """What the scales of full to quarter resolution pool over the image."""
        height, width = inputs[0].shape[-2:]
        if core is None:
            core = slice(0, height), slice(0, width)
        pooled = []
        for level in range(3):
            step = 2**level
            # a core that does not end at a multiple of the stride ends at the end of the image
            rows, cols = (
                slice(side.start // step, -(-side.stop // self.stride) * self.stride // step)
                for side in core
            )
            x, scale = inputs[level], self.scales[level]
            weight = 1
            if core[0].stop - core[0].start >= _SAMPLED:
                # four of 64 rows are enough: no weight of a modality changes in the third digit
                weight = _PERIOD // step // 4
                x = _bands(x[..., rows, :], _PERIOD // step)
                rows = slice(2, 6)
            parts = scale.split(scale.extract(x))  # type: ignore[operator]
            for part in (parts.largest, parts.total):
                values = part[..., rows, cols].unflatten(0, (len(inputs[0]), -1))
                pooled.append(mean_of(_paired(values.transpose(1, 2).flatten(2, 3)), weight))
        return pooled

    def _coarsest(self, whole: Tensor) -> Tensor:
        """Features and change (B, width + 1, h, w) at an eighth of the resolution."""
        scale: GafScale = self.scales[3]  # type: ignore[assignment]
        weights = scale.extract.weight.split([1, *[self.bus.channels] * self.bus.levels], 1)

        def extracted(image: Tensor) -> Tensor:
            x, features = image[:, 1:], F.conv2d(image[:, :1], weights[0], scale.extract.bias)
            for module, weight in zip(self.bus.extract, weights[1:], strict=True):
                x = module(x)
                features = features + F.conv2d(x, weight)
            return features

        # one image and one level of features at a time: they need the most memory
        images = whole.unflatten(1, (2, -1)).flatten(0, 1).split(1)
        features = torch.cat([_in_strips(extracted, image) for image in images])
        pooled = _means_of_parts(scale, features).unflatten(1, (4, -1))

        def fuse(strip: Tensor) -> Tensor:
            nothing = strip.new_zeros(len(whole), strip.shape[1], *strip.shape[-2:])
            return torch.cat(scale(strip, pooled, nothing), 1)

        return _in_strips(fuse, features)

    def _finer(self, level: int, inputs: _Inputs, means: list[Tensor], state: Tensor) -> Tensor:
        """Features and change (B, width + 1, h, w) of a finer scale; the change of the finest."""
        scale: GafScale = self.scales[level]  # type: ignore[assignment]
        pooled = torch.cat(means[2 * level : 2 * level + 2], 1).unflatten(1, (4, -1))

        def fuse(pair: Tensor, coarser: Tensor) -> Tensor:
            features, change = scale(scale.extract(pair), pooled, coarser[:, :-1])
            change = change + upsample(coarser[:, -1:], (pair.shape[-2], pair.shape[-1]))
            return change if level == 0 else torch.cat([features, change], 1)

        if torch.is_grad_enabled():
            return fuse(inputs[level], state)
        return in_blocks(fuse, inputs[level], state)


def _in_strips(compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply `compute` to strips of rows, where the features of all rows take much memory."""
    found: Tensor | None = None
    for rows, core, target in _strips(x):
        part = compute(x[..., rows, :])
        if rows == target:  # the only strip
            return part
        if found is None:
            found = part.new_empty(*part.shape[:2], *x.shape[-2:])
        found[..., target, :].copy_(part[..., core, :])
    assert found is not None
    return found


def _means_of_parts(scale: GafScale, features: Tensor) -> Tensor:
    """Means over the image of `largest` of both modalities and of `total` of both."""
    sums: Tensor | int = 0
    for rows, core, _ in _strips(features):
        parts = scale.split(features[..., rows, :])
        both = [_paired(x[..., core, :]).sum((-2, -1)) for x in (parts.largest, parts.total)]
        sums = sums + torch.cat(both, 1)
    assert isinstance(sums, Tensor)
    return sums / (features.shape[-2] * features.shape[-1])


def _strips(x: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Rows with a halo, those that count in them, and their place; all where x is small."""
    height, width = x.shape[-2:]
    if height * width <= _STRIPPED or torch.is_grad_enabled():
        yield slice(0, height), slice(0, height), slice(0, height)
        return
    for top in range(0, height, _STRIP):
        stop = min(top + _STRIP, height)
        first = max(top - _STRIP_HALO, 0)
        yield (
            slice(first, min(stop + _STRIP_HALO, height)),
            slice(top - first, stop - first),
            slice(top, stop),
        )


class _Inputs:
    """Inputs of the scales, fine to coarse, computed on demand.

    The image and, below the full resolution, the activations of the bus; at an eighth of the
    resolution those before R1.

    Parameters
    ----------
    bus : Bus
    pair : Tensor
        (2 B, 1, H, W); the sides are multiples of 8.
    """

    def __init__(self, bus: Bus, pair: Tensor) -> None:
        self._bus, self._pair, self._activations = bus, pair, [pair]

    def __getitem__(self, level: int) -> Tensor:
        while len(self._activations) <= level:
            down = self._bus.down[len(self._activations) - 1]
            self._activations.append(down(self._activations[-1]))
        if level == 0:
            return self._pair
        return torch.cat([F.avg_pool2d(self._pair, 2**level), self._activations[level]], 1)


def _paired(x: Tensor) -> Tensor:
    """(2 B, C, ...), visible and infrared in turn -> (B, 2 C, ...)."""
    return x.unflatten(0, (-1, 2)).flatten(1, 2)


def _bands(x: Tensor, period: int) -> Tensor:
    """Bands of eight rows from the middle of every ``period``: (B, C, h, w) -> (B n, C, 8, w)."""
    bands = x[..., period // 2 - 4 :, :].unfold(2, 8, period)
    return bands.permute(0, 2, 1, 4, 3).flatten(0, 1)
