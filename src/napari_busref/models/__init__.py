"""Models: a registry of what can register, fuse or reconstruct, and the shipped weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_busref.models.registry import list_models, load_model, register_model
    from napari_busref.models.weights import card

__all__ = ["card", "list_models", "load_model", "register_model"]

_HOMES = {
    "card": "weights",
    "list_models": "registry",
    "load_model": "registry",
    "register_model": "registry",
}


def __getattr__(name: str) -> Any:
    # torch is loaded by load_model, not by listing names
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"napari_busref.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
