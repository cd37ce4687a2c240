"""Defaults of options from files: ``busref.toml``, ``pyproject.toml``, and one for the user."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FILE", "Default", "Key", "defaults_of", "files"]

#: Name of a file of defaults, in the working folder and in the user's configuration folder.
FILE = "busref.toml"
_PYPROJECT = "pyproject.toml"
_TABLE = "napari-busref"  # of [tool] in pyproject.toml


@dataclass(frozen=True)
class Key:
    """An option under the name that files of defaults use.

    Attributes
    ----------
    parameter : str
        Of the command's function.
    shared : bool
        The option means the same in several commands. Outside tables it counts for all of them.
    """

    parameter: str
    shared: bool


@dataclass(frozen=True)
class Default:
    """A default of one option.

    Attributes
    ----------
    value : object
        As the file has it.
    key, path : str and Path
        Where it stands: ``search`` or ``register.search``, and the file.
    """

    value: Any
    key: str
    path: Path


def files(chosen: Path | None = None) -> list[Path]:
    """Find the files of defaults; a later one overrides an earlier one.

    Parameters
    ----------
    chosen : Path, optional
        Read only this file.

    Raises
    ------
    FileNotFoundError
        When there is no chosen file.
    """
    if chosen is not None:
        if not chosen.is_file():
            raise FileNotFoundError(f"--config: no such file: {chosen}")
        return [chosen]
    import platformdirs

    user = platformdirs.user_config_path("napari-busref", appauthor=False) / FILE
    return [path for path in (user, Path(_PYPROJECT), Path(FILE)) if path.is_file()]


def defaults_of(
    command: str, paths: list[Path], keys: Mapping[str, Mapping[str, Key]]
) -> dict[str, Default]:
    """Collect the defaults of one command, by the parameter of its function.

    A key in the table of a command counts for it alone. A key outside tables counts for every
    command that shares its option.

    Parameters
    ----------
    command : str
    paths : list of Path
        From `files`.
    keys : mapping
        From a command to its keys.

    Raises
    ------
    ValueError
        Naming the file and the key that is unknown.
    """
    found: dict[str, Default] = {}
    for path in paths:
        general, own = {}, {}
        for table, name, value in _entries(path, keys):
            if table == command:
                own[keys[command][name].parameter] = Default(value, f"{table}.{name}", path)
            elif table is None and name in keys[command] and keys[command][name].shared:
                general[keys[command][name].parameter] = Default(value, name, path)
        found |= general | own
    return found


def _entries(
    path: Path, keys: Mapping[str, Mapping[str, Key]]
) -> Iterator[tuple[str | None, str, Any]]:
    """Table (None outside), key and value of every line, with known keys only."""
    shared = {name for known in keys.values() for name, key in known.items() if key.shared}
    for name, value in _read(path).items():
        key = name.replace("-", "_")
        if isinstance(value, dict):
            if name not in keys:
                raise ValueError(f"{path}: [{name}]: no such command, need one of {_list(keys)}")
            for inner, inner_value in value.items():
                plain = inner.replace("-", "_")
                if plain not in keys[name]:
                    raise _unknown(path, f"{name}.{inner}", keys[name])
                yield name, plain, inner_value
        elif key in shared:
            yield None, key, value
        else:
            raise _unknown(path, name, shared)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if path.name == _PYPROJECT:  # of another tool, perhaps
            return {}
        raise ValueError(f"{path}: is no TOML file: {error}") from None
    if path.name != _PYPROJECT:
        return values
    table = values.get("tool", {}).get(_TABLE, {})
    return table if isinstance(table, dict) else {}


def _unknown(path: Path, name: str, known: Any) -> ValueError:
    return ValueError(f"{path}: {name}: no such option, need one of {_list(known)}")


def _list(names: Any) -> str:
    return ", ".join(sorted(names))
