"""Cancellation of a running network."""

from threading import Thread

import pytest
import torch
from torch import nn

from napari_busref.models.inference import cancellable
from napari_busref.runtime.progress import Cancelled


class Layers(nn.Module):
    """Three layers that count their runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(*(nn.Identity() for _ in range(3)))
        self.ran = 0
        for layer in self.inner:
            layer.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.ran += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_a_network_stops_between_its_layers():
    network = Layers()

    def check() -> None:
        if network.ran == 2:
            raise Cancelled

    with pytest.raises(Cancelled), cancellable([network], check):
        network(torch.zeros(1))
    assert network.ran == 2
    network(torch.zeros(1))  # the hooks are gone
    assert network.ran == 5


def test_other_threads_are_not_interrupted():
    network = Layers()

    def check() -> None:
        raise Cancelled

    with cancellable([network], check):
        other = Thread(target=network, args=(torch.zeros(1),))
        other.start()
        other.join()
    assert network.ran == 3
