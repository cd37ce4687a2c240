"""Cancellation of a running network, and what a call leaves as it was."""

from threading import Event, Thread, current_thread

import numpy as np
import pytest
import torch
from torch import nn

from napari_busref import load_model, register
from napari_busref.data.samples import thermal_scene
from napari_busref.models.inference import cancellable, long_call
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


def counting(cancel: Event | None = None, **options: object) -> Thread:
    """The thread in which a long call runs."""

    @long_call
    def call(*, cancel: Event | None = None, on_cancel: str = "raise") -> Thread:
        return current_thread()

    return call(cancel=cancel, **options)  # type: ignore[arg-type]


def test_a_call_that_can_be_cancelled_runs_in_a_thread():
    assert counting() is current_thread()
    assert counting(Event()) is not current_thread()
    assert counting(Event(), on_cancel="best") is current_thread()


def test_a_cancelled_call_ends_while_a_layer_runs():
    cancel, started, free = Event(), Event(), Event()

    @long_call
    def call(*, cancel: Event) -> None:
        started.set()
        free.wait(60)  # a layer that cannot be interrupted

    def press() -> None:
        started.wait(60)
        cancel.set()

    Thread(target=press).start()
    with pytest.raises(Cancelled):
        call(cancel=cancel)
    free.set()


def test_errors_and_context_pass_through_the_thread():
    @long_call
    def call(*, cancel: Event) -> float:
        return float(np.float64(1) / np.float64(0))

    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        call(cancel=Event())


@pytest.mark.parametrize("name", ["busref", "gaf"])
def test_loading_a_model_leaves_the_random_state(name):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_model(name)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("model", ["auto", "busref", "superfusion"])
def test_torchs_default_type_changes_nothing(model):
    sample = thermal_scene(0, (96, 128))
    options = {"model": model, "refine": "dense", "device": "cpu"}
    expected = register(sample.fixed, sample.moving, **options).transform
    torch.set_default_dtype(torch.float64)
    try:
        found = register(sample.fixed, sample.moving, **options).transform
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected
