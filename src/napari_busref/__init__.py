"""Registration and fusion of infrared and visible images, for Python, the shell and napari.

Nothing heavy is imported here: every public name is loaded from its module on first use, so
``import napari_busref`` costs neither torch nor napari nor Qt. ``__init__.pyi`` names them all.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
