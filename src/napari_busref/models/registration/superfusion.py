"""SuperFusion's dense matcher: displacement fields in both directions, coarse to fine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from torch import Tensor, nn

from napari_busref.geometry import (
    Estimate,
    base_grid,
    compose_displacement,
    identity_theta,
    inside,
    sample_field,
    transform_points,
    warp,
)
from napari_busref.models.config import PlainConfig
from napari_busref.models.features.bus import standardise
from napari_busref.models.layers import resize, unit_length, working_size
from napari_busref.runtime.progress import Reporter

_STRIDES = (2, 4, 8)
_WIDTHS = (32, 64, 128)
_SLOPE = 0.1
# Gaussian smoothing of the field at each stride, in its cells (in the paper only at the finest).
_FIELD_SIGMAS = {2: 5.0, 4: 2.5, 8: 1.5}


@dataclass(frozen=True)
class SuperFusionConfig(PlainConfig):
    """Architecture of :class:`SuperFusionMatcher`; stored on the weights' card.

    Attributes
    ----------
    sides : tuple of int
        One pass for each. The images are resized to the area of a square with this side, in
        pixels; the aspect ratio is kept.
    radius, dilation : int
        Window of the cost volume: ``(2 radius + 1)**2`` cells, ``dilation`` apart.
    sigma : float
        Smoothing of the source's features before the comparison, in cells.
    expectation : bool
        Each estimator learns a correction of the expected offset under a softmax of the costs
        (our addition); False is the paper's plain regression.
    """

    sides: tuple[int, ...] = (160, 256)
    radius: int = 3
    dilation: int = 4
    sigma: float = 3.0
    expectation: bool = True


@dataclass(frozen=True)
class Pyramid:
    """Feature pyramid of one image, the input of the estimators.

    Attributes
    ----------
    levels : tuple of Tensor
        Features at 1/2, 1/4 and 1/8: (B, 32, h, w), (B, 64, ...), (B, 128, ...), float32.
    valid : tuple of Tensor
        (B, 1, h, w) for each, 1 for valid cells.
    """

    levels: tuple[Tensor, ...]
    valid: tuple[Tensor, ...]

    def with_others(self, other: Pyramid) -> Pyramid:
        """Both pyramids in one batch."""
        return Pyramid(
            tuple(torch.cat(pair) for pair in zip(self.levels, other.levels, strict=True)),
            tuple(torch.cat(pair) for pair in zip(self.valid, other.valid, strict=True)),
        )

    def select(self, index: slice) -> Pyramid:
        """Part of the batch."""
        return Pyramid(tuple(x[index] for x in self.levels), tuple(x[index] for x in self.valid))


class SuperFusionMatcher(nn.Module):
    """Dense matcher of SuperFusion: extractors, pyramid, estimators, refiner.

    A pass estimates a field at 1/8, corrects it at 1/4 on features resampled with it, and refines
    it at 1/2. The next pass resamples the original moving image with the field so far.

    Notes
    -----
    Displacements are in normalised coordinates (`napari_busref.geometry`). Both directions share
    the estimators. The paper adds the fields of the scales; here they are composed, because the
    features were resampled with the coarser field.
    """

    def __init__(self, config: SuperFusionConfig | None = None) -> None:
        super().__init__()
        self.config = config or SuperFusionConfig()
        self.visible, self.infrared = _extractor(), _extractor()
        inputs = (16, *_WIDTHS[:-1])
        self.pyramid = nn.ModuleList(
            _conv(before, width, dilation, stride=2)
            for before, width, dilation in zip(inputs, _WIDTHS, (1, 2, 4), strict=True)
        )
        self.estimators = nn.ModuleList(
            FlowEstimator(width, self.config) for width in reversed(_WIDTHS[1:])
        )
        self.refiner = _Refiner(_WIDTHS[0])

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for the card."""
        return asdict(self.config)

    def working_shape(self, height: int, width: int, side: int | None = None) -> tuple[int, int]:
        """Working size (h, w), multiples of 8, for ``side`` (by default the finest)."""
        if side is None:
            side = max(self.config.sides)
        # the largest dilation reflects four cells of 1/8
        return working_size(height, width, side, min_cells=6)

    def features(self, image: Tensor, valid: Tensor, *, visible: bool) -> Pyramid:
        """Pyramid of ``image`` (B, 1, H, W), H and W multiples of 8; ``valid`` has its shape."""
        x = (self.visible if visible else self.infrared)(standardise(image, valid))
        levels = []
        for module in self.pyramid:
            x = module(x)
            levels.append(x.float())
            x = F.leaky_relu(x, _SLOPE)
        valid_cells = tuple((F.avg_pool2d(valid, s) > 0.9).float() for s in _STRIDES)
        return Pyramid(tuple(levels), valid_cells)

    def flows(self, target: Pyramid, source: Pyramid) -> list[Tensor]:
        """One pass: displacements target -> source at 1/8, 1/4 and 1/2, each (B, 2, h, w)."""
        fields: list[Tensor] = []
        field: Tensor | None = None
        for scale in (2, 1, 0):
            first, other, valid = target.levels[scale], source.levels[scale], source.valid[scale]
            size = (first.shape[-2], first.shape[-1])
            if field is not None:
                field = resize_field(field, size)
                grid = base_grid(*size, first) + field.permute(0, 2, 3, 1)
                other = warp(other, grid)
                valid = ((warp(valid, grid) > 0.5) & inside(grid, *size)).float()
            cells = first.new_tensor([2 / size[1], 2 / size[0]], dtype=torch.float32)
            if field is None or scale:
                step = self.estimators[2 - scale](first, other, valid)
            else:
                step = self.refiner(first, other, field / cells[:, None, None])
            step = step * cells[:, None, None]
            field = step if field is None else compose_displacement(field, step)
            field = smooth_field(field, _FIELD_SIGMAS[_STRIDES[scale]])
            fields.append(field)
        return fields

    def match(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Fields of both directions.

        Parameters
        ----------
        fixed, moving, moving_valid, reporter
            As for ``forward``.

        Returns
        -------
        forward, backward : Tensor
            (B, 2, h, w), at half the finest working size: fixed -> moving, moving -> fixed.
        """
        forward, backward = self._estimate(
            fixed, moving, moving_valid, reporter, self.config.sides, both=True
        )
        assert backward is not None
        return forward, backward

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """Register images of one size.

        Parameters
        ----------
        fixed, moving : Tensor
            (B, 1, H, W) in [0, 1]: visible and infrared, H and W at least 16.
        moving_valid : Tensor, optional
            (B, 1, H, W), non-zero for valid pixels of ``moving``.
        reporter : Reporter, optional
            Reports every pass, and raises there when cancelled.

        Returns
        -------
        Estimate
            ``theta``, the least-squares affine of the field, and ``phi``, the remainder, at half
            the finest working size.
        """
        field, _ = self._estimate(fixed, moving, moving_valid, reporter, self.config.sides)
        return split_affine(field)

    def symmetric(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """Register images of one size in both directions.

        Parameters as in ``forward``; the result has ``backward``.
        """
        forward, backward = self.match(fixed, moving, moving_valid, reporter)
        return replace(split_affine(forward), backward=split_affine(backward))

    def coarse(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """The affine of the first pass alone, for later refinement.

        Parameters and result as in ``forward``, without ``phi``.
        """
        sides = self.config.sides[:1]
        field, _ = self._estimate(fixed, moving, moving_valid, reporter, sides)
        return Estimate(split_affine(field).theta)

    def _estimate(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None,
        reporter: Reporter | None,
        sides: tuple[int, ...],
        *,
        both: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        valid = torch.ones_like(moving) if moving_valid is None else moving_valid.to(moving.dtype)
        forward: Tensor | None = None
        backward: Tensor | None = None
        for index, side in enumerate(sides):
            if reporter is not None:
                reporter.step(f"dense matching, pass {index + 1}", index / len(sides))
            size = self.working_shape(fixed.shape[-2], fixed.shape[-1], side)
            first, other, inside = (resize(image, size) for image in (fixed, moving, valid))
            everywhere = torch.ones_like(first)
            target = self.features(first, everywhere, visible=True)
            source = self.features(*resample(other, inside, forward), visible=False)
            forward_step = self.flows(target, source)[-1]
            if both:
                back_target, back_source = source, target
                if backward is not None:
                    back_target = self.features(other, inside, visible=False)
                    back_source = self.features(
                        *resample(first, everywhere, backward), visible=True
                    )
                backward = compose_passes(backward, self.flows(back_target, back_source)[-1])
            forward = compose_passes(forward, forward_step)
        assert forward is not None
        return forward, backward


class FlowEstimator(nn.Module):
    """Cost volume and four convolutions: features of target and source -> displacement in cells.

    Parameters
    ----------
    channels : int
        Channels of the features.
    config : SuperFusionConfig
        Window, smoothing, and whether to start from the expected offset.
    """

    def __init__(self, channels: int, config: SuperFusionConfig) -> None:
        super().__init__()
        self.radius, self.dilation, self.sigma = config.radius, config.dilation, config.sigma
        self.expectation = config.expectation
        self.compress = nn.Conv2d(channels, channels // 4, 1)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(0.1)))
        width = (2 * self.radius + 1) ** 2 + 2 * (channels // 4) + 2 * self.expectation
        layers: list[nn.Module] = []
        for dilation in (1, 2, 3):
            # no instance norm: it would remove the mean, and with it a shift of the whole image
            layers += [_conv(width, width // 2, dilation, norm=False), nn.LeakyReLU(_SLOPE)]
            width //= 2
        self.body = nn.Sequential(*layers)
        self.head = _head(width, 4)

    @property
    def temperature(self) -> Tensor:
        """Temperature of the softmax over costs."""
        return self.log_temperature.exp().clamp(1e-2, 1)

    def describe(
        self, target: Tensor, source: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unit-length features to compare, the source's smoothed, and its valid cells."""
        weight = smooth(valid, self.sigma)
        smoothed = smooth(source * valid, self.sigma) / weight.clamp_min(1e-2)
        return unit_length(target), unit_length(smoothed), valid * (weight > 0.05)

    def costs(self, target: Tensor, source: Tensor, valid: Tensor) -> Tensor:
        """Half the squared differences, (B, offsets, h, w).

        Half the squared difference of orthogonal unit vectors is 1; offsets outside the image get
        that value.
        """
        target, source, valid = self.describe(target, source, valid)
        height, width = target.shape[-2:]
        margin = self.radius * self.dilation
        source = F.pad(source * valid, [margin] * 4)
        products = []
        for row in range(0, 2 * margin + 1, self.dilation):
            for col in range(0, 2 * margin + 1, self.dilation):
                shifted = source[..., row : row + height, col : col + width]
                products.append((target * shifted).sum(1))
        # |a - b|^2 / 2 = 1 - a b: products need no copy of the features for each offset
        return 1 - torch.stack(products, 1)

    def offset(self, cost: Tensor) -> Tensor:
        """Expected offset (B, 2, h, w) in cells under a softmax of the costs.

        Offsets outside the image have the cost of unrelated features. Without them, the
        expectation at the border would be biased inwards.
        """
        probability = (-cost / self.temperature).softmax(1)
        axis = self.dilation * torch.arange(
            -self.radius, self.radius + 1, device=cost.device, dtype=cost.dtype
        )
        y, x = (a.flatten()[:, None, None] for a in torch.meshgrid(axis, axis, indexing="ij"))
        return torch.stack([(probability * x).sum(1), (probability * y).sum(1)], 1)

    def forward(self, target: Tensor, source: Tensor, valid: Tensor) -> Tensor:
        """Displacement (B, 2, h, w), (x, y) in cells, from features (B, C, h, w)."""
        cost = self.costs(target, source, valid)
        parts = [cost - 1, self.compress(target), self.compress(source)]
        if not self.expectation:
            return self.head(self.body(torch.cat(parts, 1))).float() * self.dilation
        offset = self.offset(cost)
        parts.append(offset / self.dilation)
        return offset + self.head(self.body(torch.cat(parts, 1))).float() * self.dilation


class _Refiner(nn.Module):
    """Residual at 1/2, from both features and the field so far, in cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(2 * channels + 2, channels, 1, norm=False),
            nn.LeakyReLU(_SLOPE),
            _conv(channels, channels // 2, 2, norm=False),
            nn.LeakyReLU(_SLOPE),
        )
        self.head = _head(channels // 2, 1)

    def forward(self, target: Tensor, source: Tensor, field: Tensor) -> Tensor:
        x = torch.cat([target, source, field / 8], 1)
        return self.head(self.body(x)).float()


def smooth(x: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (B, C, h, w) with reflected borders."""
    return _blur(x, sigma, odd=False)


def smooth_field(field: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of a field (B, 2, h, w) that preserves linear fields.

    Values are mirrored about the border pixel, because plain reflection would flatten a rotation
    or a change of scale near the border.
    """
    return _blur(field, sigma, odd=True)


def resize_field(field: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a displacement (B, 2, h, w); exact for linear ones away from the border."""
    if tuple(field.shape[-2:]) == size:
        return field
    # bilinear sampling flattens the outermost half cell: pad by one extrapolated cell
    padded = _extrapolate(field, 1)
    grid = base_grid(*size, field)
    scale = grid.new_tensor(
        [field.shape[-1] / padded.shape[-1], field.shape[-2] / padded.shape[-2]]
    )
    return sample_field(padded, (grid * scale).expand(len(field), -1, -1, -1))


def resample(image: Tensor, valid: Tensor, field: Tensor | None) -> tuple[Tensor, Tensor]:
    """Resample an image and its valid pixels, both (B, 1, H, W), with a displacement."""
    if field is None:
        return image, valid
    size = (image.shape[-2], image.shape[-1])
    grid = base_grid(*size, image) + resize_field(field, size).permute(0, 2, 3, 1)
    return warp(image, grid), warp(valid, grid)


def compose_passes(earlier: Tensor | None, step: Tensor) -> Tensor:
    """Compose the displacement of earlier passes with that of the next one."""
    if earlier is None:
        return step
    return compose_displacement(resize_field(earlier, (step.shape[-2], step.shape[-1])), step)


def split_affine(field: Tensor) -> Estimate:
    """Split a displacement (B, 2, h, w) into its least-squares affine and the remainder.

    The affine extrapolates the motion beyond the border of the image.
    """
    height, width = field.shape[-2:]
    base = base_grid(height, width, field)
    position = base + field.permute(0, 2, 3, 1)
    # on a full grid x and y are orthogonal with mean 0: the fit separates
    columns = [
        (position * base[..., axis : axis + 1]).mean((1, 2)) / base[..., axis].square().mean()
        for axis in (0, 1)
    ]
    theta = torch.stack([*columns, position.mean((1, 2))], 2)
    determinant = theta[:, 0, 0] * theta[:, 1, 1] - theta[:, 0, 1] * theta[:, 1, 0]
    invertible = (determinant > 0.05)[:, None, None]
    theta = torch.where(invertible, theta, identity_theta(len(field), field))
    a, b, c, d = theta[:, 0, 0], theta[:, 0, 1], theta[:, 1, 0], theta[:, 1, 1]
    inverse = torch.stack([torch.stack([d, -b], 1), torch.stack([-c, a], 1)], 1)
    inverse = inverse / (a * d - b * c)[:, None, None]
    shift = -(inverse * theta[:, None, :, 2]).sum(2, keepdim=True)
    back = transform_points(torch.cat([inverse, shift], 2), position)
    return Estimate(theta, (back - base).permute(0, 3, 1, 2))


def _extractor() -> nn.Sequential:
    widths = (1, 8, 8, 16, 16)
    layers: list[nn.Module] = []
    for index in range(4):
        layers += [_conv(widths[index], widths[index + 1], index + 1), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers)


def _conv(
    inputs: int, outputs: int, dilation: int, *, stride: int = 1, norm: bool = True
) -> nn.Sequential:
    # reflect padding: zeros would reveal the border, see models.features.bus
    conv = nn.Conv2d(
        inputs,
        outputs,
        3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        padding_mode="reflect",
    )
    return (
        nn.Sequential(conv, nn.InstanceNorm2d(outputs, affine=True))
        if norm
        else nn.Sequential(conv)
    )


def _head(inputs: int, dilation: int) -> nn.Sequential:
    """The last convolution, initialised to a displacement near 0."""
    head = _conv(inputs, 2, dilation, norm=False)
    for name, value in head.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(value, std=1e-3)
        else:
            nn.init.zeros_(value)
    return head


def _blur(x: Tensor, sigma: float, *, odd: bool) -> Tensor:
    # the kernel must fit a small map
    half = min(round(2.5 * sigma), min(x.shape[-2:]) - 1)
    kernel = get_gaussian_kernel1d(2 * half + 1, sigma, device=x.device, dtype=x.dtype)
    padded = _extrapolate(x, half) if odd else F.pad(x, [half] * 4, mode="reflect")
    with torch.autocast(x.device.type, enabled=False):
        return filter2d_separable(padded, kernel, kernel, padding="valid")


def _extrapolate(x: Tensor, by: int) -> Tensor:
    """Pad by ``by`` cells with values mirrored about those of the border."""
    return 2 * F.pad(x, [by] * 4, mode="replicate") - F.pad(x, [by] * 4, mode="reflect")
