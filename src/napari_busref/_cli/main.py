"""The command line ``napari-busref``.

Exit codes: 0 success, 1 some pairs of a folder failed, 2 bad input (one line names the argument
and the accepted values), 130 cancelled with Ctrl+C.
"""

from __future__ import annotations

from typing import Annotated

import typer

from napari_busref._cli import config as config_command
from napari_busref._cli import convert, demo, finetuning, measure, process, training
from napari_busref._cli.command import Config, NoConfig, Verbose, command
from napari_busref._cli.console import FriendlyGroup, out

app = typer.Typer(
    name="napari-busref",
    cls=FriendlyGroup,
    help="Register and fuse infrared-visible and other multi-modal image pairs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from napari_busref import __version__

        out().print(f"napari-busref {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show errors with their full traceback.")
    ] = False,
    no_config: NoConfig = False,
    config: Config = None,
    verbose: Verbose = None,
) -> None:
    """Options before the command."""


for function in (
    process.register,
    process.fuse,
    process.run,
    process.apply,
    convert.convert,
    measure.evaluate,
    training.train,
    training.train_queue,
    finetuning.finetune,
    measure.models,
    demo.demo,
):
    app.command()(command(function))
app.add_typer(config_command.app)


def main() -> None:
    """Run the command line; the entry point of the installed ``napari-busref``."""
    app()


if __name__ == "__main__":
    main()
