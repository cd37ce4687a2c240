"""The fusion networks: sizes, ranges, gradients, and the effect of their parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_busref import fuse
from napari_busref.models.fusion.gaf import Gaf, GafConfig
from napari_busref.models.fusion.mda import DualAttention, Mda, MdaConfig
from napari_busref.models.fusion.refusion import PRIORS, ChannelAttention, ReFusion, ReFusionConfig
from napari_busref.models.fusion.superfusion import (
    GlobalSpatialAttention,
    SuperFusionNet,
    SuperFusionNetConfig,
)
from napari_busref.training.losses.fusion import pyramid_gradient_loss
from napari_busref.training.recipe import FusionLossConfig

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "gaf": lambda: Gaf(GafConfig(bus_channels=16, width=6)),
    "superfusion": lambda: SuperFusionNet(SuperFusionNetConfig(attention_width=6)),
    "mda": lambda: Mda(MdaConfig(width=8)),
    "refusion": lambda: ReFusion(ReFusionConfig(width=8, heads=4)),
    "refusion at full resolution": lambda: ReFusion(ReFusionConfig(width=8, heads=4, stride=1)),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> nn.Module:
    return NETWORKS[request.param]()


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (41, 64)])
def test_any_size_comes_back_in_the_unit_range(network: nn.Module, size: tuple[int, int]) -> None:
    visible, infrared = torch.rand(2, 1, *size), torch.rand(2, 1, *size)
    with torch.inference_mode():
        fused = network.eval()(visible, infrared)
    assert fused.shape == visible.shape
    assert 0 <= float(fused.min()) < float(fused.max()) <= 1


def test_every_parameter_learns(network: nn.Module) -> None:
    """Gradients reach every parameter; ReFusion's other modules only define the loss."""
    used = network.fusion if isinstance(network, ReFusion) else network
    visible, infrared = 0.3 + 0.4 * torch.rand(2, 2, 1, 40, 40)
    network(visible, infrared).square().sum().backward()
    assert isinstance(used, nn.Module)
    idle = [
        name
        for name, parameter in used.named_parameters()
        # GAF reads the bus's activations, not its reconstruction
        if parameter.grad is None and not name.startswith(("bus.up", "bus.head"))
    ]
    assert not idle


def test_a_few_steps_on_one_pair_lower_the_loss(network: nn.Module) -> None:
    visible, infrared = _scene()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses, wanted = [], FusionLossConfig(gains=(1.0, 1.0))
    for _ in range(25):
        loss = pyramid_gradient_loss(network(visible, infrared), visible, infrared, wanted)
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.85 * losses[0]


def test_images_of_a_batch_do_not_see_each_other(network: nn.Module) -> None:
    visible, infrared = torch.rand(2, 2, 1, 32, 40)
    with torch.inference_mode():
        both = network.eval()(visible, infrared)
        alone = network(visible[1:], infrared[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


def test_tiles_give_what_the_whole_image_gives(network: nn.Module) -> None:
    network.eval()
    visible, infrared = torch.rand(2, 45, 483).numpy()
    visible *= np.linspace(0.2, 1, 483, dtype=np.float32)
    whole = fuse(visible, infrared, model=network, device="cpu", tile=None).fused
    tiles = fuse(visible, infrared, model=network, device="cpu", tile=48).fused
    np.testing.assert_allclose(tiles, whole, atol=2e-5)
    assert whole.std() > 0.01


def test_bfloat16_is_near_and_without_a_parameter_of_its_own_type(network: nn.Module) -> None:
    visible, infrared = torch.rand(2, 40, 56).numpy()
    plain = fuse(visible, infrared, model=network, device="cpu").fused
    rounded = fuse(visible, infrared, model=network, device="cpu", precision="bfloat16").fused
    np.testing.assert_allclose(rounded, plain, atol=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_gsam_hears_from_the_far_end_of_the_row() -> None:
    """A change at one end of a row changes the attention at the other end."""
    attention = GlobalSpatialAttention(4, SuperFusionNetConfig(attention_width=16))
    features = torch.zeros(2, 1, 4, 64, 96)
    with torch.no_grad():
        before = attention(features[0], features[1])
        features[0, :, :, :4, :4] += 5
        after = attention(features[0], features[1])
    assert before.shape == (1, 4, 64, 96)
    assert float((before - after)[..., 80:].abs().max()) > 0


@torch.no_grad()
def test_dual_attention_weighs_each_modality_on_its_own() -> None:
    """Without visible features, the output is infrared times a weight in (0, 1)."""
    infrared = torch.rand(1, 8, 6, 10) + 0.1
    fused = DualAttention(8)(infrared, torch.zeros_like(infrared), torch.rand(1, 16))
    share = fused / infrared
    assert 0 < float(share.min()) < float(share.max()) < 1


def test_channel_attention_is_the_written_out_one() -> None:
    layer = ChannelAttention(6, 3)
    nn.init.uniform_(layer.temperature, 0.5, 2)
    x = torch.randn(1, 6, 4, 5)
    query = layer.query_near(layer.query(x))[0].flatten(1)
    key, value = (y.flatten(1) for y in layer.key_value_near(layer.key_value(x))[0].chunk(2))
    mixed = []
    for head in range(3):
        rows = slice(2 * head, 2 * head + 2)
        q, k = (y[rows] / y[rows].norm(dim=1, keepdim=True) for y in (query, key))
        mixed.append((q @ k.T * layer.temperature[head]).softmax(1) @ value[rows])
    expected = layer.output(torch.cat(mixed).view(1, 6, 4, 5))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_loss_weights_of_refusion_share_every_pixel() -> None:
    model = ReFusion(ReFusionConfig(width=8, heads=4))
    nn.init.normal_(model.proposal[-1].weight)
    weights = model.loss_weights(torch.rand(1, 1, 17, 23), torch.rand(1, 1, 17, 23))
    torch.testing.assert_close(weights.first + weights.second, torch.ones(1, 1, 17, 23))
    assert float(weights.first.std()) > 0
    assert 0 < float(weights.gradient.min()) <= float(weights.gradient.max()) < 2


@torch.no_grad()
def test_each_prior_of_refusion_prefers_what_it_says() -> None:
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    stripes, grey, dark = 0.5 + 0.1 * torch.sin(2 * x), 0.5 + 0 * x, 0.05 + 0 * y
    preferred = {
        "brighter": (grey, dark),
        "sharper": (stripes, grey),
    }
    assert set(preferred) | {"equal"} == set(PRIORS)
    for prior, pair in preferred.items():
        model = ReFusion(ReFusionConfig(width=8, heads=4, prior=prior))
        first, second = (image[None, None] for image in pair)
        assert float(model.loss_weights(first, second).first.mean()) > 0.9
        assert float(model.loss_weights(second, first).second.mean()) > 0.9
    equal = ReFusion(ReFusionConfig(width=8, heads=4)).loss_weights(first, second)
    torch.testing.assert_close(equal.first, equal.second)


@torch.no_grad()
def test_refusion_keeps_black_black() -> None:
    """Black background, as around a head, stays below half a grey level of 255."""
    nothing = torch.zeros(1, 1, 24, 24)
    assert float(NETWORKS["refusion"]()(nothing, nothing).max()) < 0.5 / 255


def _scene() -> tuple[Tensor, Tensor]:
    """Stripes in the visible image only, a bright disc in the infrared one only."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    disc = ((x - 16) ** 2 + (y - 16) ** 2 < 64).float()
    return (0.5 + 0.3 * torch.sin(x))[None, None], (0.2 + 0.6 * disc)[None, None]
