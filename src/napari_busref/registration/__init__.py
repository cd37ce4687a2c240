"""Find the transform from one image to another.

`_register` is the public function; `estimate` its core, from a prepared pair to an estimate.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
