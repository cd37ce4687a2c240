"""The network from local correlations to a displacement field."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool2d, normalize

from napari_busref.matching.votes import window_correlation
from napari_busref.models.field_net import BLOCK, FieldNet, Local, block_windows, blocks


def local(height: int, width: int, seed: int, batch: int = 1) -> Local:
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int) -> torch.Tensor:
        return torch.randn(batch, channels, height, width, generator=generator)

    return Local(normalize(draw(6), dim=1), draw(8), draw(2), torch.ones(batch, 1, height, width))


@pytest.fixture
def net() -> FieldNet:
    torch.manual_seed(0)
    return FieldNet(channels=8, size=6, width=16, radius=3).eval()


def test_block_windows_are_those_of_the_loop() -> None:
    first, second = local(12, 20, 0, 2).finest, local(12, 20, 1, 2).finest
    wanted = blocks(window_correlation(first, second, 3))
    torch.testing.assert_close(block_windows(first, second, 3), wanted)


@pytest.mark.parametrize("shape", [(8, 12), (20, 8), (28, 36)])
def test_one_displacement_a_block(net: FieldNet, shape: tuple[int, int]) -> None:
    shift, log_spread = net(local(*shape, 0), local(*shape, 1))
    rows, cols = (n // BLOCK for n in shape)
    assert shift.shape == (1, 2, rows, cols)
    assert log_spread.shape == (1, 1, rows, cols)


def test_what_is_not_known_has_no_vote(net: FieldNet) -> None:
    fixed, moving = local(16, 24, 0), local(16, 24, 1)
    known = torch.ones_like(fixed.known)
    known[..., 12:] = 0

    hidden = Local(moving.learned, moving.finest, moving.edges, known)
    votes = net.votes(fixed, hidden)
    # blocks whose whole window lies where nothing is known
    assert not votes.learned[..., 4:].any()
    partly = Local(fixed.learned, fixed.finest, fixed.edges, known)
    share = net.votes(partly, moving).share
    torch.testing.assert_close(share, avg_pool2d(known, BLOCK))


def test_learns_a_shift(net: FieldNet) -> None:
    """A few steps on one pair that is shifted by two cells find the shift."""
    fixed = local(24, 32, 0)
    rolled = (x.roll(2, -1) for x in (fixed.learned, fixed.finest, fixed.edges))
    moving = Local(*rolled, fixed.known)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(40):
        shift, _ = net(fixed, moving)
        wanted = torch.tensor([2.0, 0.0])[None, :, None, None]
        loss = (shift - wanted).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.3
    assert net.settings() == {"channels": 8, "size": 6, "width": 16, "radius": 3}
