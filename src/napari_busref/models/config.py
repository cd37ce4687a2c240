"""Base class of the networks' configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class PlainConfig:
    """A configuration on a card or in a recipe."""

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Build from the values of a card or a recipe, which hold tuples as lists."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**plain)
