"""The interface between the trainer and a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_busref.models import load_model
from napari_busref.training.batches.augment import Photometric
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.recipe import Recipe


class Stage(nn.Module, ABC):
    """A model with its batches, its loss and its validation.

    Subclasses set ``kind`` and ``export_name`` and build ``self.model``. ``forward`` takes a batch
    from ``draw`` and returns a dictionary of scalar losses; the optimiser minimises ``"loss"``.
    """

    kind: str
    export_name: str
    model: nn.Module

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.photometric = Photometric(recipe.augment)

    def prepare(self, store: PairStore) -> PairStore:
        """Turn the pairs as read into those to train on; called once, before the first step."""
        return store

    @abstractmethod
    def draw(self, store: PairStore) -> Any:
        """Draw one batch. Only this and ``forward`` draw random numbers."""

    @abstractmethod
    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Losses of one batch."""

    @abstractmethod
    def validate(self, device: torch.device) -> dict[str, float]:
        """Scores on held-out pairs."""

    def exports(self) -> dict[str, tuple[str, nn.Module]]:
        """Weights files to write: name to kind and model, the stage's own first."""
        return {self.export_name: (self.kind, self.model)}

    def load_earlier(self, name: str, kind: str) -> nn.Module:
        """Load the model of an earlier stage, from the recipe's folder or as shipped."""
        folder = self.recipe.requires
        source = str(Path(folder) / f"{name}.safetensors") if folder else name
        return load_model(source, device="cpu", kind=kind)

    def load_bus(self) -> dict[str, Tensor]:
        """State of the trained bus that this stage builds on."""
        if self.recipe.start_from:
            start: Any = load_model(self.recipe.start_from, device="cpu", kind=self.kind)
            state: dict[str, Tensor] = start.bus.state_dict()
            return state
        return self.load_earlier("bus", "reconstruction").state_dict()

    def load_fusion(self) -> nn.Module:
        """Load and freeze the trained fusion network that guides this stage."""
        fusion = self.load_earlier("gaf", "fusion")
        self.freeze(fusion)
        return fusion

    @torch.no_grad()
    def blend_start(self) -> None:
        """Average the model's weights with those of the recipe's start."""
        start = load_model(self.recipe.start_from, device="cpu", kind=self.kind).state_dict()
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(start[name].to(value), self.recipe.start_share)

    def load_start(self) -> None:
        """Load the weights of the recipe's start into the model.

        Raises
        ------
        ValueError
            If they are of another kind or do not fit the configuration in the recipe.
        """
        name = self.recipe.start_from
        start = load_model(name, device="cpu", kind=self.kind)
        try:
            self.model.load_state_dict(start.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"start_from: the weights of {name!r} do not fit the recipe's model: {error}"
            ) from error

    @torch.no_grad()
    def mean_losses(self, device: torch.device, draws: int = 6) -> dict[str, float]:
        """Mean losses on the validation pairs, under warps of a fixed seed."""
        store = PairStore.from_config(self.recipe.data, "val").to(device)
        totals: dict[str, float] = {}
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else None):
            torch.manual_seed(0)
            for _ in range(draws):
                for name, value in self(self.draw(store)).items():
                    totals[name] = totals.get(name, 0.0) + float(value) / draws
        return totals

    def freeze(self, module: nn.Module) -> None:
        """Keep ``module`` out of the optimiser."""
        module.requires_grad_(False)
