"""The architecture page names every room, and files that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "napari_busref"
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text("utf-8")
CHANGES = re.findall(r"^\| (?!\*\*)([^|]+) \| `([^`|]+)` \|$", PAGE, re.MULTILINE)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]


def layers() -> list[set[str]]:
    """The rooms from top to bottom, as the import contract has them."""
    contract = next(one for one in CONTRACTS["contracts"] if "Rooms" in one["name"])
    return [{room.strip() for room in line.split("|")} for line in contract["layers"]]


def test_every_file_for_a_change_exists() -> None:
    assert not [path for _, path in CHANGES if not (PACKAGE / path).is_file()]


def test_at_least_28_changes_are_listed_once_each() -> None:
    assert len({change for change, _ in CHANGES}) == len(CHANGES) >= 28
    assert len({path for _, path in CHANGES}) == len(CHANGES)


def test_every_room_has_a_change_in_the_table() -> None:
    rooms = {path.split("/")[0].removesuffix(".py") for _, path in CHANGES}
    assert set().union(*layers()) <= rooms


def test_every_room_of_the_package_is_drawn() -> None:
    rooms = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    } - {"__init__", "__main__", "weights"}
    drawn = set(re.findall(r'^\s+(\w+)\["', PAGE, re.MULTILINE))
    assert rooms == set().union(*layers())
    assert rooms <= drawn


def test_the_drawing_has_the_rooms_in_the_order_of_the_contract() -> None:
    drawing = PAGE.split("```mermaid\n")[1]
    groups = {
        name: re.findall(r"^        (\w+(?: --> \w+)+)$", body, re.MULTILINE)
        or [re.findall(r'^\s+(\w+)\["', body, re.MULTILINE)[0]]
        for name, body in re.findall(r"subgraph (\w+) .*\n((?:        .*\n)+)    end", drawing)
    }
    ((chain,),) = [re.findall(r"^    (\w+(?: --> \w+)+)$", drawing.split("```")[0], re.MULTILINE)]
    order = [
        room
        for name in chain.split(" --> ")
        for room in groups.get(name, [name])[0].split(" --> ")
    ]
    assert len(order) == len(layers())
    assert all(room in layer for room, layer in zip(order, layers(), strict=True))


def test_every_file_named_in_the_way_of_a_pair_exists() -> None:
    section = PAGE.split("## The way of a pair")[1].split("## Where")[0]
    for name in re.findall(r"\b([\w/]+\.py)", section):
        assert (PACKAGE / name).is_file() or (PACKAGE / "registration" / name).is_file(), name
