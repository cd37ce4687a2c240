"""Training of every shipped weight, stage by stage."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_busref.training.finetuning import finetune, resume_finetuning
    from napari_busref.training.trainer import run

__all__ = ["STAGES", "finetune", "resume_finetuning", "run"]

STAGES = (
    "bus",
    "gaf",
    "registration",
    "matcher",
    "superfusion",
    "likelihood",
    "superfusion-fusion",
    "mda",
    "refusion",
)
"""The stages, in the order in which they build on each other."""


_HOME = {"finetune": "finetuning", "resume_finetuning": "finetuning", "run": "trainer"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
