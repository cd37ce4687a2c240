from ._register import RegistrationResult, register
from .large import LargeRegistrationResult
from .series import SeriesResult, register_series

__all__ = [
    "LargeRegistrationResult",
    "RegistrationResult",
    "SeriesResult",
    "register",
    "register_series",
]
