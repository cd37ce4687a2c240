"""Where the pairs of a batch are processed, and which part of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_busref.data.pairing import Pair

__all__ = ["LOCAL", "Shard", "check_scheduler", "check_shard", "parse_shard"]

#: A scheduler and workers on this computer.
LOCAL = "local"


@dataclass(frozen=True)
class Shard:
    """One of several parts of the pairs, each for a process of its own.

    Parameters
    ----------
    number, count : int
        From 1 to `count`.
    """

    number: int
    count: int

    @property
    def label(self) -> str:
        """For names of files."""
        return f"{self.number}of{self.count}"

    def of(self, pairs: list[Pair]) -> list[Pair]:
        """Every `count`-th pair, from `number` on."""
        return pairs[self.number - 1 :: self.count]


def parse_shard(value: str | None) -> Shard | None:
    """Read a shard such as ``2/8``.

    Raises
    ------
    ValueError
        When it is no such text.
    """
    if value is None:
        return None
    number, _, count = value.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard: got {value}, need I/N, such as 2/8, with I from 1 to N")
    return Shard(int(number), int(count))


def check_shard(value: str | None) -> str | None:
    """Return a shard as given, or raise as `parse_shard`."""
    parse_shard(value)
    return value


def check_scheduler(value: str | None) -> str | None:
    """Return a scheduler as given.

    Raises
    ------
    ValueError
        Unless it is ``local``, ``local:N``, an address, or a file that ends in ``.json``.
    """
    if value is None or value.endswith(".json") or "://" in value:
        return value
    name, _, count = value.partition(":")
    if name == LOCAL and (value == LOCAL or (count.isdecimal() and int(count) > 0)):
        return value
    raise ValueError(
        f"--scheduler: got {value}, need local, local:N, an address such as tcp://HOST:8786, or "
        "the .json file of a scheduler"
    )
