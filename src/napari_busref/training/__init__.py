"""Training of every shipped weight, stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_busref.training.trainer import run

__all__ = ["STAGES", "run"]

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


def __getattr__(name: str) -> Any:
    if name == "run":
        from napari_busref.training.trainer import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
