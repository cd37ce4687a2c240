from .registry import list_models, load_model, register_model
from .weights import card

__all__ = ["card", "list_models", "load_model", "register_model"]
