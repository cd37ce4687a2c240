from ._fuse import FusionResult, fuse

__all__ = ["FusionResult", "fuse"]
