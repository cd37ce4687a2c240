"""Looking on while a model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from napari_busref.progress import Reporter


class Monitor(Protocol):
    """What the ``monitor=`` argument of `napari_busref.training.run` accepts."""

    def logged(self, step: int, losses: Mapping[str, float]) -> None:
        """Take note of the losses of a logged step; raise to stop with a checkpoint."""

    def measure(self, model: nn.Module, step: int, reporter: Reporter) -> dict[str, float]:
        """Measure the model, in evaluation mode on the device of the training.

        Called every ``validate_every`` steps and after the last one. `reporter` is asked whether
        to stop.
        """
