"""The network from local correlations to block likelihoods."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize, pad

from napari_busref.models.features import likelihood
from napari_busref.models.features.likelihood import (
    CELL,
    DenseFeatures,
    Likelihood,
    block_correlation,
    cell_windows,
)


def local(height: int, width: int, seed: int, batch: int = 1) -> DenseFeatures:
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int, stride: int) -> torch.Tensor:
        return torch.randn(batch, channels, height // stride, width // stride, generator=generator)

    return DenseFeatures(
        draw(4, 1),
        normalize(draw(6, CELL), dim=1),
        draw(8, CELL),
        torch.ones(batch, 1, height, width),
    )


@pytest.fixture
def net() -> Likelihood:
    torch.manual_seed(0)
    return Likelihood(channels=8, size=6, width=8, radius=4).eval()


@pytest.mark.parametrize("correlate", [block_correlation, cell_windows])
def test_correlations_are_those_of_the_definition(correlate) -> None:
    generator = torch.Generator().manual_seed(0)
    fixed, moving = torch.randn(2, 2, 3, 8, 12, generator=generator)
    padded = pad(moving, [2] * 4)
    found = correlate(fixed, padded, 4, 2)
    for index, (row, col) in enumerate((r, c) for r in (0, 4) for c in (0, 4, 8)):
        block = fixed[..., row : row + 4, col : col + 4]
        for y in range(5):
            for x in range(5):
                seen = padded[..., row + y : row + y + 4, col + x : col + x + 4]
                wanted = (block * seen).sum(1).mean((1, 2))
                torch.testing.assert_close(found[:, index, y, x], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 40), (48, 16), (56, 72)])
def test_one_window_a_block(net: Likelihood, shape: tuple[int, int]) -> None:
    found = net(local(*shape, 0), local(*shape, 1))
    assert found.shape == (1, 81, shape[0] // 8, shape[1] // 8)
    assert net.settings() == {"channels": 8, "size": 6, "width": 8, "radius": 4}


def test_a_batch_is_its_parts(net: Likelihood) -> None:
    first, second = local(32, 48, 0, 2), local(32, 48, 1, 2)
    both = net(first, second)
    for index in range(2):
        part = (
            DenseFeatures(*(x[index : index + 1] for x in vars(p).values()))
            for p in (first, second)
        )
        torch.testing.assert_close(net(*part)[0], both[index], rtol=1e-4, atol=1e-4)


def test_bands_are_the_whole(net: Likelihood, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = local(80, 48, 0), local(80, 48, 1)
    whole = net(first, second)
    torch.testing.assert_close(net(first, second, 2), whole[..., ::2, ::2])
    monkeypatch.setattr(likelihood, "_BAND_BLOCKS", 12)  # two rows
    torch.testing.assert_close(net(first, second), whole)
    torch.testing.assert_close(net(first, second, 2), whole[..., ::2, ::2])


def test_emptiness_counts_for_nothing(net: Likelihood) -> None:
    """Alike content correlates alike, however much of a block the moving image shows."""
    valid = torch.ones(1, 1, 32, 48)
    valid[..., 20:, :] = 0  # half of the third row of blocks, and the last one
    image = replace(local(32, 48, 0), pixels=torch.ones(1, 4, 32, 48))
    sources = [
        pad(x, [net.radius // cell] * 4)
        for x, cell in zip(
            net._maps(replace(image, pixels=image.pixels * valid), valid),
            likelihood._CELLS,
            strict=True,
        )
    ]
    known = {cell: net._known(valid, cell) for cell in (1, CELL)}
    windows = net._windows(net._maps(image, None), sources, known, 0, 4)
    rows = windows[0, :, 0].reshape(4, 6, 9, 9)
    torch.testing.assert_close(rows[:2, 1:-1], torch.ones(2, 4, 9, 9))
    shown = torch.tensor([8, 7, 6, 5, 4, 3, 2, 1, 0]) / 8  # rows of the third block that are known
    expected = (shown / shown.clamp_min(0.25)).view(9, 1)
    torch.testing.assert_close(rows[2, 1:-1], expected.expand(4, 9, 9))
    assert not rows[3, :, 4:].any()


def test_learns_where_the_content_went(net: Likelihood) -> None:
    """After a few steps on shifted random images, the network finds unseen shifts."""
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)

    def shifted(seed: int, row: int, col: int) -> torch.Tensor:
        fixed = local(64, 64, seed)
        parts = vars(fixed).items()
        moving = DenseFeatures(
            *(
                x.roll((row, col) if n in ("pixels", "valid") else (row // 2, col // 2), (-2, -1))
                for n, x in parts
            )
        )
        found = net(fixed, moving)[..., 2:-2, 2:-2].log_softmax(1)
        return found[:, (row + 4) * 9 + col + 4].mean()

    for step in range(30):
        row, col = divmod(5 * step % 9, 3)
        loss = -shifted(step, 2 * (row - 1), 2 * (col - 1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert float(shifted(99, 4, -4)) > -1.0  # chance: -4.4


def test_the_summary_is_mean_deviation_and_largest() -> None:
    x = torch.randn(2, 3, 5, 40, generator=torch.Generator().manual_seed(0)) * 3 + 1
    expected = torch.cat([x.mean(-1), x.std(-1), x.amax(-1)], 1)
    torch.testing.assert_close(likelihood._summary(x), expected, rtol=1e-4, atol=1e-4)
