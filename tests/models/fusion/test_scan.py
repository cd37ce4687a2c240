"""The recurrence in chunks equals the plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from napari_busref.models.fusion.scan import four_directions, recurrent_scan


def naive(x: Tensor, weight: Tensor) -> Tensor:
    """Run the recurrence pixel by pixel."""
    lines = [x[..., 0].relu()]
    for t in range(1, x.shape[-1]):
        lines.append((weight[:, None] * lines[-1] + x[..., t]).relu())
    return torch.stack(lines, -1)


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 16, 37])
@pytest.mark.parametrize("chunk", [1, 4, 8, 64])
def test_scan_is_the_loop(width: int, chunk: int) -> None:
    torch.manual_seed(width)
    x, weight = torch.randn(2, 3, 5, width), torch.tensor([0.0, 0.7, 1.0])
    torch.testing.assert_close(recurrent_scan(x, weight, chunk), naive(x, weight))


def test_gradients_of_the_scan_are_those_of_the_loop() -> None:
    torch.manual_seed(0)
    given = torch.randn(1, 2, 3, 21, dtype=torch.float64)
    found = []
    for scan in (lambda x, a: recurrent_scan(x, a, 4), naive):
        x = given.clone().requires_grad_()
        weight = torch.tensor([0.4, 0.9], dtype=torch.float64, requires_grad=True)
        (scan(x, weight) * torch.arange(21.0)).sum().backward()
        found.append((x.grad, weight.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_long_lines_with_small_weights_stay_exact() -> None:
    """The scan needs no power of a weight over the whole line, which would under- or overflow."""
    x, weight = torch.randn(1, 1, 1, 700), torch.tensor([0.01])
    torch.testing.assert_close(recurrent_scan(x, weight), naive(x, weight))


def test_four_directions_are_the_scan_of_the_turned_image() -> None:
    torch.manual_seed(1)
    x, weights = torch.randn(2, 3, 6, 9), torch.rand(4, 3)
    found = four_directions(x, weights, chunk=4)
    expected = [
        naive(x, weights[0]),
        naive(x.flip(3), weights[1]).flip(3),
        naive(x.transpose(2, 3), weights[2]).transpose(2, 3),
        naive(x.flip(2).transpose(2, 3), weights[3]).transpose(2, 3).flip(2),
    ]
    torch.testing.assert_close(found, torch.stack(expected, 1))
