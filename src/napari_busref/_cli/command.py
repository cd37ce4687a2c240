"""What every command has: how much to print, and defaults from the environment and files."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from napari_busref._cli import options, reading
from napari_busref._cli.console import set_verbosity
from napari_busref._cli.defaults import Default, Key, defaults_of, files

#: From each command to its keys in files of defaults.
KEYS: dict[str, dict[str, Key]] = {}

_PREFIX = "NAPARI_BUSREF"
_PANEL = "Options of every command"
_CONFIG, _NO_CONFIG = "napari_busref.config", "napari_busref.no_config"


def _set_verbosity(ctx: typer.Context, value: bool | None) -> bool | None:
    if value is not None and not ctx.resilient_parsing:
        set_verbosity(value)
    return value


def _forget_files(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.meta[_NO_CONFIG] = True
        ctx.default_map = None
    return value


def _read_files(ctx: typer.Context, value: Path | None) -> Path | None:
    """Set the command's defaults from files before its other options are read."""
    if value is not None:
        ctx.meta[_CONFIG] = value
    command = ctx.info_name or ""
    if command in KEYS and not ctx.resilient_parsing:
        found = file_defaults(ctx, command)
        for parameter in ctx.command.params:
            if parameter.name in found:
                _check(found[parameter.name], parameter, ctx)
        ctx.default_map = {name: default.value for name, default in found.items()}
    return value


NoConfig = Annotated[
    bool,
    typer.Option(
        "--no-config",
        help="Read no file of defaults.",
        is_eager=True,
        callback=_forget_files,
        rich_help_panel=_PANEL,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read defaults from this file alone, instead of busref.toml.",
        is_eager=True,
        envvar=f"{_PREFIX}_CONFIG",
        show_envvar=False,
        callback=_read_files,
        rich_help_panel=_PANEL,
    ),
]
Verbose = Annotated[
    bool | None,
    typer.Option(
        "--verbose/--quiet",
        "-v/-q",
        help="Print each step, or only errors and what programs read.",
        is_eager=True,
        show_default=False,
        callback=_set_verbosity,
        rich_help_panel=_PANEL,
    ),
]
# `verbose` is last: a file may set it
_COMMON: dict[str, Any] = {"no_config": NoConfig, "config": Config, "verbose": Verbose}
_VALUES = {"no_config": False, "config": None, "verbose": None}


def command(function: Callable[..., None], *, defaults: bool = True) -> Callable[..., None]:
    """Add the common options to a command, and defaults from the environment to its own.

    Parameters
    ----------
    function : callable
        With a parameter for each argument and option, annotated as typer takes them.
    defaults : bool
        The environment and files may set the defaults of its options.

    Returns
    -------
    callable
        `function` with further parameters, which it does not receive.
    """
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    hints |= _COMMON
    if defaults:
        own_name = function.__name__.replace("_", "-")  # as typer names it
        KEYS[own_name] = {}
        for name in [name for name in hints if name not in ("no_config", "config")]:
            hints[name] = _from_environment(own_name, name, hints[name])
    parameters = [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in signature.parameters.values()
    ]
    parameters += [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name]
        )
        for name, default in _VALUES.items()
    ]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        function(**{key: value for key, value in values.items() if key not in _COMMON})

    del run.__wrapped__  # typer would follow it to the signature without the common options
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def file_defaults(ctx: typer.Context, name: str) -> dict[str, Default]:
    """Read the defaults of a command from the files that the command line chooses."""
    if ctx.meta.get(_NO_CONFIG):
        return {}
    return defaults_of(name, files(ctx.meta.get(_CONFIG)), KEYS)


def _check(default: Default, parameter: Any, ctx: typer.Context) -> None:
    """Check a value of a file as the command line would.

    Raises
    ------
    ValueError
        Naming the file and the key.
    """
    value = default.value
    try:
        if parameter.is_bool_flag != isinstance(value, bool):
            raise ValueError(
                f"got {value!r}, need {'true or false' if parameter.is_bool_flag else 'a value'}"
            )
        if not isinstance(value, str | int | float | list) or (
            isinstance(value, list) and not parameter.multiple
        ):
            raise ValueError(f"got {value!r}, need one number or text")
        if not parameter.is_eager:
            parameter.process_value(ctx, value)
    except (typer.BadParameter, ValueError, TypeError) as error:
        message = getattr(error, "message", str(error)).removeprefix(f"{parameter.name}: ")
        raise ValueError(f"{default.path}: {default.key}: {message}") from None


def _option(annotation: Any) -> OptionInfo | None:
    found = (one for one in typing.get_args(annotation) if isinstance(one, OptionInfo))
    return next(found, None)


# the options that several commands import, and so mean the same in all of them
_SHARED = [
    _option(value)
    for names in (vars(options), vars(reading), _COMMON)
    for value in names.values()
    if typing.get_origin(value) is Annotated
]


def _from_environment(command: str, parameter: str, annotation: Any) -> Any:
    """The annotation of an option with its environment variables; note its keys."""
    info = _option(annotation)
    if info is None:
        return annotation
    # in an annotation, typer keeps the first name as the default
    names = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    flag = next((one for one in names if one.startswith("--")), parameter)
    own = flag.split("/")[0].removeprefix("--").replace("-", "_")
    shared = ""
    if any(info is one for one in _SHARED):
        shared = options.TABLED.get(id(info), own)
        KEYS[command][shared] = Key(parameter, shared=True)
    KEYS[command].setdefault(own, Key(parameter, shared=False))
    changed = copy.copy(info)
    variables = [f"{command}_{own}", *([shared] if shared else [])]
    changed.envvar = [f"{_PREFIX}_{name}".upper().replace("-", "_") for name in variables]
    changed.show_envvar = False
    return Annotated[typing.get_args(annotation)[0], changed]
