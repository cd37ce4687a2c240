from ._register import RegistrationResult, register
from .series import SeriesResult, register_series

__all__ = ["RegistrationResult", "SeriesResult", "register", "register_series"]
