"""Base class of the networks' configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

_LARGEST = 65536


@dataclass(frozen=True)
class PlainConfig:
    """A configuration on a card or in a recipe."""

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Build from the values of a card or a recipe, which hold tuples as lists.

        Raises
        ------
        ValueError
            For an unknown name, and for a value of another type than the default's or too large.
        """
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        defaults = {field.name: field.default for field in fields(cls)}
        for name, value in plain.items():
            if name not in defaults:
                raise ValueError(f"model.{name}: unknown; accepted are {', '.join(defaults)}")
            if not _fits(value, defaults[name]):
                kind = type(defaults[name]).__name__
                raise ValueError(f"model.{name}: got {value!r}, need {kind}, at most {_LARGEST}")
        return cls(**plain)


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has the type of the default and is no larger than any sensible width."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_fits(v, default[0]) for v in value if default)
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if isinstance(default, int | float):
        kinds = (int,) if isinstance(default, int) else (int, float)
        return type(value) in kinds and abs(value) <= _LARGEST
    return True
