"""Base class of the networks' configurations, and the largest sizes in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

_LARGEST = 2048  # width of a layer
_LIMITS = {
    **{"radius": 32, "dilation": 64, "stride": 16, "attention_stride": 16},
    **dict.fromkeys(("sides", "affine_sides", "deformable_sides"), 1024),
}
_PASSES = 32


def check_sizes(config: Mapping[str, Any]) -> None:
    """Refuse sizes that take too much time or memory, before a network is built.

    Raises
    ------
    ValueError
        For a number that is not positive or too large, and for too many.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(value)
        limit = _LIMITS.get(name, _LARGEST)
        numbers = value if isinstance(value, list | tuple) else [value]
        small = all(0 < n <= limit for n in numbers if type(n) in (int, float))
        if not small or len(numbers) > _PASSES:
            text = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:60]} ..."
            raise ValueError(
                f"model.{name}: got {text}, need positive numbers up to {limit}, at most {_PASSES}"
            )


@dataclass(frozen=True)
class PlainConfig:
    """A configuration on a card or in a recipe."""

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Build from the values of a card or a recipe, which hold tuples as lists.

        Raises
        ------
        ValueError
            For an unknown name, for a value of another type than the default's, and as
            `check_sizes`.
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
                raise ValueError(f"model.{name}: got {value!r}, need {kind}")
        check_sizes(plain)
        return cls(**plain)


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has the type of the default."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_fits(v, default[0]) for v in value if default)
    return type(value) in ((int, float) if type(default) is float else (type(default),))
