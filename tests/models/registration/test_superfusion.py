"""SuperFusion's matcher: sizes, both directions, geometry and learning."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from napari_busref.geometry import base_grid, sampling_grid, warp
from napari_busref.models.registration.superfusion import (
    FlowEstimator,
    SuperFusionConfig,
    SuperFusionMatcher,
    compose_passes,
    resample,
    resize_field,
    smooth_field,
    split_affine,
)
from napari_busref.runtime.progress import Cancelled, Reporter

SMALL = SuperFusionConfig(sides=(48, 64))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def picture(size: tuple[int, int], batch: int = 1) -> Tensor:
    coarse = torch.rand(batch, 1, size[0] // 6, size[1] // 6)
    image = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return image.clamp(0, 1)


def linear(matrix: list[list[float]], size: tuple[int, int]) -> Tensor:
    """A displacement (1, 2, h, w) that is affine in the normalised coordinates."""
    theta = torch.tensor([matrix])
    base = base_grid(*size, theta)
    return (base @ theta[:, :, :2].transpose(1, 2) + theta[:, None, :, 2]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(16, 16), (50, 37), (40, 200)])
@pytest.mark.parametrize("expectation", [True, False])
def test_registers_any_size(size: tuple[int, int], expectation: bool) -> None:
    model = SuperFusionMatcher(SuperFusionConfig(sides=(48, 64), expectation=expectation)).eval()
    fixed, moving = torch.rand(2, 1, *size), torch.rand(2, 1, *size)
    with torch.no_grad():
        estimate = model(fixed, moving)
        forward, backward = model.match(fixed, moving)
    rows, cols = (n // 2 for n in model.working_shape(*size))
    assert estimate.phi is not None
    assert estimate.phi.shape == forward.shape == backward.shape == (2, 2, rows, cols)
    assert torch.isfinite(estimate.phi).all()
    # the estimate is the forward field, split into an affine and a remainder
    positions = base_grid(rows, cols, forward) + forward.permute(0, 2, 3, 1)
    torch.testing.assert_close(sampling_grid(estimate, rows, cols), positions, atol=1e-5, rtol=0)


def test_the_other_direction_is_estimated() -> None:
    model = SuperFusionMatcher(SMALL).eval()
    fixed, moving = picture((48, 64)), picture((48, 64))
    with torch.no_grad():
        found = model.symmetric(fixed, moving)
        fields = model.match(fixed, moving)
    assert found.backward is not None
    for estimate, field in zip((found, found.backward), fields, strict=True):
        rows, cols = field.shape[-2:]
        positions = base_grid(rows, cols, field) + field.permute(0, 2, 3, 1)
        torch.testing.assert_close(
            sampling_grid(estimate, rows, cols), positions, atol=1e-5, rtol=0
        )


def test_each_element_of_a_batch_is_on_its_own() -> None:
    model = SuperFusionMatcher(SMALL).eval()
    fixed, moving = torch.rand(2, 1, 40, 52), torch.rand(2, 1, 40, 52)
    with torch.no_grad():
        together = model.match(fixed, moving)[0]
        alone = model.match(fixed[1:], moving[1:])[0]
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_empty_border_is_no_content() -> None:
    """Values of invalid pixels do not matter."""
    model = SuperFusionMatcher(SMALL).eval()
    fixed, moving = picture((64, 64)), picture((64, 64))
    valid = torch.ones_like(moving)
    valid[..., :16] = 0
    with torch.no_grad():
        black = model.match(fixed, moving * valid, valid)[0]
        white = model.match(fixed, torch.where(valid > 0, moving, 1.0), valid)[0]
        unknown = model.match(fixed, torch.where(valid > 0, moving, 1.0))[0]
    # resizing and resampling mix the pixels of the border with their neighbours
    assert (black - white).abs().mean() < 0.3 * (unknown - white).abs().mean()


def test_autocast_rounds_no_positions() -> None:
    model = SuperFusionMatcher(SMALL).eval()
    fixed, moving = picture((48, 64)), picture((48, 64))
    with torch.no_grad():
        exact = model.match(fixed, moving)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model.match(fixed, moving)
    for field, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        # bfloat16 has 8 bits: positions would have steps of 1/128
        assert len(other.unique()) > 0.9 * other.numel()
        assert (field - other).abs().mean() < 0.05


def test_a_constant_image_has_constant_features() -> None:
    """No padding reveals the border."""
    model = SuperFusionMatcher(SMALL)
    pyramid = model.features(
        torch.full((1, 1, 64, 64), 0.3), torch.ones(1, 1, 64, 64), visible=True
    )
    for level in pyramid.levels:
        torch.testing.assert_close(level, level[:, :, :1, :1].expand_as(level))


@pytest.mark.parametrize("expectation", [True, False])
def test_every_weight_learns(expectation: bool) -> None:
    model = SuperFusionMatcher(SuperFusionConfig(sides=(48,), expectation=expectation))
    forward, backward = model.match(torch.rand(1, 1, 48, 48), torch.rand(1, 1, 48, 48))
    (forward.square().mean() + backward.square().mean()).backward()
    # an instance norm removes the bias of the layer before it
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {name for name in silent if "temperature" not in name or expectation}


def test_cost_volume_is_the_squared_difference() -> None:
    config = SuperFusionConfig(radius=1, dilation=2, sigma=1.0)
    estimator = FlowEstimator(8, config)
    target, source = torch.randn(1, 8, 9, 10), torch.randn(1, 8, 9, 10)
    known = torch.ones(1, 1, 9, 10)
    cost = estimator.costs(target, source, known)
    a, b, _ = estimator.describe(target, source, known)
    index = 0
    for dy in (-2, 0, 2):
        for dx in (-2, 0, 2):
            for r in range(9):
                for c in range(10):
                    y, x = r + dy, c + dx
                    if 0 <= y < 9 and 0 <= x < 10:
                        expected = (a[0, :, r, c] - b[0, :, y, x]).square().sum() / 2
                    else:
                        expected = torch.tensor(1.0)
                    torch.testing.assert_close(cost[0, index, r, c], expected)
            index += 1


def test_expected_offset_points_to_the_match() -> None:
    """The source's content is four columns to the right and eight rows up: x 4, y -8."""
    estimator = FlowEstimator(32, SuperFusionConfig(sigma=0.5))
    target = torch.randn(1, 32, 32, 32)
    source = target.roll((-8, 4), (2, 3))
    cost = estimator.costs(target, source, torch.ones(1, 1, 32, 32))
    offset = estimator.offset(cost)[0, :, 12:-12, 12:-12]
    torch.testing.assert_close(offset.mean((1, 2)), torch.tensor([4.0, -8.0]), atol=0.3, rtol=0)


def test_without_any_match_nothing_moves() -> None:
    """Also at the border, where half of the offsets are outside the image."""
    estimator = FlowEstimator(8, SuperFusionConfig())
    blank = torch.zeros(1, 8, 10, 12)
    cost = estimator.costs(blank, blank, torch.ones(1, 1, 10, 12))
    assert estimator.offset(cost).abs().max() < 1e-4


def test_smoothing_and_resizing_keep_linear_fields() -> None:
    matrix = [[0.1, -0.2, 0.05], [0.15, -0.05, -0.1]]
    field = linear(matrix, (18, 26))
    torch.testing.assert_close(smooth_field(field, 4.0), field, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        resize_field(field, (36, 52)), linear(matrix, (36, 52)), atol=1e-5, rtol=0
    )


def test_split_affine_takes_the_affine_out() -> None:
    matrix = [[0.1, -0.2, 0.05], [0.15, -0.05, -0.1]]
    estimate = split_affine(linear(matrix, (18, 26)))
    expected = torch.tensor([[[1.1, -0.2, 0.05], [0.15, 0.95, -0.1]]])
    torch.testing.assert_close(estimate.theta, expected, atol=1e-5, rtol=0)
    assert estimate.phi is not None and estimate.phi.abs().max() < 1e-5


def test_split_affine_survives_a_collapse() -> None:
    """A field that maps everything to one point has no invertible affine."""
    estimate = split_affine(-base_grid(12, 12, torch.zeros(1)).permute(0, 3, 1, 2))
    torch.testing.assert_close(estimate.theta, torch.eye(2, 3)[None])
    assert estimate.phi is not None and torch.isfinite(estimate.phi).all()


def test_passes_compose_to_one_interpolation() -> None:
    """The composition equals two resamplings in turn."""
    image, ones = picture((48, 64)), torch.ones(1, 1, 48, 64)
    first = linear([[0.0, 0.2, 0.1], [-0.2, 0.0, 0.05]], (48, 64))
    second = linear([[0.0, 0.02, -0.15], [0.01, 0.0, 0.2]], (48, 64))
    twice, seen = resample(*resample(image, ones, first), second)
    composed, there = resample(image, ones, compose_passes(first, second))
    swapped, _ = resample(image, ones, compose_passes(second, first))
    known = (seen > 0.99) & (there > 0.99)
    assert known.float().mean() > 0.4
    error = (twice - composed).abs()[known].mean()
    assert error < 0.2 * (twice - swapped).abs()[known].mean()


def test_learns_to_undo_shifts_both_ways() -> None:
    """40 steps on four shifted images of inverted contrast: the fields approach the truth."""
    model = SuperFusionMatcher(SuperFusionConfig(sides=(64,), radius=2, dilation=1, sigma=1.0))
    optimiser = torch.optim.Adam(model.parameters(), 4e-3)
    wide, shifts = picture((96, 96), 4), [(12, -6), (-9, 8), (5, 12), (-12, -10)]
    fixed = wide[..., 16:80, 16:80]
    # the content of fixed at p is at p + shift in moving
    moving = 1 - torch.cat(
        [wide[i, :, 16 - y : 80 - y, 16 - x : 80 - x][None] for i, (x, y) in enumerate(shifts)]
    )
    wanted = torch.tensor(shifts)[:, :, None, None] * 2 / 64
    for _ in range(40):
        forward, backward = model.match(fixed, moving)
        loss = (forward - wanted).abs().mean() + (backward + wanted).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        estimate = model(fixed, moving)
        forward, backward = model.match(fixed, moving)
    scale = wanted.abs().mean()
    assert (forward - wanted).abs().mean() < 0.5 * scale
    assert (backward + wanted).abs().mean() < 0.5 * scale
    assert compose_passes(forward, backward).abs().mean() < 0.5 * scale
    registered = warp(moving, sampling_grid(estimate, 64, 64), padding="border")
    before, after = ((x - (1 - fixed)).square().mean() for x in (moving, registered))
    assert after < 0.8 * before


def test_stops_when_asked() -> None:
    class Stop(Reporter):
        def step(self, stage: str, fraction: float) -> None:
            if fraction >= 0.5:
                raise Cancelled(stage)

    with pytest.raises(Cancelled):
        SuperFusionMatcher(SMALL)(
            torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32), reporter=Stop()
        )
