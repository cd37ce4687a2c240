from ._register import RegistrationResult, register

__all__ = ["RegistrationResult", "register"]
