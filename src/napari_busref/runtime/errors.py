"""Errors as one line for people."""

from __future__ import annotations

__all__ = ["is_out_of_memory", "one_line"]


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise the out-of-memory errors of Python and torch, without importing torch."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def one_line(error: BaseException) -> str:
    """Format the message of an error as one line."""
    if is_out_of_memory(error) and not (isinstance(error, MemoryError) and str(error)):
        return "out of memory: try --device cpu, or smaller images"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
