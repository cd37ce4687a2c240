"""Registration and fusion of infrared and visible images, for Python, the shell and napari.

Nothing heavy is imported here: every public name is loaded from its module when it is first
used, so ``import napari_busref`` costs neither torch nor napari nor Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_busref._napari.carry_over import carry_over
    from napari_busref._napari.placing import place_on
    from napari_busref._napari.script import register_layers
    from napari_busref.fusion import FusionResult, fuse
    from napari_busref.interchange import ImageGrid, TransformFile, read_transform, write_transform
    from napari_busref.io import read_image, write_image
    from napari_busref.landmarks import LandmarkFit, fit_landmarks
    from napari_busref.models import list_models, load_model
    from napari_busref.pipeline import RegistrationAndFusionResult, register_and_fuse
    from napari_busref.progress import Cancelled
    from napari_busref.quality import Quality
    from napari_busref.registration import RegistrationResult, register
    from napari_busref.samples import list_samples, load_sample
    from napari_busref.transform import Transform

    __version__: str

__all__ = [
    "Cancelled",
    "FusionResult",
    "ImageGrid",
    "LandmarkFit",
    "Quality",
    "RegistrationAndFusionResult",
    "RegistrationResult",
    "Transform",
    "TransformFile",
    "__version__",
    "carry_over",
    "fit_landmarks",
    "fuse",
    "list_models",
    "list_samples",
    "load_model",
    "load_sample",
    "place_on",
    "read_image",
    "read_transform",
    "register",
    "register_and_fuse",
    "register_layers",
    "write_image",
    "write_transform",
]

_HOME = {
    "Cancelled": "progress",
    "FusionResult": "fusion",
    "ImageGrid": "interchange",
    "LandmarkFit": "landmarks",
    "Quality": "quality",
    "RegistrationAndFusionResult": "pipeline",
    "RegistrationResult": "registration",
    "Transform": "transform",
    "TransformFile": "interchange",
    "carry_over": "_napari.carry_over",
    "fit_landmarks": "landmarks",
    "fuse": "fusion",
    "list_models": "models",
    "list_samples": "samples",
    "load_model": "models",
    "load_sample": "samples",
    "place_on": "_napari.placing",
    "read_image": "io",
    "read_transform": "interchange",
    "register": "registration",
    "register_and_fuse": "pipeline",
    "register_layers": "_napari.script",
    "write_image": "io",
    "write_transform": "interchange",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from napari_busref._version import package_version

        value: Any = package_version()
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
