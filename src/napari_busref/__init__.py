"""Registration and fusion of infrared and visible images, for Python, the shell and napari.

Nothing heavy is imported here: every public name is loaded from its module on first use, so
``import napari_busref`` costs neither torch nor napari nor Qt. ``__init__.pyi`` names them all.
"""

from importlib.util import find_spec

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
if find_spec("napari") is None:  # `from napari_busref import *` then takes the rest
    _NEED_NAPARI = ("apply_transform", "carry_over", "place_on", "register_layers")
    __all__ = [name for name in __all__ if name not in _NEED_NAPARI]
