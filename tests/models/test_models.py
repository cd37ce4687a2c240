"""The networks: shapes, sizes, identities and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_busref.geometry import estimate_to_pixels
from napari_busref.models.features.bus import Bus
from napari_busref.models.fusion.baselines import Average, LaplacianPyramid
from napari_busref.models.fusion.gaf import Gaf, GafConfig
from napari_busref.models.registration.affine_net import AffineNet, DynamicConv2d
from napari_busref.models.registration.busref import BusRef, BusRefConfig, standardise
from napari_busref.models.registration.deformable_net import DeformableNet
from napari_busref.models.registration.descriptors import (
    affine_from_matches,
    aggregated_match,
    correlate,
    local_window,
)

SMALL = BusRefConfig(channels=16, affine_sides=(48, 64), deformable_sides=(64, 64))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_bus_gives_four_features_at_an_eighth() -> None:
    features = Bus(16).encode(torch.rand(2, 1, 40, 56))
    assert [tuple(f.shape) for f in features] == [(2, 16, 5, 7)] * 4


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (33, 64)])
def test_bus_returns_the_exact_size(size: tuple[int, int]) -> None:
    assert Bus(16)(torch.rand(1, 1, *size)).shape == (1, 1, *size)


def test_bus_has_no_position_of_its_own() -> None:
    """Features of a constant image are constant: no zero padding reveals the border."""
    deepest = Bus(16).encode(torch.full((1, 1, 48, 48), 0.3))[-1]
    torch.testing.assert_close(deepest, deepest[:, :, :1, :1].expand_as(deepest))


def test_dynamic_convolution_mixes_its_kernels() -> None:
    """When the attention selects one kernel, the result is that kernel's convolution."""
    layer = DynamicConv2d(8, kernels=3, temperature=1e-4)
    x = torch.randn(4, 8, 6, 5)
    chosen = (layer.attention(x.mean((2, 3)))).argmax(1)
    for i, k in enumerate(chosen.tolist()):
        expected = torch.nn.functional.conv2d(
            x[i : i + 1], layer.weight[k], layer.bias[k], padding=1
        )
        torch.testing.assert_close(layer(x)[i : i + 1], expected, rtol=1e-4, atol=1e-4)


def test_affine_net_starts_at_the_identity() -> None:
    features = [torch.randn(2, 16, 6, 7) for _ in range(8)]
    delta = AffineNet(16, width=16, matching=False)(features[:4], features[4:])
    assert torch.equal(delta, torch.zeros(2, 2, 3))


def test_affine_net_with_matching_starts_at_the_fit() -> None:
    """Descriptors match two cells to the right: the untrained network returns that shift."""
    fixed = torch.nn.functional.normalize(torch.randn(1, 4, 8, 10, 14), dim=2)
    moving = fixed.roll(2, 4)
    features = [torch.zeros(1, 16, 10, 14) for _ in range(8)]
    net = AffineNet(16, width=16, radius=3)
    delta = net(features[:4], features[4:], (fixed, moving))
    expected = torch.tensor([[[0, 0, 2 * 2 / 10], [0, 0, 0]]])
    torch.testing.assert_close(delta, expected, atol=0.05, rtol=0)


def test_deformable_net_keeps_the_levels_apart() -> None:
    """A change of F2 alone changes only the second of the four two-channel proposals."""
    net = DeformableNet(16, width=8, matching=False).eval()
    features = [torch.randn(1, 16, 6, 7) for _ in range(8)]
    seen: list[Tensor] = []
    net.propose.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    net(features[:4], features[4:])
    changed = [f + (i == 1) for i, f in enumerate(features[:4])]
    net(changed, features[4:])
    difference = (seen[0] - seen[1]).abs().amax((0, 2, 3)).view(4, 2).amax(1)
    assert difference[1] > 0
    assert torch.equal(difference[[0, 2, 3]], torch.zeros(3))


def test_local_window_is_cut_from_the_correlation() -> None:
    height, width, radius = 4, 5, 1
    a, b = torch.randn(1, 2, 3, height, width), torch.randn(1, 2, 3, height, width)
    window = local_window(correlate(a, b), height, width, radius).view(1, 2, 3, 3, height, width)
    for dy in range(3):
        for dx in range(3):
            for r in range(height):
                for c in range(width):
                    y, x = r + dy - 1, c + dx - 1
                    inside = 0 <= y < height and 0 <= x < width
                    expected = (
                        (a[0, :, :, r, c] * b[0, :, :, y, x]).sum(1) if inside else torch.zeros(2)
                    )
                    torch.testing.assert_close(window[0, :, dy, dx, r, c], expected)


def test_voted_match_finds_a_shift_that_single_cells_do_not() -> None:
    """With noisy correlations, one cell is wrong more often than 25 together."""
    height, width, radius = 12, 14, 3
    fixed = torch.nn.functional.normalize(torch.randn(1, 1, 32, height, width), dim=2)
    moving = fixed.roll((1, 2), (3, 4))
    correlation = correlate(fixed, moving)
    window = local_window(
        correlation + 0.45 * torch.randn_like(correlation), height, width, radius
    )
    inside = local_window(torch.ones_like(correlation), height, width, radius)
    truth = torch.tensor([2.0, 1.0])[:, None, None]
    wrong = {}
    for side in (1, 5):
        cells, confidence = aggregated_match(window, inside, torch.tensor(0.01), side)
        assert confidence.shape == (1, 1, height, width)
        error = (cells[0] - truth)[:, 2:-3, 2:-4].norm(dim=0)
        wrong[side] = float((error > 0.5).float().mean())
    assert wrong[1] > 0.3
    assert wrong[5] < 0.05


def test_fit_affine_ignores_outliers() -> None:
    position = torch.rand(300, 2) * 2 - 1
    truth = torch.tensor([[[0.1, -0.05, 0.2], [0.05, 0.08, -0.1]]])
    moves = (truth[:, :, :2] @ position.T + truth[:, :, 2:]).transpose(1, 2)
    moves[:, ::4] = torch.randn(1, 75, 2)
    fitted = affine_from_matches(moves, torch.ones(1, 300), position, rounds=6)
    torch.testing.assert_close(fitted, truth, atol=0.02, rtol=0)
    nothing = affine_from_matches(moves, torch.zeros(1, 300), position)
    assert torch.isfinite(nothing).all() and nothing.abs().max() < 1e-3


@pytest.mark.parametrize("size", [(16, 16), (50, 37), (40, 200)])
@pytest.mark.parametrize("matching", [True, False])
def test_busref_registers_any_size(size: tuple[int, int], matching: bool) -> None:
    model = BusRef(BusRefConfig(channels=16, affine_sides=(48, 64), matching=matching)).eval()
    with torch.no_grad():
        estimate = model(torch.rand(2, 1, *size), torch.rand(2, 1, *size))
    assert estimate.theta.shape == (2, 2, 3)
    assert estimate.phi is not None
    affine, displacement = estimate_to_pixels(estimate, size)[0]
    assert affine.shape == (3, 3)
    assert displacement is not None and displacement.shape == (2, *size)
    assert np.isfinite(displacement).all()


def test_busref_batch_elements_do_not_mix() -> None:
    model = BusRef(SMALL).eval()
    fixed, moving = torch.rand(2, 1, 48, 48), torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        both, one = model(fixed, moving), model(fixed[1:], moving[1:])
    # rounding depends on the size of the batch and propagates from pass to pass
    torch.testing.assert_close(both.theta[1:], one.theta, rtol=0, atol=1e-3)
    torch.testing.assert_close(both.phi[1:], one.phi, rtol=0, atol=1e-3)
    assert (both.theta[0] - both.theta[1]).abs().max() > 1e-2


def test_bfloat16_autocast_stays_near_float32() -> None:
    """After one pass on a smooth pair, the estimates differ only by rounding."""
    coarse = torch.rand(1, 1, 8, 8)
    image = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)
    register = BusRef(BusRefConfig(16, affine_sides=(64,), deformable_sides=())).eval()
    fuse = Gaf(GafConfig(bus_channels=16, width=8)).eval()
    with torch.no_grad():
        exact, fused = register(image, image).theta, fuse(image, 1 - image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, fused_rounded = register(image, image).theta, fuse(image, 1 - image)
    assert rounded.dtype == torch.float32  # positions are never rounded to bfloat16
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    torch.testing.assert_close(fused_rounded.float(), fused, atol=0.02, rtol=0)


def test_standardise_ignores_what_is_not_valid() -> None:
    image = torch.rand(1, 1, 20, 20)
    valid = torch.zeros_like(image)
    valid[..., 5:15, 3:18] = 1
    wild = torch.where(valid > 0, image, 1e3)
    torch.testing.assert_close(standardise(wild, valid), standardise(image, valid))
    flat = standardise(torch.full_like(image, 0.2))
    torch.testing.assert_close(flat, torch.full_like(image, 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (45, 70)])
def test_gaf_fuses_any_size_into_the_unit_range(size: tuple[int, int]) -> None:
    with torch.no_grad():
        fused = Gaf(GafConfig(bus_channels=16, width=8))(
            torch.rand(2, 1, *size), torch.rand(2, 1, *size)
        )
    assert fused.shape == (2, 1, *size)
    assert float(fused.min()) >= 0 and float(fused.max()) <= 1


def test_controls_return_what_they_must() -> None:
    image = torch.rand(1, 1, 50, 61)
    torch.testing.assert_close(LaplacianPyramid()(image, image), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(Average()(image, 1 - image), torch.full_like(image, 0.5))
    flat = torch.full_like(image, 0.5)
    assert LaplacianPyramid()(image, flat).std() > 2 * Average()(image, flat).std() * 0.9
