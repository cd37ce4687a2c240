from ._napari.apply_transform.api import apply_transform, carry_over
from ._napari.apply_transform.placing import place_on
from ._napari.register.api import register_layers
from .data.samples import list_samples, load_sample
from .fusion._fuse import FusionResult, fuse
from .fusion.streaming import write_fused
from .images.io import read_image, write_image
from .images.large import LargeImage, open_image
from .models.registry import list_models, load_model
from .pipeline import RegistrationAndFusionResult, register_and_fuse
from .registration._register import RegistrationResult, register
from .registration.large import LargeRegistrationResult
from .registration.quality import Quality
from .registration.series import SeriesResult, register_series
from .runtime.progress import Cancelled
from .runtime.version import __version__
from .transforms.formats import ImageGrid, TransformFile, read_transform, write_transform
from .transforms.landmarks import LandmarkFit, fit_landmarks
from .transforms.map_transform import map_transform
from .transforms.streaming import write_mask, write_warped
from .transforms.transform import Transform

__all__ = [
    "Cancelled",
    "FusionResult",
    "ImageGrid",
    "LandmarkFit",
    "LargeImage",
    "LargeRegistrationResult",
    "Quality",
    "RegistrationAndFusionResult",
    "RegistrationResult",
    "SeriesResult",
    "Transform",
    "TransformFile",
    "__version__",
    "apply_transform",
    "carry_over",
    "fit_landmarks",
    "fuse",
    "list_models",
    "list_samples",
    "load_model",
    "load_sample",
    "map_transform",
    "open_image",
    "place_on",
    "read_image",
    "read_transform",
    "register",
    "register_and_fuse",
    "register_layers",
    "register_series",
    "write_fused",
    "write_image",
    "write_mask",
    "write_transform",
    "write_warped",
]
